"""What became of an app since its description was committed: what lasts, and whether old events can still be read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from evenflow.cli.readable import obstacles
from evenflow.describe import FORMAT

Facts = Mapping[str, Any]

_SAYS = {"topics": "topic", "events": "event", "groups": "group", "schedules": "schedule"}
_FREE = {"class", "publishes", "start", "reads", "cron", "tz", "every", "missed"}
"""What may change: names in code, what a handler returns, where a group began when it was new, when a schedule runs."""

_MEANS = {
    "partitions": "a new generation of the topic, which groups read when they have finished the old one",
    "retention": "events may go sooner than others count on",
    "key": "events of before and after are in no order with each other",
    "topic": "groups that read the old topic get no more of it",
    "compacted": "only the latest event of each key is kept, or no longer only that",
    "kind": "the promise to its effects is another",
}


def differences(committed: Facts, now: Facts) -> list[str]:
    """What lasts and is not as it was committed, a line each."""
    if committed.get("evenflow") != FORMAT:
        return [f"the committed description is of format {committed.get('evenflow')!r}, this version writes {FORMAT}"]
    found = [line for part, word in _SAYS.items() for line in _part(word, committed.get(part, {}), now.get(part, {}))]
    if committed.get("app") != now.get("app"):
        found.append(
            f"app {_short(committed.get('app'))} is called {_short(now.get('app'))}: its events have a new source"
        )
    return found


def _part(word: str, before: Facts, now: Facts) -> Iterator[str]:
    gone, new = sorted(set(before) - set(now)), sorted(set(now) - set(before))
    for name in sorted({*before, *now}):
        if name in gone:
            yield f"{word} {name!r} is gone{_gone(word, name, before, new, now)}"
        elif name in new:
            yield f"{word} {name!r} is new"
        else:
            lines = list(_facts(f"{word} {name!r}", before[name], now[name]))
            verdict = _verdict(before[name], now[name]) if lines and word == "event" else ""
            yield from lines[:-1]
            yield from [f"{line}\n  → {verdict}" if verdict else line for line in lines[-1:]]


def _gone(word: str, name: str, before: Facts, new: list[str], now: Facts) -> str:
    if word == "event":
        return ": events of it that are in a topic already are skipped"
    if word == "schedule":
        return ": it does not run any more, and what is left of its runs is not handled"
    likely = [each for each in new if word == "group" and now[each].get("events") == before[name].get("events")]
    if likely:
        return f"; if it is called {likely[0]!r} now: evenflow groups rename {name} {likely[0]}, or it begins anew"
    return ""


def _facts(what: str, before: Facts, now: Facts) -> Iterator[str]:
    for fact in sorted({*before, *now}, key=lambda each: list(now).index(each) if each in now else len(now)):
        if fact == "schema":
            yield from _shape(what, before, now)
        elif fact not in _FREE and before.get(fact) != now.get(fact):
            means = f": {_MEANS[fact]}" if fact in _MEANS and before.get(fact) is not None else ""
            yield f"{what}: {fact} was {_short(before.get(fact))} and is {_short(now.get(fact))}{means}"
    if now.get("version", 0) == before.get("version") and now.get("reads", 0) > before.get("reads", 2**31):
        yield f"{what}: an upcaster is gone"


def _verdict(before: Facts, now: Facts) -> str:
    """Whether events that are in topics already can be read. What cannot be read is a dead letter."""
    was, reads = before["version"], now.get("reads", now["version"])
    first = before.get("reads", was)
    if now["version"] < was:
        return f"events of version {was} are newer than this code: they are parked until it is up to date again"
    if reads > first:
        versions = f"version {first}" if reads - 1 == first else f"versions {first} to {reads - 1}"
        return f"old events cannot be read: there is no upcaster from {versions}"
    if now["version"] > was:
        return "old events remain readable, by its upcasters"
    reasons = obstacles(before.get("schema", {}), now.get("schema", {}))
    return f"old events cannot all be read: {'; '.join(reasons)}" if reasons else "old events remain readable"


def _shape(what: str, before: Facts, now: Facts) -> Iterator[str]:
    old, new = before.get("schema", {}), now.get("schema", {})
    if old == new:
        return
    raised = before.get("version") != now["version"]
    reasons = [] if raised else obstacles(old, new)
    was, fields = old.get("properties", {}), new.get("properties", {})
    for field in sorted({*was, *fields}):
        hint = _hint(field, reasons)
        if field not in fields:
            yield f"{what}: the field {field!r} is gone"
        elif field not in was and field in new.get("required", ()):
            yield f"{what}: the field {field!r} is new and has no default{hint}"
        elif field not in was:
            yield f"{what}: the field {field!r} is new"
        elif field in new.get("required", ()) and field not in old.get("required", ()):
            yield f"{what}: the field {field!r} has no default any more{hint}"
        elif was[field] != fields[field]:
            yield f"{what}: the field {field!r} was {_short(was[field])} and is {_short(fields[field])}{hint}"
    if old.get("$defs") != new.get("$defs"):
        hint = "; raise version= and give an upcaster" if reasons else ""
        yield f"{what}: a class that it holds has another shape{hint}"


def _hint(field: str, reasons: list[str]) -> str:
    breaks = any(reason.startswith((f"{field} ", f"{field}.", f"{field}[")) for reason in reasons)
    return "; raise version= and give an upcaster" if breaks else ""


def _short(value: Any) -> str:
    if value is None:
        return "not set"
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
