"""Every case of the bench works: each once with tiny sizes, with all its own checks of what was kept."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from bench import results, text
from bench.__main__ import main
from bench.cases import rivals
from bench.cases.every import every
from bench.catalogue import Case, LeftOut
from bench.processes import Plan

ROOT = Path(__file__).parents[2]
CASES = every()
PROMISED = {
    *("publish-one", "publish-100", "publish-1000", "publish-list"),
    *("transaction-one", "transaction-100", "transaction-1000"),
    *("consume-transactional", "consume-empty", "consume-batch", "consume-waiting", "consume-publish-on"),
    *("partitions-1", "partitions-8", "partitions-64", "keys-10", "keys-100000"),
    *("backlog-10k", "backlog-1m", "backlog-5m"),
    *("two-processes", "latency", "idle-cpu", "start-up", "due-others", "due-late"),
    *("parked-transactional", "parked-waiting", "parked-redrive", "parked-1m"),
    *("rival-faststream-memory", "rival-faststream-redis", "rival-faststream-lists"),
    *("rival-huey-sqlite", "rival-huey-redis"),
    *("rival-kafka-publish", "rival-kafka-consume", "rival-kafka-effects", "rival-kafka-awaited"),
    "rival-kafka-publish-on",
    *(f"{engine}-publish-{way}" for engine in ("kafka", "postgres") for way in ("one", "100", "500", "list")),
    *(
        f"{engine}-{what}"
        for engine in ("kafka", "postgres")
        for what in (
            "consume",
            "consume-plain",
            "effects",
            "effects-awaited",
            "publish-on",
            "1m",
            "latency",
            "workers",
            "idle",
        )
    ),
}
ON_SERVERS = {
    *("kafka-publish-500", "postgres-publish-list", "kafka-effects", "postgres-consume", "kafka-publish-on"),
    *("postgres-publish-on", "kafka-1m", "kafka-latency", "kafka-workers", "postgres-workers", "postgres-idle"),
    *("rival-kafka-publish", "rival-kafka-publish-on"),
}
"""One for each function of theirs: all of them would take minutes."""
SERVERS = ("kafka-", "postgres-", "rival-kafka-")
"""What the names of cases begin with that need a server of the services room."""


def measured_here(name: str) -> bool:
    return name in ON_SERVERS or not (CASES[name].apart or name.startswith(SERVERS))


def bench(*given: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *given]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What all cases but the longest find in quick mode, of those with servers some. Nothing that is kept may change."""
    place = tmp_path_factory.mktemp("bench")
    kept = results.LATEST.read_bytes(), results.PAGE.read_bytes()
    os.environ["BENCH_FOLDER"] = str(place)
    try:
        done = bench("--quick", "--json", *(name for name in CASES if measured_here(name)))
    finally:
        del os.environ["BENCH_FOLDER"]
    assert done.returncode == 0, done.stderr
    assert (results.LATEST.read_bytes(), results.PAGE.read_bytes()) == kept
    assert list(place.iterdir()) == [], "a measurement has left something behind"
    return json.loads(done.stdout)


def test_the_cases_are_these() -> None:
    assert set(CASES) == PROMISED
    assert [name for name, case in CASES.items() if case.apart] == [
        "backlog-5m",
        "parked-1m",
    ]


@pytest.mark.parametrize("name", list(filter(measured_here, CASES)))
def test_a_case_works(name: str, found: dict[str, Any]) -> None:
    case = found[name]
    if "left_out" in case:
        if name.startswith(SERVERS):
            assert not all(
                map(find_spec, ("faststream", "asyncpg", "aiokafka", "confluent_kafka"))
            ) or "make services" in str(case)
            return
        assert name.startswith("rival-")
        redis = name.endswith(("redis", "lists"))
        packages = rivals.HUEY if "huey" in name else rivals.FASTSTREAM
        assert any(find_spec(each) is None for each in packages) or (redis and not shutil.which("redis-server"))
        return
    assert case["kind"] == CASES[name].kind
    for line in case["lines"]:
        for side in (line["ours"], line.get("twin", line["ours"])):
            assert math.isfinite(side["median"])
            assert side["spread"][0] <= side["median"] <= side["spread"][1]
        assert line["ours"]["median"] > 0
        if "twin" in line:
            assert line["ratios"][0] <= line["ratio"] <= line["ratios"][1]
            assert line["beside"]
    first = case["lines"][0]
    last = f"ratio {first['ratio']:.2f}" if "ratio" in first else first["unit"]
    assert list(text.lines(case))[-1].endswith(last)


