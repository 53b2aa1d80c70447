"""`evenflow conformance`: the suites on a user's server, and the stream while servers, networks and workers are harmed."""

import asyncio
import json
import re
import shlex
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path

import pytest

from evenflow.cli import main
from evenflow.clock import SystemClock
from evenflow.engine import Capabilities, Outcome
from evenflow.engines.kafka.options import KafkaOptions
from evenflow.engines.memory import MemoryEngine
from evenflow.engines.postgres.engine import PostgresOptions
from evenflow.places import ENGINES, STORES, make_engine, make_store
from evenflow.settings_sources import masked
from evenflow.store import StoreCapabilities
from evenflow.stores.postgres.store import PostgresStoreOptions
from evenflow.testing import stream
from evenflow.testing.conformance import Wanted, conform
from evenflow.testing.grounds import ground_of
from evenflow.testing.ways import NoWay, Through, led
from services.places import ROOT
from services.private import QUICK, private_kafka, private_postgres
from tests import servers


def told(capsys, *arguments):
    """The exit code, and the results by their names."""
    code = main(["conformance", *arguments, "--json"])
    printed = capsys.readouterr()
    found = json.loads(printed.out) if printed.out else []
    return code, {f"{each['section']}: {each['check']}": each for each in found}, printed.err


def harmed(*arguments):
    """The same in a process of its own, which a client library may end."""
    command = [sys.executable, "-m", "evenflow", "conformance", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    shown = done.stdout + done.stderr
    lines = re.findall(r"^(stated|passed|failed|does not apply) +(\w[^:]*: .*?)(?:  [0-9.]+ s)?$", done.stdout, re.M)
    assert lines, shown
    return done.returncode, {name: outcome for outcome, name in lines}, shown


def by_hand(server, what, **more):
    """A command for a shell that does this to a server of ours."""
    kind, known = type(server), "".join(f", {name}={value!r}" for name, value in more.items())
    code = f"from {kind.__module__} import {kind.__name__}; "
    code += f"{kind.__name__}({str(server.folder)!r}, {server.port}{known}).{what}()"
    return f"cd {shlex.quote(str(ROOT))} && {shlex.quote(sys.executable)} -c {shlex.quote(code)}"


def commands(server, **more):
    return [
        part
        for name, what in (("restart",) * 2, ("kill",) * 2, ("start",) * 2, ("freeze",) * 2, ("thaw",) * 2)
        for part in (f"--{name}", by_hand(server, what, **more))
    ]


# -- the plain suites --------------------------------------------------------------------------------------------------


def test_memory_keeps_what_it_states(capsys):
    code, found, said = told(capsys, "memory:", "--only", "engine: append", "--only", "retention")
    assert code == 0 and "0 failed" in said
    assert found["engine: capabilities"]["reason"] == "not durable, not shared, atomic, tidies"
    assert found["engine: append keeps order per slot"]["outcome"] == "passed"
    shared = found["engine: retention by the other engine is noticed"]
    assert shared["outcome"] == "does not apply" and "shared" in shared["reason"]
    assert all(set(each) == {"section", "check", "outcome", "reason", "seconds"} for each in found.values())


def test_what_an_engine_does_not_keep_is_told_with_the_reason(capsys, monkeypatch):
    async def lose(self, topic, envelopes):
        return [Outcome.STORED]

    monkeypatch.setattr(MemoryEngine, "append", lose)
    code, found, said = told(capsys, "memory:", "--only", "answers per envelope")
    assert code == 1 and "1 failed" in said
    failed = found["engine: append answers per envelope"]
    assert failed["outcome"] == "failed" and failed["reason"] == "one answer per envelope"


def test_a_file_is_tried_in_a_folder_of_its_own_which_is_removed(capsys, tmp_path):
    mine = tmp_path / "mine.db"
    mine.write_text("not to be touched")
    code, found, said = told(
        capsys,
        f"sqlite:///{mine}",
        "--only",
        "wiped",
        "--only",
        "reopen",
        "--only",
        "worker killed",
        "--only",
        "incarnation",
    )
    assert code == 0, said
    assert found["stream: worker killed"]["outcome"] == "passed"
    assert found["store: reopening keeps everything"]["outcome"] == "passed"
    assert found["engine: incarnation differs after delete"]["outcome"] == "passed"
    assert [each.name for each in tmp_path.iterdir()] == ["mine.db"] and mine.read_text() == "not to be touched"


URLS = {
    "memory": "memory:", "sqlite": "sqlite:///x.db", "postgresql": "postgresql://h/d", "kafka": "kafka://h:1",
    "sqlite::memory:": "sqlite::memory:",
}  # fmt: skip


def tables_of(page):
    """Each table of a page of the guide, as its rows of cells."""
    lines = (ROOT / "docs" / "guide" / page).read_text("utf-8").splitlines()
    found = [[]]
    for line in lines:
        if line.startswith("|"):
            found[-1].append([cell.strip().replace("`", "") for cell in line.strip("|").split("|")])
        elif found[-1]:
            found.append([])
    return [rows for rows in found if rows]


def test_the_guide_tells_what_engines_state():
    """The rows of docs/guide/choosing.md that are capabilities, in its words "durable: …"."""
    (table,) = [rows for rows in tables_of("choosing.md") if rows[0][1:2] == ["memory"]]
    names = table[0][1:]
    assert set(names) == set(ENGINES) - {"postgres"}
    rows = {row[0].partition(":")[0]: row[1:] for row in table[2:]}
    for field in fields(Capabilities):
        for name, cell in zip(names, rows[field.name], strict=True):
            stated = getattr(make_engine(URLS[name], SystemClock()).capabilities, field.name)
            assert re.match("yes|no", cell)[0] == ("yes" if stated else "no"), (field.name, name)


def test_stores_state_what_they_keep():
    stated = {
        name: make_store(URLS[name], "s", SystemClock()).capabilities for name in (set(URLS) & set(STORES)) - {"memory"}
    }
    assert stated == {
        "sqlite": StoreCapabilities(durable=True, shared=True),
        "postgresql": StoreCapabilities(durable=True, shared=True, writers=PostgresStoreOptions().pool),
    }
    memory = make_store(URLS["sqlite::memory:"], "s", SystemClock())
    assert memory.capabilities == StoreCapabilities(durable=False, shared=False)


def test_the_guide_tells_every_option_of_a_url():
    """docs/settings.md names them all; the pages of PostgreSQL and Kafka have a row for each, with its default."""
    settings = (ROOT / "docs" / "settings.md").read_text("utf-8")
    for line, page, kind, of in [
        ("engine `postgresql`", "postgres.md", PostgresOptions, "engine"),
        ("store `postgresql`", "postgres.md", PostgresStoreOptions, "store"),
        ("engine `kafka`", "kafka.md", KafkaOptions, ""),
    ]:
        known = {each.name: each.default for each in fields(kind)}
        (row,) = [each for each in settings.splitlines() if each.startswith(f"| {line}")]
        assert set(re.findall("`([a-z_]+)`", row.split("|")[2])) == set(known)
        (table,) = [rows for rows in tables_of(page) if rows[0][0] == "option"]
        told = {name: row[-2] for row in table[2:] if not of or row[1] in (of, "both") for name in row[0].split(", ")}
        assert set(told) == set(known), page
        for name, default in known.items():
            if type(default) in (int, float) and told[name].isdigit():
                assert float(told[name]) == default, name
            elif isinstance(default, str) and default in ("auto", "compact", "none", "scram-sha-512", "evenflow_log"):
                assert told[name] == default, name


# -- what is asked for -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["memory:", "--freeze", "x"], "--thaw"),
        (["memory:", "--start", "x"], "--kill"),
        (["memory:", "--restart", "x"], "--yes"),
        (["memory:", "--only", "nonsense"], "nonsense"),
        (["kafka://h:1", "--through", "9092"], "PORT:HOST:PORT"),
        (["nosuch://x"], "no URL"),
        (["kafka://h:1", "--as", "store"], "no URL of a store"),
    ],
)
def test_what_cannot_be_meant(arguments, word, capsys):
    code, found, said = told(capsys, *arguments)
    assert code == 2 and not found and word in said


