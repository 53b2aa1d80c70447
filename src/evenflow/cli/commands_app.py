"""Commands for writing and running an app."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evenflow.cli.command import Command, count, json, seconds, workers

if TYPE_CHECKING:
    from argparse import ArgumentParser


def _run(parser: ArgumentParser) -> None:
    many = "in so many processes, watched by this one; without N one for each core"
    parser.add_argument("--workers", type=workers, nargs="?", const=0, metavar="N", help=many)
    hang = "replace a worker whose event loop stands still for so long; 30"
    parser.add_argument("--hang", type=seconds, metavar="SECONDS", help=hang)
    parser.add_argument("--service", action="append", metavar="S", help="handle only for this service; repeatable")
    parser.add_argument("--drain", type=seconds, metavar="SECONDS", help="how long a stop may take (setting: drain)")
    parser.add_argument("--until-idle", action="store_true", help="stop when all is handled that can be handled now")
    parser.add_argument("--log", choices=("text", "json"), help="form of the log; json where stderr is no terminal")


def _check(parser: ArgumentParser) -> None:
    parser.add_argument("--contract", metavar="FILE", help="a committed `describe --json` to compare with")
    json(parser)


def _describe(parser: ArgumentParser) -> None:
    forms = ("text", "mermaid", "json", "asyncapi")
    parser.add_argument("--format", choices=forms, default="text", help="one of %(choices)s; text by default")
    parser.add_argument("--json", dest="format", action="store_const", const="json", help="short for --format json")


def _publish(parser: ArgumentParser) -> None:
    parser.add_argument("--after", type=seconds, metavar="SECONDS", help="keep it in an outbox until then")
    parser.add_argument("--service", metavar="S", help="whose outbox keeps it, where there are several")


def _dev(parser: ArgumentParser) -> None:
    parser.add_argument("--service", action="append", metavar="S", help="handle only for this service; repeatable")
    parser.add_argument("--drain", type=seconds, default=3.0, metavar="SECONDS", help="how long a stop may take; 3")
    parser.add_argument(
        "--plain", action="store_true", help="lines instead of a live table, as where there is no terminal"
    )


def _tail(parser: ArgumentParser) -> None:
    begin = "beginning, end (the default), a time with zone, or how long ago: 90s, 15m, 2h, 1d"
    parser.add_argument("--from", dest="start", default="end", metavar="WHERE", help=begin)
    parser.add_argument("-n", "--count", type=count, metavar="N", help="end after so many events")
    parser.add_argument("--no-follow", action="store_true", help="end when all that there is was shown")
    parser.add_argument("--topic", action="append", metavar="T", help="of this topic; repeatable")
    parser.add_argument("--type", action="append", metavar="T", help="of this type, or pattern (order.*); repeatable")
    parser.add_argument("--key", action="append", metavar="K", help="with this key; repeatable")
    conditions = "=, !=, <, <=, > or >= a value, as in total>=100, lines.article=pen; repeatable, all must hold"
    parser.add_argument("--where", action="append", metavar="FIELD", help=conditions)
    parser.add_argument("--json", action="store_true", help="one JSON object per line")


APP = (
    Command(
        "new", "make a project that runs at once", ("NAME",), "new:new",
        "Makes a folder NAME with an app of one service, a migration, tests, and pyproject.toml. It writes\n"
        "over nothing: a folder that holds something already is refused.",
        "evenflow new shop\nevenflow new ~/code/shop",
        app=False,
    ),
    Command(
        "run", "handle events until it is told to stop", (), "supervisor:run",
        "Opens engine and stores, prints what is promised for each group, and handles events until SIGTERM or Ctrl-C.\n"
        "Then it fetches no more, finishes what is in flight, and closes; a second Ctrl-C ends it at once.\n"
        "SIGHUP stops it like SIGTERM, unless it was started with nohup.\n"
        "Exit 0 after a clean stop, 7 when the drain ran out: what was left is done again at the next start.\n\n"
        "With --workers it starts processes that share the partitions, and opens nothing itself. A worker that ends\n"
        "is replaced: at once the first time, later after up to 30 s. One whose event loop stands still writes where\n"
        "it is to stderr, and is replaced. SIGHUP replaces all, one after another, each when its successor is ready:\n"
        "so changed code is taken over without a gap. If the app cannot even be started (exit 2, 3, 4), all end so.",
        "evenflow run shop:app\n"
        "evenflow run shop:app --workers 4\n"
        "kill -HUP PID                               workers with the code of now, one after another\n"
        "evenflow run shop:app --service billing --drain 10\n"
        "EVENFLOW_ENGINE=sqlite:////srv/log.db evenflow run shop:app\n"
        "evenflow run shop:app --until-idle          in a script: handle what there is, then stop",
        _run,
    ),
    Command(
        "dev", "run it, and start again when a file changes", (), "dev:dev",
        "Like run, for writing an app: it starts again when a .py or .sql file, or pyproject.toml, is changed. The\n"
        "app's data stays. A table shows what goes through each group: rate, waiting, parked, last error. A mistake\n"
        "in a file is shown with its line, and the app comes back when it is mended. Ctrl-C ends all of it.",
        "evenflow dev shop:app\nevenflow dev shop:app --service billing",
        _dev,
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
        "tail", "show events as they are published", (), "tail:tail",
        "Shows events of all topics of the app, of each key in order. It belongs to no group and moves no position.\n"
        "All filters have to hold; of several types, keys or topics one.",
        "evenflow tail shop:app\n"
        "evenflow tail shop:app --from beginning --type 'order.*' --where 'total>=100'\n"
        "evenflow tail shop:app --from 15m --key 4711 --no-follow\n"
        "evenflow tail shop:app --json | jq .data",
        _tail,
    ),
    Command(
        "completions", "complete commands and options in your shell", ("SHELL",), "completions:completions",
        "Writes the script for bash, zsh or fish to stdout.",
        'eval "$(evenflow completions bash)"                                       in ~/.bashrc\n'
        'eval "$(evenflow completions zsh)"                                        in ~/.zshrc\n'
        "evenflow completions fish > ~/.config/fish/completions/evenflow.fish",
        app=False,
    ),
    Command(
        "config", "the settings, each with where it came from", (), "look:config",
        "With an app also the store of each service and the engine of each topic. Secrets are masked.",
        "evenflow config\nevenflow config shop:app --json",
        json,
    ),
)  # fmt: skip
