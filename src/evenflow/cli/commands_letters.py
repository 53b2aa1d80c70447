"""Commands for single dead letters: look at one, mend it, try it out, carry it; and the audit of what was done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evenflow.cli.command import Command, count, json, yes

if TYPE_CHECKING:
    from argparse import ArgumentParser


def _show(parser: ArgumentParser) -> None:
    parser.add_argument("--offset", metavar="O", help="by its place in the log: OFFSET, or PARTITION/OFFSET")
    json(parser)


def _edit(parser: ArgumentParser) -> None:
    how = parser.add_argument_group("how")
    how.add_argument("--set", action="append", metavar="FIELD=VALUE", help="this field; repeatable")
    how.add_argument("--file", metavar="F", help="all of the payload, as JSON; - for stdin")
    how.add_argument("--editor", action="store_true", help="open it in $VISUAL or $EDITOR")
    how.add_argument("--restore", action="store_true", help="put the first payload back")
    parser.add_argument("--topic", metavar="T", help="where the key is parked of several topics")
    parser.add_argument("--reason", metavar="TEXT", help="kept in the audit")
    parser.add_argument("--dry-run", action="store_true", help="show what would differ, and whether it would be taken")
    json(parser)


def _letters(parser: ArgumentParser) -> None:
    from evenflow.cli.letters_meant import letters

    letters(parser)


def _rehearse(parser: ArgumentParser) -> None:
    _letters(parser)
    parser.add_argument("--limit", type=count, default=1000, metavar="N", help="at most N lanes; 1000 by default")
    parser.add_argument("--depth", type=count, default=100, metavar="N", help="at most N of a lane; 100 by default")
    parser.add_argument("--trust", action="store_true", help="nothing that the handler asks for reaches outside")
    parser.add_argument("--verbose", action="store_true", help="name those that would pass, too")
    json(parser)


def _export(parser: ArgumentParser) -> None:
    _letters(parser)
    parser.add_argument("--to", metavar="FILE", help="a new file, in place of stdout")
    parser.add_argument("--remove", action="store_true", help="move dead letters out, with all behind them")
    yes(parser)


def _import(parser: ArgumentParser) -> None:
    parser.add_argument("--group", dest="named", metavar="G", help="of this group alone, where the file has several")
    parser.add_argument("--late", action="store_true", help="also after later events of their keys were handled")
    parser.add_argument("--partly", action="store_true", help="take back what can come back, leave out the rest")
    parser.add_argument("--dry-run", action="store_true", help="say what would come back; change nothing")


def _audit(parser: ArgumentParser) -> None:
    parser.add_argument("--service", metavar="S", help="of this service alone")
    parser.add_argument("--since", metavar="TIME", help="how long ago (2h, 3d), or a time with its zone")
    parser.add_argument("--subject", metavar="TEXT", help="whose subject holds this: a group, a key")
    parser.add_argument("--limit", type=count, default=100, metavar="N", help="at most so many; 100 by default")
    json(parser)


LETTERS = (
    Command(
        "parked show", "one parked event in full", ("GROUP", "LANE?"), "parked_event:show",
        "LANE is the key, or the lane that `parked list` shows. Its payload, headers, trace, ids and times, the whole\n"
        "error, each attempt that failed (when, where, how; ALIKE is the same for errors that are alike), what people\n"
        "have asked, and what waits behind it. --json holds all of it uncut.",
        "evenflow parked show shop:app billing.charge 4711\n"
        "evenflow parked show shop:app billing.charge --offset 3/1200 --json",
        _show,
    ),
    Command(
        "parked edit", "give a dead letter another payload", ("GROUP", "LANE"), "parked_edit:edit",
        "For a dead letter at rest. FIELD may go deep (lines.0.article). A field of text takes VALUE as it is, any\n"
        "other takes it as JSON; FIELD:=JSON says exactly what. The event class of the handler has to be able to\n"
        "read it. The key cannot change, the id stays, and the first payload is kept: --restore puts it back. Nothing\n"
        "is tried again before `parked redrive`.",
        "evenflow parked edit shop:app billing.charge 4711 --set customer=Ada --set total=12.50 --reason 'typo'\n"
        "evenflow parked edit shop:app billing.charge 4711 --editor\n"
        "evenflow parked edit shop:app billing.charge 4711 --restore",
        _edit,
    ),
    Command(
        "parked rehearse", "try dead letters out, and take it back", ("GROUP",), "parked_rehearse:rehearse",
        "Runs them through the code at hand, each lane in order in a transaction that is rolled back, and tells which\n"
        "would pass now. Nothing is changed, nothing is published. For handlers with a transaction of their own; one\n"
        "that asks for more, or blocks, needs --trust. One that is seen to wait for anything but its transaction is\n"
        "ended there, and the rehearsal too. What only a commit shows is not seen. Exit 1 when one would not pass.",
        "evenflow parked rehearse shop:app billing.charge\n"
        "evenflow parked rehearse shop:app billing.charge --error KeyError --limit 50 --json",
        _rehearse,
    ),
    Command(
        "parked export", "write parked events to a file", ("GROUP",), "parked_carry:export",
        "JSON, a line each, in whole lanes: all that is parked, or the lanes of the dead letters that are meant. With\n"
        "--remove dead letters leave the store, with all that waits behind them; what comes of their keys later is\n"
        "handled without them. `parked import` can bring them back, each once. A waiting group has to be paused then.",
        "evenflow parked export shop:app billing.charge > parked.jsonl\n"
        "evenflow parked export shop:app billing.charge --older 7d --remove --to old.jsonl",
        _export,
    ),
    Command(
        "parked import", "bring back what was moved out", ("FILE",), "parked_carry:bring_back",
        "Events that `parked export --remove` moved out of this store come back as dead letters, to the places that\n"
        "they had. Refused are those that are there, or were brought back already, since they may have been handled;\n"
        "those that were changed in the file; those whose keys have gone on, unless --late says that they may come\n"
        "after. It may run meanwhile; a waiting group has to be paused.",
        "evenflow parked import shop:app old.jsonl --dry-run\nevenflow parked import shop:app old.jsonl --partly",
        _import,
    ),
    Command(
        "audit list", "what was done by hand", (), "audit:list_audit",
        "Who has done what to groups, parked events, schedules and stores, the latest first.",
        "evenflow audit list shop:app --since 2d\nevenflow audit list shop:app --subject billing.charge --json",
        _audit,
    ),
)  # fmt: skip
