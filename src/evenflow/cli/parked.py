"""parked list: what is set aside, or how much of what."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from evenflow import operate
from evenflow.cli.failures import Code, UsageError
from evenflow.cli.looking import looking
from evenflow.cli.output import duration, narrowed, out_json, say, stamp, table
from evenflow.cli.parked_options import chosen, given
from evenflow.parking import Parked
from evenflow.running import Running

_HEAD = ("GROUP", "LANE", "TYPE", "STATE", "TRIES", "SINCE", "ERROR")
_KEEP = (10, 8, 8, 13, 5, 7, 16)
"""The least width of each column."""


def list_parked(options: Namespace) -> int:
    """One line per parked event, or per value of --by."""
    if options.named and options.group and options.group != options.named:
        raise UsageError(f"{options.group!r} and --group {options.named!r} are two groups", remedy="give one of them")
    if options.by is not None:
        return _counted(options)

    async def work(running: Running) -> tuple[operate.Page, float]:
        return await operate.find(running, chosen(options), options.limit), running.clock.now()

    found, now = looking(options, work)
    if options.json:
        out_json([document(each) for each in found.events])
    elif found.events:
        _table(found.events, now)
    else:
        say("nothing is parked" if not given(options) and options.state is None else "nothing that is parked fits")
    if found.more is not None:
        say(f"these are the first {options.limit:,}; --limit N shows more")
    return Code.DONE


def _table(found: Sequence[Parked], now: float) -> None:
    rows = [
        (
            each.group, each.key if each.key is not None else each.lane, each.envelope.type, state_of(each, now),
            str(each.attempts), duration(max(0.0, now - (each.first_failed or each.parked))), _first_line(each.error),
        )
        for each in found
    ]  # fmt: skip
    table(_HEAD, narrowed(_HEAD, rows, _KEEP), ["red" if each.dead else "" for each in found])


# -- counts -----------------------------------------------------------------------------------------------------------


_NONE = {"fingerprint": "(none)", "key": "(no key)"}


def _counted(options: Namespace) -> int:
    async def work(running: Running) -> tuple[list[operate.Count], float]:
        return await operate.count_by(running, options.by, chosen(options), options.limit + 1), running.clock.now()

    found, now = looking(options, work)
    more, found = len(found) > options.limit, found[: options.limit]
    if options.json:
        out_json([{**each._asdict(), "oldest": stamp(each.oldest)} for each in found])
    elif found:
        _counts(options, found, now)
    else:
        say("nothing that is parked fits" if given(options) else "nothing is parked")
    if more:
        say(f"these are the first {options.limit:,}; --limit N shows more")
    return Code.DONE


def _counts(options: Namespace, found: Sequence[operate.Count], now: float) -> None:
    by = options.by
    head = ["GROUP", by.upper(), "DEAD", "RETRYING", "BEHIND", "OLDEST", "ERROR"]
    rows = [
        [each.group, each.value if each.value is not None else _NONE.get(by, ""), f"{each.dead:,}",
         f"{each.retrying:,}", f"{each.behind:,}", duration(max(0.0, now - each.oldest)), _first_line(each.error)]
        for each in found
    ]  # fmt: skip
    keep = [10, 8, 4, 8, 6, 7, 16]
    if by == "group":
        for each in (head, keep, *rows):
            del each[1]
    table(head, narrowed(head, rows, keep))


def state_of(parked: Parked, now: float) -> str:
    if parked.behind:
        return "behind"
    if parked.due is None:
        return "dead letter"
    if parked.wish:
        return f"{parked.wish} asked"
    return f"due in {duration(max(0.0, parked.due - now))}" if parked.due > now else "due"


def _first_line(error: str | None) -> str:
    return (error or "").partition("\n")[0]


def document(parked: Parked) -> dict[str, Any]:
    envelope = parked.envelope
    return {
        "group": parked.group,
        "topic": parked.topic,
        "key": parked.key,
        "lane": parked.lane,
        "partition": parked.partition,
        "offset": parked.offset,
        "id": envelope.id,
        "source": envelope.source,
        "type": envelope.type,
        "version": envelope.version,
        "dead": parked.dead,
        "behind": parked.behind,
        "due": stamp(parked.due),
        "attempts": parked.attempts,
        "error": parked.error,
        "error_type": parked.error_type,
        "first_failed": stamp(parked.first_failed),
        "failed": stamp(parked.failed),
        "parked": stamp(parked.parked),
        "content_type": envelope.content_type,
        "data": envelope.data.decode(errors="replace"),
    }
