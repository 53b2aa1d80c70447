"""Figures: how rounds become a line, where they are kept, and that the page says what they say."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from bench import machine, page, results
from bench.arrivals import _moments, latencies
from bench.cases.consuming import growth
from bench.cases.every import every
from bench.measuring import cpu_of_all, percentile
from bench.processes import Plan
from bench.rounds import in_turns, line


def test_the_page_shows_the_kept_figures() -> None:
    shown = results.PAGE.read_text("utf-8")
    assert page.filled(shown, results.load()) == shown, "docs/bench.md is not made from bench/results/latest.json"


def test_a_changed_figure_changes_the_page() -> None:
    found = results.load()
    case = next(each for each in found["cases"].values() if "lines" in each)
    case["lines"][0]["ours"]["median"] = 123_456_789
    shown = results.PAGE.read_text("utf-8")
    assert "123,456,789" in page.filled(shown, found)
    assert "123,456,789" not in shown


@pytest.mark.parametrize("text", ["no place", f"{page.BEGIN}{page.END}" * 2])
def test_a_page_without_one_place_for_the_figures_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="place"):
        page.filled(text, {"machine": {}, "versions": {}, "cases": {}})


def a_case(ours: float, name: str = "publish-one") -> dict[str, Any]:
    measured = [{"rate": ours, "cpu_us": 2.0, "memory": 40.0}]
    at = {"time": "2026-01-02T03:04:05Z", "load": 0.1, "fsync_ms": 0.2}
    return {name: {"kind": "publish", "place": 0, "at": at, "lines": [line(name, measured, measured)]}}


def kept(tmp_path: Path) -> tuple[Path, Path]:
    shown = tmp_path / "bench.md"
    shown.write_text(f"before\n{page.BEGIN}old{page.END}\nafter\n", "utf-8")
    return tmp_path / "latest.json", shown


def test_what_was_found_joins_the_other_figures_and_the_page_is_made_from_it(tmp_path: Path) -> None:
    latest, shown = kept(tmp_path)
    results.keep(a_case(1000.0), fresh=True, latest=latest, shown=shown)
    results.keep(a_case(2000.0, "publish-100"), fresh=False, latest=latest, shown=shown)
    assert set(json.loads(latest.read_text("utf-8"))["cases"]) == {"publish-one", "publish-100"}
    text = shown.read_text("utf-8")
    assert page.filled(text, results.load(latest)) == text
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    for part in (
        "| publish-one | 1,000/s | 1,000/s | **1.00** | 1.00, 1.00 | 2.00 / 2.00 | 40.0 / 40.0 |",
        "2,000/s",
        "Measured 2026-01-02 on",
    ):
        assert part in text, text
    results.keep(a_case(3000.0), fresh=True, latest=latest, shown=shown)
    assert set(results.load(latest)["cases"]) == {"publish-one"}


def test_figures_of_two_machines_are_not_put_into_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    latest, shown = kept(tmp_path)
    results.keep(a_case(1000.0), fresh=True, latest=latest, shown=shown)
    monkeypatch.setattr(results, "machine", lambda: {**machine.machine(), "cores": 999})
    with pytest.raises(SystemExit, match="another machine"):
        results.keep(a_case(2000.0), fresh=False, latest=latest, shown=shown)
    assert results.load(latest)["machine"]["cores"] != 999


def test_what_was_left_out_is_said_on_the_page() -> None:
    (case,) = a_case(1.0).values()
    del case["lines"]
    found = {"machine": machine.machine(), "versions": {}, "cases": {"rival-x": {**case, "left_out": "no server"}}}
    assert "Left out here:\n\n- `rival-x`: no server" in page.tables(found)
    failed = {**case, "failed": "AssertionError: an effect is missing"}
    assert "- `publish-x`: AssertionError: an effect is missing" in page.tables(
        {"machine": machine.machine(), "versions": {}, "cases": {"publish-x": failed}}
    )


def test_the_page_tells_what_ours_takes_more_and_what_the_workers_left_to_the_servers() -> None:
    (case,) = a_case(1000.0).values()
    case["own_share_us"] = 2.345
    case["lines"][0]["cores"] = [[1.96, 1.44], [1.5, 0.9]]
    text = page.tables({"machine": machine.machine(), "versions": {}, "cases": {"kafka-workers": case}})
    assert "| CPU more, us |" in text
    assert "| 2.3 |" in text
    assert "| 2.0: 1.4, 1.5: 0.9 |" in text


def test_cases_measured_on_servers_have_a_place_on_the_page() -> None:
    assert {case.kind for case in every().values()} <= set(page.KINDS)


def test_what_the_whole_machine_does_is_counted() -> None:
    before, until = cpu_of_all(), time.process_time() + 0.1
    while time.process_time() < until:
        pass
    assert cpu_of_all() - before >= 0.08


def test_the_ratio_is_the_median_of_rounds_and_above_one_where_ours_is_better() -> None:
    def rates(*values: float) -> list[dict[str, Any]]:
        return [{"rate": value, "ms": value} for value in values]

    more = line("x", rates(50, 60, 99), rates(100, 100, 100))
    assert (more["ratio"], more["ratios"]) == (0.6, [0.5, 0.99])
    less = line("x", rates(50, 60, 99), rates(100, 100, 100), figure="ms", unit="ms")
    assert less["ratio"] == pytest.approx(100 / 60)


def test_a_short_plan_has_two_rounds_at_most_and_a_quick_one_has_one() -> None:
    assert [Plan(short=True).turns(usual) for usual in (1, 2, 5)] == [1, 2, 2]
    assert [Plan().turns(5), Plan(rounds=9).turns(5), Plan(quick=True, rounds=9).turns(5)] == [5, 9, 1]


def test_who_begins_changes_from_round_to_round() -> None:
    order: list[str] = []

    def once(who: str) -> Any:
        return lambda: order.append(who) or {"rate": len(order)}

    in_turns(3, once("a"), once("b"), once("c"))
    assert "".join(order) == "abcbcacab"
    order.clear()

    ours, twin = in_turns(3, once("ours"), once("twin"))
    assert order == ["ours", "twin", "twin", "ours", "ours", "twin"]
    assert [each["rate"] for each in ours] == [1, 4, 5]
    assert [each["rate"] for each in twin] == [2, 3, 6]


@pytest.mark.parametrize(("percent", "expected"), [(50, 500), (99, 990), (99.9, 999), (100, 1000), (0, 1)])
def test_a_percentile_is_a_value_that_was_measured(percent: float, expected: int) -> None:
    assert percentile(list(range(1000, 0, -1)), percent) == expected


def test_latencies_are_milliseconds() -> None:
    found = latencies([0.001] * 99 + [0.5])
    assert (found["p50_ms"], found["p99_ms"], found["most_ms"]) == (1.0, 1.0, 500.0)


def test_arrivals_are_the_same_for_both_sides_and_as_many_per_second_as_asked() -> None:
    moments = _moments(10_000, 500.0, seed=3)
    assert moments == sorted(moments) == _moments(10_000, 500.0, seed=3)
    assert moments[-1] == pytest.approx(20.0, rel=0.1)
    assert _moments(3, 0, seed=1) == [0.0, 0.0, 0.0]


def test_growth_compares_the_last_third_with_the_one_before() -> None:
    assert growth([90.0, 90.0, 50.0, 50.0, 57.0, 57.0]) == 7.0
    assert growth([40.0]) == 0.0
