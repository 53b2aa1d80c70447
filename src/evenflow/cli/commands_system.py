"""Commands for whoever operates a system: nouns with verbs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evenflow.cli.command import Command, count, json, yes

if TYPE_CHECKING:
    from argparse import ArgumentParser


def _seek(parser: ArgumentParser) -> None:
    parser.add_argument("--to", required=True, metavar="WHERE", help="beginning, end, a time with zone, or offsets")
    yes(parser)


def _pause(parser: ArgumentParser) -> None:
    _partition(parser)
    parser.add_argument("--reason", metavar="TEXT", help="shown to whoever looks, and kept in the audit")


def _partition(parser: ArgumentParser) -> None:
    parser.add_argument("--partition", type=_number, metavar="N", help="this partition alone")


def _schedules(parser: ArgumentParser) -> None:
    _service(parser)
    parser.add_argument("--limit", type=count, default=100, metavar="N", help="at most so many; 100 by default")
    json(parser)


def _schedule_pause(parser: ArgumentParser) -> None:
    _service(parser)
    parser.add_argument("--reason", metavar="TEXT", help="shown to whoever looks, and kept in the audit")


def _cancel(parser: ArgumentParser) -> None:
    _service(parser)
    yes(parser)


def _service(parser: ArgumentParser) -> None:
    parser.add_argument("--service", metavar="S", help="of this service alone")


def _services(parser: ArgumentParser) -> None:
    parser.add_argument("--service", action="append", metavar="S", help="of this service alone; repeatable")


def _migrate(parser: ArgumentParser) -> None:
    _services(parser)
    parser.add_argument("--sql", action="store_true", help="the SQL that is pending, to read or to keep")
    json(parser)


def _doctor(parser: ArgumentParser) -> None:
    parser.add_argument("--fast", action="store_true", help="leave out the integrity of the files, which reads them")
    _kind(parser)
    json(parser)


def _kind(parser: ArgumentParser) -> None:
    parser.add_argument("--as", dest="kind", choices=("engine", "store"), help="what a URL is, where it may be both")


def _conformance(parser: ArgumentParser) -> None:
    _kind(parser)
    parser.add_argument("--store", default="", metavar="URL", help="a store to try together with the engine")
    parser.add_argument("--only", action="append", metavar="WORD", help="checks with it in their names; repeatable")
    parser.add_argument("--through", action="append", type=_through, metavar="PORT:HOST:PORT",
                        help="a listener of Kafka that is advertised as this port here; repeatable")  # fmt: skip
    for name, line in (
        ("restart", "restarts the server"), ("kill", "kills the server"), ("start", "starts it after --kill"),
        ("freeze", "stops its processes"), ("thaw", "lets them go on"),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", default="", metavar="COMMAND", help=f"what {line}, for a shell")
    yes(parser)
    json(parser)


def _through(text: str) -> object:
    from evenflow.testing.ways import Through

    port, _, rest = text.partition(":")
    host, _, target = rest.rpartition(":")
    if not (port.isdigit() and host and target.isdigit()):
        from argparse import ArgumentTypeError

        raise ArgumentTypeError(f"{text!r} is not PORT:HOST:PORT")
    return Through(int(port), host, int(target))


def _move(parser: ArgumentParser) -> None:
    parser.add_argument("--from", dest="source", metavar="ENGINE", help="its URL or name; the default one")
    parser.add_argument("--to", dest="target", required=True, metavar="ENGINE", help="its URL, or its name")
    parser.add_argument("--topic", action="append", metavar="T", help="this topic alone; repeatable")
    parser.add_argument("--dry-run", action="store_true", help="show what would be done, and change nothing")
    yes(parser)
    json(parser)


def _number(text: str) -> int:
    if not text.isdigit():
        from argparse import ArgumentTypeError

        raise ArgumentTypeError(f"{text!r} is no number of a partition")
    return int(text)


SYSTEM = (
    Command(
        "groups list", "how each group stands", (), "groups:list_groups",
        "One line per group: who works on it, how many events wait and how old the oldest is, what is parked. Groups\n"
        "of the stores that the code does not have are listed as orphaned.",
        "evenflow groups list shop:app\nevenflow groups list shop:app --json",
        json,
    ),
    Command(
        "groups show", "one group with its partitions", ("GROUP",), "group:show",
        "What it is and where its handler stands, what is promised for it, why it is stopped or paused; and for each\n"
        "partition the position, the end of the log, what waits, who owns it and under which fence.",
        "evenflow groups show shop:app billing.charge\nevenflow groups show shop:app billing.charge --json",
        json,
    ),
    Command(
        "groups pause", "let a group take nothing for a while", ("GROUP",), "groups:pause",
        "What is in flight is finished and committed; then it takes nothing more, parked events neither, until it is\n"
        "resumed. That lasts over restarts. Processes that run it take it up within a heartbeat (a 20th of the lease).",
        "evenflow groups pause shop:app billing.charge --reason 'the bank is down'\n"
        "evenflow groups pause shop:app billing.charge --partition 3",
        _pause,
    ),
    Command(
        "groups resume", "let a paused group go on", ("GROUP",), "groups:resume",
        "It goes on where it was. Without --partition in all that are paused; and a breaker that is open is closed,\n"
        "so that its events are tried at once.",
        "evenflow groups resume shop:app billing.charge",
        _partition,
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
        "groups rename", "give a group another name", ("OLD", "NEW"), "groups:rename",
        "Its position passes to the new name, with all that is parked, paused and remembered; the ids of what it\n"
        "publishes stay as they were. Change the name in the code, stop the processes that run the group, rename it,\n"
        "and start them with the new code.",
        "evenflow groups rename shop:app billing.charge billing.collect",
        yes,
    ),
    Command(
        "groups drop", "forget a group that the code does not have", ("GROUP",), "groups:drop",
        "For what is left in the store after a handler was deleted: its position, what is parked, what is paused.\n"
        "Shows what is lost, and asks. Refused while the code has the group, or a process runs it.",
        "evenflow groups drop shop:app billing.charge",
        yes,
    ),
    Command(
        "schedules list", "what runs at its times, and what is published for later", (), "schedules:list_scheduled",
        "Schedules (@service.cron, @service.every) with their next and last run. Then events that wait in an outbox\n"
        "until they are due, published with after= or at=; the next one first.",
        "evenflow schedules list shop:app\nevenflow schedules list shop:app --service billing --json",
        _schedules,
    ),
    Command(
        "schedules pause", "let a schedule have no runs for a while", ("NAME",), "schedules:pause",
        "Until it is resumed, over restarts. What is published already is still handled: `groups pause` holds that.",
        "evenflow schedules pause shop:app billing.dunning --reason 'the bank is down'",
        _schedule_pause,
    ),
    Command(
        "schedules resume", "let a paused schedule go on", ("NAME",), "schedules:resume",
        "Of the times since it was paused, missed= of the code says what becomes: one run, one for each, none.",
        "evenflow schedules resume shop:app billing.dunning",
        _service,
    ),
    Command(
        "schedules run", "run a schedule now", ("NAME",), "schedules:run",
        "Publishes one more run, with due.manual set; its due times stay as they are. Also while it is paused.",
        "evenflow schedules run shop:app billing.dunning",
        _service,
    ),
    Command(
        "schedules cancel", "take back what is published for later", ("NAME",), "schedules:cancel",
        "NAME is the one that it was published with, as in tx.publish(event, after=…, name=NAME). It is noted in the\n"
        "store's audit.",
        "evenflow schedules cancel shop:app overdue:4711",
        _cancel,
    ),
    Command(
        "migrate plan", "the migrations of each store, and how they stand", (), "migrate:plan",
        "Ours (the evenflow_… tables) and those of the service, applied or pending, or changed after they were\n"
        "applied. Changes nothing. Exit 1 when one was changed or is gone.",
        "evenflow migrate plan shop:app\nevenflow migrate plan shop:app --service billing --sql > pending.sql",
        _migrate,
    ),
    Command(
        "migrate apply", "apply the migrations that are pending", (), "migrate:apply",
        "Each in a transaction of its own, ours first. A process applies them when it starts, too; this does it\n"
        "before a deployment, or shows what is wrong with one: file and line.",
        "evenflow migrate apply shop:app\nevenflow migrate apply shop:app --service billing",
        _services,
    ),
    Command(
        "migrate", "short for migrate plan; --sql prints what is pending", (), "migrate:plan",
        "See `evenflow migrate plan` and `evenflow migrate apply`.",
        "evenflow migrate shop:app\nevenflow migrate shop:app --sql",
        _migrate,
    ),
    Command(
        "move status", "where topics are, and who has not finished a move", (), "move:status",
        "Each topic with the engines that hold it, in the order in which groups read them; the last one takes what is\n"
        "published. Of one that moved, the groups that have still to finish the old engine, and what to do next.",
        "evenflow move status shop:app\nevenflow move status shop:app --json",
        json,
    ),
    Command(
        "move", "let topics go on in another engine, while all runs", (), "move:move",
        "Every process has to know both engines first (EVENFLOW_ENGINES__NEW=…). Then topic by topic: the old engine\n"
        "takes no more of it, publishers go on in the new one at once, and each group finishes the old one before it\n"
        "goes on. Order per key and effects hold. A move that was broken off goes on when it is given again.",
        "evenflow move shop:app --to kafka --dry-run\nevenflow move shop:app --to kafka\n"
        "evenflow move shop:app --from old --to kafka --topic clicks --yes",
        _move,
    ),
    Command(
        "doctor", "find what is wrong with a system, or soon will be", (), "doctor:doctor",
        "Looks at settings, definition, disk, files, stores, topics, groups, outboxes and processes, and at what\n"
        "would be refused at start. Each line is ok, warn or wrong, with what to do. APP may also be the URL of an\n"
        "engine or a store: then of rights, settings, clocks, topics and groups there, as far as a URL tells. Changes\n"
        "nothing. Exit 1 when something is wrong.",
        "evenflow doctor shop:app\nevenflow doctor sqlite:////srv/shop/log.db --fast\nevenflow doctor shop:app --json\n"
        "evenflow doctor kafka://broker:9092\nevenflow doctor postgresql://shop@db/shop --as store",
        _doctor,
    ),
    Command(
        "conformance", "try whether a server keeps what Evenflow promises on it", ("URL",), "conformance:conformance",
        "Runs the checks that every engine and store of ours has to pass against your server, then a stream of events\n"
        "around harm: workers killed, frozen and exchanged, connections cut, half-open and forgotten (through a proxy\n"
        "of its own), the server restarted, killed and frozen (by commands that you give); then the checks again.\n\n"
        "It works in topics, groups, schemas and files of its own, which it removes. Only the commands touch what is\n"
        "there, and are asked about. Exit 1 when a check fails.",
        "evenflow conformance postgresql://test@db/test\n"
        "evenflow conformance kafka://broker:9092 --store postgresql://test@db/test --json\n"
        "evenflow conformance kafka://broker:9092 --through 19092:broker:9095 --only stream\n"
        "evenflow conformance postgresql://test@db/test --restart 'systemctl restart postgresql' --yes",
        _conformance,
        app=False,
    ),
    Command(
        "store adopt", "go on with a restored or another store", ("SERVICE",), "store:adopt",
        "Where a service's store was restored from a backup, or replaced, its processes refuse to start. This makes\n"
        "it the one to go on with: as a new producer, so that nothing that it publishes is taken for a repeat. What\n"
        "it did after the backup is done again, and published again. Stop the service's processes first.",
        "evenflow store adopt shop:app billing",
        yes,
    ),
)  # fmt: skip
