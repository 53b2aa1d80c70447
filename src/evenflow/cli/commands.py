"""The commands there are, as data: `evenflow --help` needs no more than this."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from evenflow.cli.output import paint

if TYPE_CHECKING:
    from argparse import ArgumentParser

Options = Callable[["ArgumentParser"], None]

APP_HELP = """\
APP is module:attribute (shop:app) or path/to/file.py:app. Without it, the one that `app` in [tool.evenflow] of
pyproject.toml names, or EVENFLOW_APP."""


class Command(NamedTuple):
    """One command. `words` are its positional arguments after APP, the last one of "…?" may be left out.

    `run` is "module:function" below evenflow.cli, called with the parsed options.
    """

    name: str
    line: str
    words: tuple[str, ...]
    run: str
    text: str
    examples: str
    options: Options = lambda _: None
    app: bool = True


def _json(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON document")


def _yes(parser: ArgumentParser) -> None:
    parser.add_argument("--yes", "-y", action="store_true", help="do not ask")


def _run(parser: ArgumentParser) -> None:
    parser.add_argument("--service", action="append", metavar="S", help="handle only for this service; repeatable")
    parser.add_argument("--drain", type=_seconds, metavar="SECONDS", help="how long a stop may take (setting: drain)")
    parser.add_argument("--until-idle", action="store_true", help="stop when all is handled that can be handled now")
    parser.add_argument("--log", choices=("text", "json"), help="form of the log; json where stderr is no terminal")


def _check(parser: ArgumentParser) -> None:
    parser.add_argument("--contract", metavar="FILE", help="a committed `describe --json` to compare with")
    _json(parser)


def _describe(parser: ArgumentParser) -> None:
    forms = ("text", "mermaid", "json", "asyncapi")
    parser.add_argument("--format", choices=forms, default="text", help="one of %(choices)s; text by default")
    parser.add_argument("--json", dest="format", action="store_const", const="json", help="short for --format json")


def _seek(parser: ArgumentParser) -> None:
    parser.add_argument("--to", required=True, metavar="WHERE", help="beginning, end, a time with zone, or offsets")
    _yes(parser)


def _parked_list(parser: ArgumentParser) -> None:
    parser.add_argument("--group", metavar="G", help="of this group alone")
    parser.add_argument("--limit", type=_count, default=100, metavar="N", help="at most so many; 100 by default")
    _json(parser)


def _lane(parser: ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--lane", metavar="L", help="the key, or the lane that `parked list` shows")
    which.add_argument("--all", action="store_true", help="all dead letters of the group")


def _discard(parser: ArgumentParser) -> None:
    _lane(parser)
    _yes(parser)


def _publish(parser: ArgumentParser) -> None:
    parser.add_argument("--after", type=_seconds, metavar="SECONDS", help="keep it in an outbox until then")
    parser.add_argument("--service", metavar="S", help="whose outbox keeps it, where there are several")


COMMANDS = (
    Command(
        "run", "handle events until it is told to stop", (), "run:run",
        "Opens engine and stores, prints what is promised for each group, and handles events until SIGTERM or Ctrl-C.\n"
        "Then it fetches no more, finishes what is in flight, and closes; a second Ctrl-C ends it at once.\n"
        "Exit 0 after a clean stop, 7 when the drain ran out: what was left is done again at the next start.",
        "evenflow run shop:app\n"
        "evenflow run shop:app --service billing --drain 10\n"
        "EVENFLOW_ENGINE=sqlite:////srv/log.db evenflow run shop:app\n"
        "evenflow run shop:app --until-idle          in a script: handle what there is, then stop",
        _run,
    ),
    Command(
        "check", "find what is wrong with an app, before it runs", (), "look:check",
        "Needs no engine and no store. Prints what is wrong with events, handlers and providers, each with its line,\n"
        "and with --contract what lasts (types, topics, keys, versions, groups) and is not as it was committed.\n"
        "Exit 0 when nothing is found, 1 when something is.",
        "evenflow check shop:app\n"
        "evenflow describe shop:app --json > contract.json     and commit it\n"
        "evenflow check shop:app --contract contract.json      in CI",
        _check,
    ),
    Command(
        "describe", "show topics, events and groups of an app", (), "look:describe",
        "Needs no engine and no store. In AsyncAPI an event is sent by this app when a handler returns it, when it is\n"
        "given to App(events=…), or when its topic is declared here; it is received when a handler takes it.",
        "evenflow describe shop:app\n"
        "evenflow describe shop:app --format mermaid\n"
        "evenflow describe shop:app --format asyncapi > asyncapi.json",
        _describe,
    ),
    Command(
        "publish", "publish one event", ("TYPE", "JSON"), "publish:publish",
        "TYPE is the event's type, or the name of its class. JSON is its fields; @file reads a file, - reads stdin.\n"
        "It is checked as in code, and durable when the command returns.",
        "evenflow publish shop:app order.placed '{\"order_id\": \"1\", \"total\": \"9.50\"}'\n"
        "evenflow publish shop:app OrderPlaced @order.json\n"
        "evenflow publish shop:app order.placed - --after 3600 < order.json",
        _publish,
    ),
    Command(
        "groups list", "how each group stands", (), "groups:list_groups",
        "One line per group: who works on it, how many events wait and how old the oldest is, what is parked.",
        "evenflow groups list shop:app\nevenflow groups list shop:app --json",
        _json,
    ),
    Command(
        "groups seek", "let a group go on elsewhere in the log", ("GROUP",), "groups:seek",
        "WHERE is beginning, end, a time with its zone, or offsets by partition. Events that come again run again,\n"
        "once; parked ones that come again are dropped; a stopped group goes on. It may be running meanwhile.",
        "evenflow groups seek shop:app billing.charge --to beginning\n"
        "evenflow groups seek shop:app billing.charge --to 2026-03-01T12:00:00Z\n"
        "evenflow groups seek shop:app billing.charge --to 0=1200,3=900",
        _seek,
    ),
    Command(
        "parked list", "what failed and is set aside", (), "parked:list_parked",
        "A dead letter waits for a person; a retry has a due time; what is behind waits for an earlier one of its key.",
        "evenflow parked list shop:app\nevenflow parked list shop:app --group billing.charge --json",
        _parked_list,
    ),
    Command(
        "parked redrive", "put dead letters back in line", ("GROUP",), "parked:redrive",
        "The process that owns the partition tries them again, in order; what waits behind them follows.",
        "evenflow parked redrive shop:app billing.charge --lane 4711\n"
        "evenflow parked redrive shop:app billing.charge --all",
        _lane,
    ),
    Command(
        "parked discard", "give dead letters up", ("GROUP",), "parked:discard",
        "They are removed, and what waits behind them goes on. It is noted in the store's audit.",
        "evenflow parked discard shop:app billing.charge --lane 4711",
        _discard,
    ),
    Command(
        "store adopt", "go on with a restored or another store", ("SERVICE",), "store:adopt",
        "Where a service's store was restored from a backup, or replaced, its processes refuse to start. This makes\n"
        "it the one to go on with: as a new producer, so that nothing that it publishes is taken for a repeat. What\n"
        "it did after the backup is done again, and published again. Stop the service's processes first.",
        "evenflow store adopt shop:app billing",
        _yes,
    ),
    Command(
        "config", "the settings, each with where it came from", (), "look:config",
        "With an app also the store of each service and the engine of each topic. Secrets are masked.",
        "evenflow config\nevenflow config shop:app --json",
        _json,
    ),
)  # fmt: skip


def overview(noun: str = "") -> str:
    """What `evenflow --help` shows; of one noun, if given."""
    chosen = [each for each in COMMANDS if each.name.startswith(f"{noun} ")] if noun else list(COMMANDS)
    width = max(len(each.name) for each in chosen)
    lines = [f"  {paint(each.name.ljust(width), 'bold')}  {each.line}" for each in chosen]
    head = [] if noun else ["Event-driven applications: run them, look at them, mend them.", ""]
    usage = f"usage: evenflow {f'{noun} ' if noun else ''}COMMAND [APP] [options]"
    more = f"`evenflow {chosen[0].name} --help` tells more, with examples; --debug shows the traceback of an error."
    return "\n".join([*head, usage, "", *lines, "", APP_HELP, "", more])


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e10:
        raise _wrong(f"{text!r} is no number of seconds")
    return seconds


def _count(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) < 2**31:
        raise _wrong(f"{text!r} is no number of events")
    return int(text)


def _wrong(message: str) -> Exception:
    from argparse import ArgumentTypeError

    return ArgumentTypeError(message)
