"""What the tests of PostgreSQL's log share: a factory of engines, and a second connection that is stepped by hand."""

import asyncio
from contextlib import asynccontextmanager
from uuid import uuid4

import psycopg

from evenflow.clock import SystemClock
from evenflow.engine import Outcome
from evenflow.places import make_engine
from evenflow.testing.engine_kit import event


class Log:
    """A factory of engines on one schema of a database."""

    def __init__(self, url, schema="", **options):
        self.database = url
        self.schema = schema or f"s{uuid4().hex[:12]}"
        words = "&".join(f"{name}={value}" for name, value in {"schema": self.schema, **options}.items())
        self.url = f"{url}{'&' if '?' in url else '?'}{words}"

    @asynccontextmanager
    async def __call__(self):
        engine = make_engine(self.url, SystemClock())
        await engine.open()
        try:
            yield engine
        finally:
            await engine.close()

    async def wipe(self):
        self.sql(f"drop schema {self.schema} cascade")

    def sql(self, text, *args):
        with psycopg.connect(self.database, autocommit=True) as admin:
            found = admin.execute(text, args or None)
            return found.fetchall() if found.description else []

    def by_hand(self):
        """A connection of another process, in a transaction."""
        return psycopg.connect(self.database)

    def append(self, connection, state, numbers):
        """One event after another in partition 0, in the transaction of this connection."""
        from evenflow.engines.packs import bodies

        for number in numbers:
            ((_, oldest, body),) = bodies([event(number, slot=0)])
            connection.execute(
                f'select {self.schema}."append_{state.id}"(1, array[{state.last[0].serial}], array[1], array[0::int8], '
                "array[1], array[%s::int8], array[%s::float8], array[%s::bytea])",
                (len(body), oldest, body),
            )


async def blocked(engine, call, seconds=0.3):
    """Fail if the call ends; the task that waits."""
    task = asyncio.ensure_future(call)
    done, _ = await asyncio.wait([task], timeout=seconds)
    assert not done, f"it did not wait: {task.result()}"
    return task


async def until_stored(engine, topic, envelopes, seconds=30.0):
    """Append until it is stored, as the relay does; the answers on the way."""
    answers = []
    deadline = asyncio.get_running_loop().time() + seconds
    while Outcome.STORED not in answers:
        assert asyncio.get_running_loop().time() < deadline, engine.trouble
        answers.append((await engine.append(topic, envelopes))[0])
        await asyncio.sleep(0.02)
    return answers
