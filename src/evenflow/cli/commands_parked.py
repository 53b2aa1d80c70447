"""Commands for what is parked: look at it, redrive or discard it as an operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from evenflow.cli.command import Command, count, json, yes

if TYPE_CHECKING:
    from argparse import ArgumentParser


def _filters(parser: ArgumentParser) -> None:
    from evenflow.cli.parked_options import filters

    filters(parser)


def _list(parser: ArgumentParser) -> None:
    parser.add_argument("--group", dest="named", metavar="G", help="of this group alone, as GROUP")
    parser.add_argument(
        "--by", choices=["fingerprint", "type", "key", "age", "group"], help="count them by %(choices)s, do not list"
    )
    parser.add_argument("--state", choices=["dead", "retrying", "behind"], help="only what is %(choices)s")
    _filters(parser)
    parser.add_argument("--limit", type=count, default=100, metavar="N", help="at most so many; 100 by default")
    json(parser)


def _which(parser: ArgumentParser) -> None:
    parser.add_argument("--lane", metavar="L", help="the dead letter of this key, or of the lane that the list shows")
    parser.add_argument("--all", action="store_true", help="all dead letters of the group")
    _filters(parser)


def _how(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--rate", type=_positive, metavar="N", help="at most N keys a second; what waits behind follows"
    )
    parser.add_argument("--batch", type=count, metavar="N", help="at most N keys under way at once; 200 by default")
    parser.add_argument("--reason", metavar="TEXT", help="why; kept in the audit")
    parser.add_argument("--dry-run", action="store_true", help="say what it would do, change nothing")
    parser.add_argument("--wait", action="store_true", help="follow it to its end; exit 1 when not all went well")
    json(parser)


def _redrive(parser: ArgumentParser) -> None:
    _which(parser)
    parser.add_argument("--canary", type=count, metavar="N", help="the first N have to pass before the rest follows")
    parser.add_argument(
        "--stop-above", type=_percent, metavar="PERCENT", help="stop when more of those decided have failed"
    )
    _how(parser)


def _discard(parser: ArgumentParser) -> None:
    _which(parser)
    _how(parser)
    yes(parser)


def _operations(parser: ArgumentParser) -> None:
    parser.add_argument("--open", action="store_true", help="only those that have not ended")
    parser.add_argument("--limit", type=count, default=20, metavar="N", help="at most so many; 20 by default")
    json(parser)


def _positive(text: str) -> float:
    return _number(text, lambda found: 0 < found < 1e9, "is no rate: use more than 0 keys a second")


def _percent(text: str) -> float:
    return _number(text.rstrip("% "), lambda found: 0 <= found < 100, "is no share: use 0 to 99.9")


def _number(text: str, fits: Callable[[float], bool], wrong: str) -> float:
    from argparse import ArgumentTypeError

    try:
        found = float(text)
    except ValueError:
        found = float("nan")
    if not fits(found):
        raise ArgumentTypeError(f"{text!r} {wrong}")
    return found


PARKED = (
    Command(
        "parked list", "what failed and is set aside", ("GROUP?",), "parked:list_parked",
        "A dead letter waits for a person; a retry has a due time; what is behind waits for an earlier one of its\n"
        "key.\n\nWith --by it counts: by fingerprint tells what kinds of errors there are, with an example of each.",
        "evenflow parked list shop:app\n"
        "evenflow parked list shop:app billing.charge --by fingerprint\n"
        "evenflow parked list shop:app billing.charge --error TimeoutError --newer 2h --json",
        _list,
    ),
    Command(
        "parked redrive", "put dead letters back in line", ("GROUP?",), "redriving:redrive",
        "The process that owns the partition tries them again, in order; what waits behind them follows. Of many it\n"
        "is an operation: the set is what is seen now, the running service goes on with it batch by batch, also over\n"
        "restarts. `evenflow operations list` shows how far it is. One that fails again counts when its retries are\n"
        "used up.",
        "evenflow parked redrive shop:app billing.charge --lane 4711\n"
        "evenflow parked redrive shop:app billing.charge --all --dry-run\n"
        "evenflow parked redrive shop:app --error TimeoutError --canary 5 --stop-above 10 --rate 50 --wait",
        _redrive,
    ),
    Command(
        "parked discard", "give dead letters up", ("GROUP?",), "redriving:discard",
        "They are removed, and what waits behind them goes on. An operation as with `parked redrive`; it is noted in\n"
        "the store's audit.",
        "evenflow parked discard shop:app billing.charge --lane 4711 --reason 'a test order'\n"
        "evenflow parked discard shop:app billing.charge --fingerprint 3f9a --older 7d",
        _discard,
    ),
    Command(
        "operations list", "redrives and discards, and how far they are", (), "operations:list_operations",
        "One line for each, the latest first.",
        "evenflow operations list shop:app\nevenflow operations list shop:app --open --json",
        _operations,
    ),
    Command(
        "operations show", "one operation in full", ("OPERATION",), "operations:show",
        "Who asked for it, when, why and how; how far it is; which have failed again.",
        "evenflow operations show shop:app billing/3",
        json,
    ),
    Command(
        "operations pause", "let an operation ask for no more", ("OPERATION",), "operations:pause",
        "What is under way goes on; the rest waits until it is resumed.",
        "evenflow operations pause shop:app billing/3",
        json,
    ),
    Command(
        "operations resume", "let a paused operation go on", ("OPERATION",), "operations:resume",
        "It goes on where it was.",
        "evenflow operations resume shop:app billing/3",
        json,
    ),
    Command(
        "operations cancel", "end an operation", ("OPERATION",), "operations:cancel",
        "What is under way goes on; the rest stays parked as it is.",
        "evenflow operations cancel shop:app billing/3",
        json,
    ),
)  # fmt: skip
