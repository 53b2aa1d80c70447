"""When something recurs: by a cron line in a time zone, or every so many seconds. Pure functions of times.

Times are Unix times. A cron line follows the wall clock of its zone, as Debian's cron does: what is to run at a time
that a change of the clocks skips runs right after it, once; what is to run at a time that comes twice runs the first
time; with a star for the hour or the minute it runs whenever the time that passes shows such a wall time.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from functools import cache, lru_cache
from math import floor
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, available_timezones

from evenflow.errors import MissingExtra

if TYPE_CHECKING:
    from cronsim import CronSim

SHORTEST = 0.1
"""Seconds between two runs at least."""
LONGEST = 100 * 365 * 86400.0
FIELDS = "minute hour day-of-month month day-of-week"
_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Recurrence:
    """A cron line with its zone, or an interval in seconds that counts from `anchor`."""

    line: str = ""
    tz: str = "UTC"
    seconds: float = 0.0
    anchor: float = 0.0

    def after(self, time: float) -> float | None:
        """The first time that is later than this one; None when there is none within fifty years."""
        return _cron_after(self.line, self.tz, time) if self.line else self._every_after(time)

    def until(self, first: float, end: float, limit: int) -> list[float]:
        """The last times up to `end`, at most so many, in order; `first`, which is not after `end`, is the first."""
        if not self.line:
            step, last = _ms(self.seconds), _ms(self._every_after(end)) - _ms(self.seconds)
            count = min(limit, (last - _ms(self._every_after(first))) // step + 1)
            later = [(last - step * back) / 1000 for back in range(count - 1, -1, -1)]
            return later if count == limit else [first, *later]
        span = _HOUR
        while True:
            start = end - span
            found = [first] if first > start else []
            time = self.after(max(start, first))
            while time is not None and time <= end:
                found.append(time)
                time = self.after(time)
            if len(found) >= limit or first > start:
                return found[-limit:]
            span *= 4 if found else 24

    def _every_after(self, time: float) -> float:
        step, now = _ms(self.seconds), floor(time * 1000)
        found = now + step - (now - _ms(self.anchor)) % step
        return found / 1000 if found / 1000 > time else (found + step) / 1000

    def moment(self, time: float) -> datetime:
        """The time as a person of this zone sees it."""
        return datetime.fromtimestamp(time, _zone(self.tz))

    def __str__(self) -> str:
        return f"{self.line} {self.tz}" if self.line else f"every {self.seconds:g} s"


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _cron_after(line: str, tz: str, time: float) -> float | None:
    """Looks on until the time has passed in truth: in a change of the clocks the library may give one twice."""
    for moment in _cron(line, tz, datetime.fromtimestamp(time, _zone(tz))):
        found = moment.timestamp()
        if found > time:
            return found
    return None


def _cron(line: str, tz: str, start: datetime) -> CronSim:
    try:
        from cronsim import CronSim
    except ImportError as error:
        raise MissingExtra("a cron line", extra="cron") from error
    return CronSim(line, start if tz != "UTC" else start.replace(tzinfo=UTC))


@cache
def _zone(tz: str) -> tzinfo:
    return UTC if tz == "UTC" else ZoneInfo(tz)


# -- what a person wrote ----------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def flaw_of_line(line: str) -> tuple[str, str] | None:
    """What is wrong with a cron line, and what to do about it. Raises `MissingExtra`."""
    if len(line.split()) != 5:
        return "is not five fields", f"write {FIELDS}, as in '0 7 * * *'; for seconds use every"
    try:
        if _cron_after(line, "UTC", 0.0) is None:
            return "never fires", "there is no such date; write one that exists"
    except MissingExtra:
        raise
    except Exception as error:
        name = str(error).removeprefix("Bad ") if str(error).startswith("Bad ") else "field"
        if name == "day-of-month" and _exists(line):
            return "never fires", "there is no such date; write one that exists"
        return f"has a wrong {name}", f"write {FIELDS}, as in '*/15 7-18 * * MON-FRI'"
    return None


def _exists(line: str) -> bool:
    """Whether the line would be right in any month: its date exists in none of those that it names."""
    minute, hour, day, _month, weekday = line.split()
    try:
        return _cron_after(f"{minute} {hour} {day} * {weekday}", "UTC", 0.0) is not None
    except Exception:
        return False


def flaw_of_zone(tz: Any) -> tuple[str, str] | None:
    """What is wrong with the name of a time zone."""
    try:
        _zone(tz)
    except Exception:
        from evenflow.settings_sources import suggestion

        zones = available_timezones()
        if not zones:
            return f"has tz={tz!r}, and this system knows no time zones", "pip install tzdata, or 'evenflow[cron]'"
        near = sorted(each for each in zones if each.lower().endswith(f"/{tz}".lower()))
        hint = f"did you mean {near[0]}?" if near else suggestion(str(tz), zones)
        return f"has tz={tz!r}, which is no time zone", hint or "write its name, as Europe/Berlin"
    return None
