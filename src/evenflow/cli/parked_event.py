"""parked show."""

from __future__ import annotations

import shlex
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import msgspec

from evenflow import operate
from evenflow.cli.audit import recorded
from evenflow.cli.failures import Code, UsageError
from evenflow.cli.looking import looking
from evenflow.cli.output import fitted, out, out_json, paint, stamp, table, when
from evenflow.cli.parked import document, state_of
from evenflow.cli.remedies import runnable
from evenflow.envelope import Envelope
from evenflow.parking import Parked
from evenflow.running import Running


def show(options: Namespace) -> int:
    """The head of a lane in full, its history, and what waits behind it."""
    if bool(options.lane) == bool(options.offset):
        raise UsageError(
            "say which: LANE or --offset",
            remedy="`evenflow parked list` shows lanes: `evenflow parked show GROUP LANE`",
        )
    place = _place(options.offset) if options.offset else None

    async def work(running: Running) -> tuple[operate.LaneDetail, Parked, operate.Story, float]:
        lane = options.lane
        if place is not None:
            lane = await operate.lane_at(running, options.group, *place)
        found = await operate.lane(running, options.group, lane)
        shown = next((each for each in found.events if place is not None and each.offset == place[0]), found.events[0])
        return found, shown, await operate.story(running, shown), running.clock.now()

    found, shown, story, now = looking(options, work)
    if options.json:
        behind = [document(each) for each in found.events if each is not shown]
        out_json({**document(shown), **_more(story), "lane_size": found.count, "others": behind})
        return Code.DONE
    title = f"{shown.envelope.type}  {state_of(shown, now)}"
    out(paint(title, "red" if shown.dead else "bold"))
    for name, text in _facts(shown, now):
        lines = text.splitlines() or [""]
        out(f"  {paint(name.ljust(11), 'dim')}  {lines[0]}")
        for line in lines[1:]:
            out(f"               {line}")
    _edited(story)
    _history(story)
    _others(found, shown, now)
    if shown.dead and not shown.wish:
        for verb in ("rehearse", "edit", "redrive", "discard")[not story.rehearsable :]:
            out(runnable(f"  → {_next(verb, shown)}", options.app))
    return Code.DONE


def _next(verb: str, shown: Parked) -> str:
    lane = shlex.quote(shown.key if shown.key is not None else shown.lane)
    if verb == "edit":
        return f"evenflow parked edit {shown.group} {lane} --editor"
    return f"evenflow parked {verb} {shown.group} --lane {lane}"


def _more(story: operate.Story) -> dict[str, Any]:
    """What a list does not show."""
    envelope, original = story.letter.envelope, story.letter.original
    return {
        "headers": envelope.headers or {},
        "event": decoded(envelope),
        "correlation": envelope.correlation,
        "causation": envelope.causation,
        "fingerprint": story.letter.fingerprint,
        "edited": original is not None,
        "original": None if original is None else decoded(original),
        "history": [{**asdict(each), "at": stamp(each.at)} for each in story.attempts],
        "asked": [{**asdict(each), "at": stamp(each.at)} for each in story.touches],
    }


def _edited(story: operate.Story) -> None:
    original = story.letter.original
    if original is None:
        return
    out("\nits payload was edited:")
    changes = operate.changed(decoded(original), decoded(story.letter.envelope))
    fitted(("FIELD", "WAS", "IS"), changes)


def _history(story: operate.Story) -> None:
    if story.attempts:
        out(f"\nattempts that failed: {len(story.attempts):,}")
        fitted(
            ("#", "WHEN", "WHERE", "ALIKE", "ERROR"),
            [
                (str(each.attempt), stamp(each.at, short=True), each.process, each.fingerprint[:8], first_line(each))
                for each in story.attempts
            ],
        )
    if story.touches:
        out("\nwhat people have asked:")
        recorded([(each.at, each.who, each.what, "", each.detail) for each in story.touches])


def first_line(attempt: operate.Attempt) -> str:
    return attempt.error.partition("\n")[0] or attempt.error_type


def _place(text: str) -> tuple[int, int | None]:
    """OFFSET, or PARTITION/OFFSET."""
    partition, _, offset = text.rpartition("/")
    if not offset.isdigit() or not (partition.isdigit() or not partition):
        raise UsageError(f"--offset {text!r} is no place in a log", remedy="use OFFSET, or PARTITION/OFFSET")
    return int(offset), int(partition) if partition else None


def _facts(each: Parked, now: float) -> Iterator[tuple[str, str]]:
    envelope = each.envelope
    yield "group", each.group
    yield "place", f"{each.topic}/{each.partition}, offset {each.offset}"
    yield "key", each.key if each.key is not None else f"none (lane {each.lane})"
    yield "id", f"{envelope.id} from {envelope.source}"
    yield "version", str(envelope.version)
    if envelope.correlation:
        yield "correlation", f"{envelope.correlation}, caused by {envelope.causation}"
    yield "published", _time(envelope.time, now)
    if each.first_failed is not None:
        yield "failed", f"first {_time(each.first_failed, now)}"
        if each.failed != each.first_failed and each.failed is not None:
            yield "", f"last  {_time(each.failed, now)}"
    yield "attempts", str(each.attempts)
    if each.due is not None and not each.behind:
        yield "due", _time(each.due, now)
    if each.wish:
        yield "asked for", each.wish
    for name, value in (envelope.headers or {}).items():
        yield ("trace", value) if name == "traceparent" else ("header", f"{name}: {value}")
    yield "event", text_of(envelope)
    if each.error:
        yield "error", each.error


def _time(seconds: float, now: float) -> str:
    return f"{stamp(seconds, short=True)} ({when(seconds, now)})"


def _others(found: operate.LaneDetail, shown: Parked, now: float) -> None:
    others = [each for each in found.events if each is not shown]
    if not others:
        return
    what = "what waits behind it" if shown is found.events[0] else "the others of its lane"
    out(f"\n{what}: {found.count - 1:,}")
    rows = [(f"{e.topic}/{e.partition}", e.offset, e.envelope.type, e.envelope.id, state_of(e, now)) for e in others]
    table(("PLACE", "OFFSET", "TYPE", "ID", "STATE"), rows)
    if found.count > len(found.events):
        out(f"… and {found.count - len(found.events):,} more")


def decoded(envelope: Envelope) -> Any:
    """The payload as plain values, or None where it is of a form that only the app knows."""
    try:
        if envelope.content_type == "application/msgpack":
            return msgspec.to_builtins(msgspec.msgpack.decode(envelope.data))
        return msgspec.json.decode(envelope.data)
    except (msgspec.DecodeError, UnicodeDecodeError, TypeError):
        return None


def text_of(envelope: Envelope) -> str:
    """The payload for a person."""
    value = decoded(envelope)
    if value is not None:
        return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    if envelope.data.isascii() and envelope.data.decode().isprintable():
        return envelope.data.decode()
    return f"{len(envelope.data):,} bytes of {envelope.content_type}: {envelope.data[:60].hex(' ')}"