def test_one_case_prints_its_ratio_last_and_keeps_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    before = results.LATEST.read_bytes()
    assert main(["--quick", "publish-list"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("ratio ")
    assert float(last.removeprefix("ratio ")) > 0
    assert results.LATEST.read_bytes() == before


def test_the_list_has_all_and_an_unknown_one_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(CASES)
    assert main(["no-such-case"]) == 2
    assert "no-such-case" in capsys.readouterr().err


def test_a_rival_that_is_not_there_is_left_out_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LeftOut, match="no-such-package"):
        rivals.needs(("json", "no-such-package"))
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(rivals, "needs", lambda packages: None)
    with pytest.raises(LeftOut, match="no redis-server on PATH"):
        CASES["rival-huey-redis"].measure(Plan(quick=True))


def test_a_case_that_fails_is_told_the_others_run_and_nothing_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(plan: Plan) -> Any:
        raise AssertionError("an effect is missing")

    def works(plan: Plan) -> Any:
        return {"left_out": "it ran"}

    cases = {name: Case(name, "publish", name, measure) for name, measure in (("a", fails), ("b", works))}
    monkeypatch.setattr("bench.__main__.every", lambda: cases)
    kept: list[Any] = []
    monkeypatch.setattr(results, "keep", lambda found, *, fresh: kept.append((found, fresh)))
    assert main([]) == 1
    told = capsys.readouterr()
    assert "an effect is missing" in told.err
    assert told.err.endswith("failed: a; nothing was kept\n")
    assert "it ran" in told.out
    assert kept == []
    assert main(["--keep"]) == 1
    ((found, fresh),) = kept
    assert fresh
    assert found["a"]["failed"] == "AssertionError: an effect is missing"
    assert found["b"]["left_out"] == "it ran"


def test_a_run_that_was_ended_early_keeps_what_it_has_found_when_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ends(plan: Plan) -> Any:
        raise KeyboardInterrupt

    works = {"left_out": "it ran"}
    cases = {
        name: Case(name, "publish", name, made) for name, made in (("a", lambda _: works), ("b", ends), ("c", ends))
    }
    monkeypatch.setattr("bench.__main__.every", lambda: cases)
    kept: list[Any] = []
    monkeypatch.setattr(results, "keep", lambda found, *, fresh: kept.append(found))
    assert main([]) == 1
    assert kept == []
    assert main(["--keep"]) == 1
    assert [list(found) for found in kept] == [["a"]]
    assert "not measured: b, c" in capsys.readouterr().err


def test_who_cannot_keep_is_told_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    measured: list[Plan] = []
    cases = {"a": Case("a", "publish", "a", lambda plan: measured.append(plan) or {"left_out": "it ran"})}
    monkeypatch.setattr("bench.__main__.every", lambda: cases)
    kept: list[bool] = []
    monkeypatch.setattr(results, "keep", lambda found, *, fresh: kept.append(fresh))
    latest = tmp_path / "latest.json"
    latest.write_text(json.dumps({"machine": {"cores": 999}, "versions": {"apsw": "1"}, "cases": {}}), "utf-8")
    monkeypatch.setattr(results.refuse_strangers, "__defaults__", (latest,))
    with pytest.raises(SystemExit, match="cores was 999.*apsw was 1.*--anew"):
        main(["a", "--keep"])
    assert measured == []
    assert main(["a", "--anew"]) == 0
    assert (len(measured), kept) == (1, [True])
    assert "it ran" in capsys.readouterr().out
