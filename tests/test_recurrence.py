"""When something recurs: tables of the clock changes, and what holds for any line, interval and time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenflow.schedules.recurrence import Recurrence, flaw_of_line, flaw_of_zone

BERLIN, NEW_YORK, LORD_HOWE = "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"


def unix(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def times(line: str, tz: str, start: str, count: int) -> list[str]:
    """The next times, with the offset of the zone then."""
    found, recurrence, at = [], Recurrence(line, tz), unix(start)
    for _ in range(count):
        following = recurrence.after(at)
        assert following is not None
        at = following
        found.append(recurrence.moment(at).isoformat(" ", "minutes"))
    return found


@pytest.mark.parametrize(
    ("tz", "line", "start", "expected"),
    [
        # Europe/Berlin, spring: 02:00 to 03:00 does not exist on 29 March 2026
        (BERLIN, "0 7 * * *", "2026-03-28T12:00Z", ["2026-03-29 07:00+02:00", "2026-03-30 07:00+02:00"]),
        (BERLIN, "30 2 * * *", "2026-03-28T12:00Z", ["2026-03-29 03:00+02:00", "2026-03-30 02:30+02:00"]),
        (BERLIN, "0,30 2 * * *", "2026-03-28T12:00Z", ["2026-03-29 03:00+02:00", "2026-03-30 02:00+02:00"]),
        (BERLIN, "30 2,3 * * *", "2026-03-28T12:00Z", ["2026-03-29 03:00+02:00", "2026-03-29 03:30+02:00"]),
        (BERLIN, "0 2,3 * * *", "2026-03-28T12:00Z", ["2026-03-29 03:00+02:00", "2026-03-30 02:00+02:00"]),
        (BERLIN, "0 * * * *", "2026-03-29T00:30Z", ["2026-03-29 03:00+02:00", "2026-03-29 04:00+02:00"]),
        (BERLIN, "*/30 * * * *", "2026-03-29T00:30Z", ["2026-03-29 03:00+02:00", "2026-03-29 03:30+02:00"]),
        # autumn: 02:00 to 03:00 comes twice on 25 October 2026
        (BERLIN, "0 7 * * *", "2026-10-24T12:00Z", ["2026-10-25 07:00+01:00", "2026-10-26 07:00+01:00"]),
        (BERLIN, "30 2 * * *", "2026-10-24T12:00Z", ["2026-10-25 02:30+02:00", "2026-10-26 02:30+01:00"]),
        (BERLIN, "30 2 * * *", "2026-10-25T00:40Z", ["2026-10-26 02:30+01:00", "2026-10-27 02:30+01:00"]),
        (BERLIN, "50 2 * * *", "2026-10-25T01:40Z", ["2026-10-26 02:50+01:00", "2026-10-27 02:50+01:00"]),
        (BERLIN, "0 * * * *", "2026-10-24T23:30Z", ["2026-10-25 02:00+02:00", "2026-10-25 02:00+01:00"]),
        # America/New_York: 8 March and 1 November 2026
        (NEW_YORK, "30 2 * * *", "2026-03-07T12:00Z", ["2026-03-08 03:00-04:00", "2026-03-09 02:30-04:00"]),
        (NEW_YORK, "0 9 * * MON-FRI", "2026-03-06T15:00Z", ["2026-03-09 09:00-04:00", "2026-03-10 09:00-04:00"]),
        (NEW_YORK, "30 1 * * *", "2026-10-31T12:00Z", ["2026-11-01 01:30-04:00", "2026-11-02 01:30-05:00"]),
        (NEW_YORK, "0 0 * * *", "2026-10-31T12:00Z", ["2026-11-01 00:00-04:00", "2026-11-02 00:00-05:00"]),
        # half an hour, and in the other half of the year
        (LORD_HOWE, "15 2 * * *", "2026-10-02T16:30Z", ["2026-10-04 02:30+11:00", "2026-10-05 02:15+11:00"]),
        # no changes at all
        ("UTC", "30 2 * * *", "2026-03-28T12:00Z", ["2026-03-29 02:30+00:00", "2026-03-30 02:30+00:00"]),
        # the calendar
        (BERLIN, "0 0 29 2 *", "2026-03-01T00:00Z", ["2028-02-29 00:00+01:00", "2032-02-29 00:00+01:00"]),
        (BERLIN, "0 12 L * *", "2026-01-31T12:00Z", ["2026-02-28 12:00+01:00", "2026-03-31 12:00+02:00"]),
        (BERLIN, "0 12 1 * MON", "2026-06-01T10:00Z", ["2026-06-08 12:00+02:00", "2026-06-15 12:00+02:00"]),
    ],
)
def test_a_line_follows_the_clocks_of_its_zone(tz: str, line: str, start: str, expected: list[str]) -> None:
    assert times(line, tz, start, 2) == expected


@pytest.mark.parametrize("tz", [BERLIN, NEW_YORK, LORD_HOWE])
def test_a_daily_run_has_one_run_for_each_date_of_three_years(tz: str) -> None:
    recurrence, at, end = Recurrence("30 2 * * *", tz), unix("2026-01-01T12:00Z"), unix("2029-01-01T12:00Z")
    dates = []
    while (at := recurrence.after(at) or end) < end:
        dates.append(recurrence.moment(at).date())
    assert [b - a for a, b in pairwise(dates)] == [timedelta(days=1)] * (len(dates) - 1)
    assert len(dates) > 1090


LINES = st.sampled_from(
    [
        "* * * * *",
        "*/7 * * * *",
        "30 2 * * *",
        "0,59 1-3 * * *",
        "5 */2 * * *",
        "0 0 1 * *",
        "15 3 * * SUN",
        "0 2,3 L * *",
    ]
)
ZONES = st.sampled_from([BERLIN, NEW_YORK, LORD_HOWE, "UTC", "Africa/Casablanca", "Asia/Kathmandu", "America/Santiago"])
MOMENTS = st.floats(unix("2020-01-01T00:00Z"), unix("2040-01-01T00:00Z"))


@given(LINES, ZONES, MOMENTS)
@settings(max_examples=200, deadline=None)
def test_the_times_of_a_line_rise_strictly_and_none_is_skipped(line: str, tz: str, start: float) -> None:
    recurrence, found = Recurrence(line, tz), [start]
    for _ in range(5):
        following = recurrence.after(found[-1])
        assert following is not None
        found.append(following)
    assert all(a < b for a, b in pairwise(found)), found
    for earlier, later in pairwise(found[1:]):  # whoever looks in between finds the same next one
        assert recurrence.after((earlier + later) / 2) == later


@given(LINES, ZONES, MOMENTS, st.integers(1, 20), st.integers(1, 30))
@settings(max_examples=100, deadline=None)
def test_what_was_missed_is_what_would_have_run(line: str, tz: str, start: float, count: int, limit: int) -> None:
    recurrence, found = Recurrence(line, tz), list[float]()
    for _ in range(count):
        found.append(recurrence.after(found[-1] if found else start) or 0.0)
    assert recurrence.until(found[0], found[-1], limit) == found[-limit:]
    assert recurrence.until(found[0], found[-1] + 0.5, limit) == found[-limit:]


@given(st.floats(0.1, 1e6).map(lambda s: round(s, 3)), MOMENTS, st.floats(0, 1e8))
@settings(max_examples=300, deadline=None)
def test_an_interval_keeps_its_phase(seconds: float, anchor: float, passed: float) -> None:
    anchor = round(anchor, 3)
    recurrence = Recurrence(seconds=seconds, anchor=anchor)
    first = recurrence.after(anchor + passed)
    assert first is not None
    second = recurrence.after(first)
    assert second is not None
    assert 0 < first - (anchor + passed) <= seconds + 0.001
    assert round((first - anchor) * 1000) % round(seconds * 1000) == 0
    assert round((second - first) * 1000) == round(seconds * 1000)
    assert recurrence.until(first, second, 5) == [first, second]
    assert recurrence.until(first, second, 1) == [second]
    assert recurrence.until(first, first, 5) == [first]


@given(st.floats(0.1, 1e4).map(lambda s: round(s, 3)), MOMENTS, st.floats(0, 1e5), st.floats(0, 1e5))
@settings(max_examples=300, deadline=None)
def test_a_first_time_out_of_phase_counts_as_one(seconds: float, anchor: float, first: float, more: float) -> None:
    recurrence, start = Recurrence(seconds=seconds, anchor=round(anchor, 3)), round(anchor + first, 3)
    found = recurrence.until(start, start + more, 10)
    assert 1 <= len(found) <= 10
    assert all(start <= a < b <= start + more for a, b in pairwise(found))
    assert len(found) == 10 or found[0] == start


def test_a_long_gap_is_counted_up_to_the_limit() -> None:
    recurrence, first = Recurrence("* * * * *", BERLIN), unix("2026-01-01T00:00Z")
    found = recurrence.until(first, first + 365 * 86400, 1000)
    assert len(found) == 1000
    assert found[-1] == first + 365 * 86400
    assert found[0] == found[-1] - 999 * 60
    assert len(Recurrence(seconds=0.1, anchor=first).until(first, first + 365 * 86400, 1000)) == 1000


@pytest.mark.parametrize(
    ("line", "flaw"),
    [
        ("0 0 30 2 *", "never fires"),
        ("0 0 31 2,4,6 *", "never fires"),
        ("", "is not five fields"),
        ("0 7 * *", "is not five fields"),
        ("0 0 7 * * *", "is not five fields"),
        ("@daily", "is not five fields"),
        ("60 * * * *", "has a wrong minute"),
        ("* 24 * * *", "has a wrong hour"),
        ("* * 0 * *", "has a wrong day-of-month"),
        ("* * * FOO *", "has a wrong month"),
        ("* * * * MON#6", "has a wrong day-of-week"),
        ("* * * * 1#2/2", "has a wrong day-of-week"),
        ("*/0 * * * *", "has a wrong minute"),
        ("٣ * * * *", "has a wrong minute"),
    ],
)
def test_a_wrong_line_is_told(line: str, flaw: str) -> None:
    found = flaw_of_line(line)
    assert found is not None
    assert found[0] == flaw
    assert found[1]


@pytest.mark.parametrize(
    "line", ["0 7 * * *", "*/15 7-18 * * MON-FRI", "0 0 29 2 *", "0 0 L * *", "0 0 LW * *", "0 0 * 2 MON#5"]
)
def test_a_right_line_is_taken(line: str) -> None:
    assert flaw_of_line(line) is None


@pytest.mark.parametrize(
    ("tz", "remedy"),
    [("berlin", "did you mean Europe/Berlin?"), ("Europe/Berlinn", "did you mean Europe/Berlin?"), ("x", "write its name"),
     ("../../etc/passwd", "write its name"), ("", "write its name"), (None, "write its name"), (["UTC"], "did you mean UTC?")],
)  # fmt: skip
def test_a_wrong_zone_is_told(tz: object, remedy: str) -> None:
    found = flaw_of_zone(tz)
    assert found is not None
    assert remedy in found[1]


def test_a_system_without_time_zones_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evenflow.schedules.recurrence.available_timezones", set)
    found = flaw_of_zone("Mars/Olympus")
    assert found is not None
    assert "knows no time zones" in found[0]
    assert "tzdata" in found[1]


def test_utc_needs_no_time_zones() -> None:
    assert Recurrence("0 7 * * *").moment(0.0) == datetime(1970, 1, 1, tzinfo=UTC)
    assert ZoneInfo(BERLIN) is not None