def test_a_server_that_is_not_there_is_one_error(capsys):
    code, found, said = told(capsys, "postgresql://u:secret@127.0.0.1:1/d", "--as", "store")
    assert code == 5 and not found and "→" in said and "Traceback" not in said and "secret" not in said


# -- the judge ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("taken", "wrong"),
    [
        ([1, 2, 3], 0), ([1, 2], 0), ([], 0), ([1, 3], 1), ([1, 2, 2], 1), ([2, 1, 3], 1), ([1, 2, 3, 4], 1), ([2], 1),
    ],
)  # fmt: skip
def test_the_judge_sees_what_is_lost_doubled_or_overtaken(taken, wrong):
    assert len(stream.violations({"k": taken}, {"k": 3})) == wrong
    assert stream.left({"k": [1]}, {"k": 3, "other": 2}) == 4


def test_effects_that_go_missing_are_found(tmp_path, monkeypatch):
    """Events that are overtaken on their way: the publisher numbers one key twice over."""

    async def main():
        monkeypatch.setattr(stream, "NEXT", stream.NEXT.replace("sent.number + 1", "sent.number + sent.number % 5"))
        wanted = Wanted(url=f"sqlite:///{tmp_path}/x.db", kind="engine", only=("worker killed",))
        found = {each.name: each async for each in conform(wanted)}
        assert found["stream: events flow before anything is harmed"].outcome == "failed"
        assert "was handled as" in found["stream: events flow before anything is harmed"].reason

    asyncio.run(main())


