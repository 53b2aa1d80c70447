"""The check-up of PostgreSQL's log: what it weighs, who is connected, and what elsewhere would hold it up."""

from __future__ import annotations

from evenflow.checkup import Finding
from evenflow.engines.postgres.texts import Texts
from evenflow.engines.postgres.wire import Rows, Wire

ABOUT = "the event log"
LONG = 300.0
"""Seconds after which an open transaction is told of."""
NO_RIGHT = "42501"
_MEGABYTE = 1 << 20


async def examine(wire: Wire, texts: Texts, *, deep: bool) -> list[Finding]:
    """What there is to say. Raises `PostgresError`."""
    schema = texts.schema
    ((_, is_there),) = (await wire.ask([(texts.text("schema"), (schema,))]))[0]
    if not is_there:
        (((may,),),) = await wire.ask([(texts.text("may_make"), (schema,))])
        if may:
            return [Finding("ok", ABOUT, f"the schema {schema} is not there yet; it is made at the first start")]
        return [
            Finding("wrong", ABOUT, f"the schema {schema} is not there, and the role may not make it", grant(schema))
        ]
    rights, sizes, sessions, long, prepared = await wire.ask(
        [
            (texts.text("rights"), (schema,)),
            (texts.text("topics_by_size"), ()),
            (texts.text("sessions"), ()),
            (texts.text("long_transactions"), (LONG,)),
            (texts.text("prepared_transactions"), ()),
        ]
    )
    found = [*_rights(rights, schema), *_sizes(sizes), *_sessions(sessions), *_long(long), *_prepared(prepared)]
    return found + (await _deep(wire, texts, sizes) if deep else [])


def grant(schema: str) -> str:
    """What the database's owner does about it."""
    return f"as the database's owner: create schema {schema}; grant all on schema {schema} to the role of the URL"


def _rights(rows: Rows, schema: str) -> list[Finding]:
    ((may_use, may_create, foreign),) = rows
    if not may_use or not may_create:
        return [
            Finding("wrong", ABOUT, f"the role may not {'use' if not may_use else 'make tables in'} it", grant(schema))
        ]
    if foreign:
        return [
            Finding(
                "wrong", ABOUT, f"the role may not append to these topics: {foreign}",
                "grant it the role that made them, or let all apps on one log use one role",
            )
        ]  # fmt: skip
    return [Finding("ok", ABOUT, f"the role may use the schema {schema}")]


def _sizes(rows: Rows) -> list[Finding]:
    total = sum(size for _, _, size, _ in rows)
    largest = ", ".join(f"{topic} {size / _MEGABYTE:,.0f} MB" for _, topic, size, _ in rows[:5])
    words = f"{len(rows)} topics, {total / _MEGABYTE:,.0f} MB" + (f" (largest: {largest})" if rows else "")
    return [Finding("ok", "its size", words)]


def _sessions(rows: Rows) -> list[Finding]:
    who = ", ".join(f"{name or 'unnamed'} ({count})" for name, count in rows)
    return [Finding("ok", "who listens", who or "nobody")]


def _long(rows: Rows) -> list[Finding]:
    return [
        Finding(
            "warn", "a long transaction",
            f"process {pid} ({application or 'unnamed'}, {user}, {state}) has a transaction open for {age:,.0f} s. The "
            "log goes on; but no table of this database is cleaned up behind it, and what retention would drop stays "
            "as long as it reads there",
            f"see what it does; if nobody needs it: select pg_terminate_backend({pid})",
        )
        for pid, application, user, state, age in rows
    ]  # fmt: skip


def _prepared(rows: Rows) -> list[Finding]:
    return [
        Finding(
            "warn", "a prepared transaction", f"{name!r} has been prepared for {age:,.0f} s and holds up cleaning",
            "let its owner finish it, or: rollback prepared …",
        )
        for name, age in rows
    ]  # fmt: skip


async def _deep(wire: Wire, texts: Texts, sizes: Rows) -> list[Finding]:
    """Whether the packs of every partition follow each other without a gap or an overlap."""
    wrong = []
    for topic, name, *_ in sizes:
        (rows,) = await wire.ask([(texts.text("broken", topic), ())])
        wrong += [
            Finding("wrong", f"topic {name}", f"partition {number} is broken near offset {offset}",
                    "restore the database from a backup; what stands there cannot be trusted")
            for number, offset in rows
        ]  # fmt: skip
    return wrong or [Finding("ok", ABOUT, "the offsets of all partitions follow each other")]