def test_a_command_that_fails_is_the_reason(capsys, tmp_path):
    code, found, _ = told(
        capsys, f"sqlite:///{tmp_path}/x.db", "--as", "engine", "--only", "server restarted",
        "--restart", "echo no such unit >&2; exit 5", "--yes",
    )  # fmt: skip
    assert code == 1 and found["stream: server restarted"]["outcome"] == "failed"
    assert "ended with 5: no such unit" in found["stream: server restarted"]["reason"]


# -- ways --------------------------------------------------------------------------------------------------------------


def test_a_way_keeps_all_of_a_url_but_where_it_leads():
    with ExitStack() as stack:
        url, (proxy,) = led("postgresql://u:p%40w@db.example/d?schema=s&sslmode=verify-full", (), stack)
        assert url == (
            f"postgresql://u:p%40w@db.example:{proxy.port}/d?schema=s&sslmode=verify-full&hostaddr=127.0.0.1"
        )
        assert (proxy.host, proxy.target) == ("db.example", 5432)
        with pytest.raises(NoWay, match="--through"):
            led("kafka://h:1", (), stack)
        with pytest.raises(NoWay, match="one host"):
            led("postgresql://a:1,b:2/d", (), stack)
        free = proxy.port
    with ExitStack() as stack:
        url, (proxy,) = led("kafka://u:pw@h:9092?tls=true", (Through(free, "broker", 9095),), stack)
        assert url == f"kafka://u:pw@127.0.0.1:{free}?tls=true" and masked(url) != url
        assert (proxy.host, proxy.target, proxy.port) == ("broker", 9095, free)


def test_grounds_know_every_engine_and_store(tmp_path):
    for kind, known in (("engine", ENGINES), ("store", STORES)):
        for scheme in set(known) - {"memory"}:
            url = {"sqlite": f"sqlite:///{tmp_path}/x", "kafka": "kafka://h:1"}.get(scheme, f"{scheme}://h/d")
            ground = ground_of(url, kind)
            assert ground.fresh()
            if scheme == "sqlite":
                asyncio.run(ground.clear())
    assert list(Path(tmp_path).iterdir()) == []


# -- with harm ---------------------------------------------------------------------------------------------------------

SOME = ["engine cut off", "half-open: answers", "server killed", "server frozen", "handed over",
        "engine after harm: append"]  # fmt: skip


def only(*words):
    return [part for word in words for part in ("--only", word)]


def test_postgresql_keeps_its_promises_under_harm():
    servers.need("postgres")
    with private_postgres() as server:
        code, found, shown = harmed(server.url(), *only(*SOME, "server restarted"), *commands(server), "--yes")
        assert code == 0 and set(found.values()) == {"stated", "passed"}, shown
        assert len(found) >= 14 and any(name.startswith("engine after harm: ") for name in found), shown
        import psycopg

        with psycopg.connect(server.url()) as admin:
            assert admin.execute("select nspname from pg_namespace where nspname like 'evenflow%'").fetchall() == []


def test_kafka_keeps_its_promises_under_harm():
    servers.need("kafka")
    with private_kafka() as server:
        listens, announced = server._proxied()[0]
        through = ["--through", f"{announced}:127.0.0.1:{listens}"]
        wanted = only(*SOME, "incarnation differs")
        code, found, shown = harmed(server.url(), *wanted, *through, *commands(server, java=QUICK), "--yes")
        assert code == 0 and set(found.values()) == {"stated", "passed"}, shown
        assert len(found) >= 12 and any(name.startswith("engine after harm: ") for name in found), shown
        assert "evenflow--marks, which all apps on the cluster share" in shown
        left = [name for name in server.admin().list_topics(timeout=10.0).topics if not name.startswith("__")]
        assert left == ["evenflow--marks"]
