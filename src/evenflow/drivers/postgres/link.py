"""One connection to PostgreSQL: many statements in one flush, answers in order, rows as Python's values.

What a statement's placeholders and columns are is asked once per text, and kept for all connections of a place.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from operator import call
from typing import Any

import psycopg
from psycopg import pq

from evenflow.drivers.postgres.errors import UNFIT, PostgresError, Trouble, connect_words, error_of
from evenflow.drivers.postgres.pipeline import Pipeline, Statement
from evenflow.drivers.postgres.place import PostgresPlace
from evenflow.drivers.postgres.plans import Plan, better, checked, unfit
from evenflow.drivers.postgres.types import INT2, INT4, INT8, TEXT, TooWide, kind_of

__all__ = ["Link", "Statement"]

_FATAL = pq.ExecStatus.FATAL_ERROR
_MANY = 32
"""Statements of which those with one text are prepared together."""
_BURST = 256
"""Statements that are sent between two looks at whether the socket takes them."""
_Ready = tuple[bytes, Iterator[tuple[bytes | None, ...]], list[int], int]
"""Its name, and the values of one statement after another, with their formats and that of its rows."""
_UNDETERMINED = frozenset({"42P18", "42804", "42725", "42883"})


class Link(Pipeline):
    """An open connection. Calls at the same time run in the order of calling."""

    @classmethod
    async def connect(cls, place: PostgresPlace, *, limit: float = 10.0) -> Link:
        """Raises `PostgresError` with the driver's words."""
        try:
            async with asyncio.timeout(limit):
                connection = await psycopg.AsyncConnection.connect(place.conninfo(), autocommit=True)
        except TimeoutError:
            raise PostgresError(f"no answer from {place.words} within {limit:g} s") from None
        except (psycopg.Error, OSError, UnicodeError) as error:
            raise PostgresError(place.without_password(connect_words(str(error)))) from error
        return cls(connection, place)

    async def run(
        self, statements: Sequence[Statement], *, before: Iterable[str] = (), after: Iterable[str] = ()
    ) -> list[pq.abc.PGresult]:
        """Run the statements in order; their results, and those of `after`. That and `before` are texts of our own.

        Raises `PostgresError` with the index of the one that failed, or -1 for one of ours.
        """
        results, _ = await self._do(statements, before, after)
        return results

    async def fetch(
        self, sql: str, args: tuple[Any, ...] = (), *, before: Iterable[str] = (), after: Iterable[str] = ()
    ) -> list[tuple[Any, ...]]:
        """Run one statement; its rows, as named tuples."""
        results, plan = await self._do([(sql, args)], before, after)
        if plan is None:
            return []
        try:
            return plan.rows(results[0])
        except (ValueError, OverflowError, ArithmeticError) as error:
            raise self._blamed(unfit(_misread(plan, results[0], error)), sql, args, 0) from error

    async def rows(
        self, statements: Sequence[Statement], *, before: Iterable[str] = (), after: Iterable[str] = ()
    ) -> list[list[tuple[Any, ...]]]:
        """Run the statements in order; the rows of each."""
        find = self.place.plans.find
        known = [find(sql, tuple(map(type, args))) for sql, args in statements]
        results, _ = await self._do(statements, before, after)
        rows = []
        for (sql, args), plan, result in zip(statements, known, results, strict=False):
            read = plan or find(sql, tuple(map(type, args)))
            if read is None:
                raise PostgresError("too many different statements at once", lost=True)
            rows.append(read.rows(result) if read.columns else [])
        return rows

    async def control(self, *texts: str) -> list[pq.abc.PGresult]:
        """Run texts of our own, without arguments; their results."""
        await self._take()
        try:
            self._post_all(texts)
            results = await self._sync()
        finally:
            self._give()
        self._raise_first(results, 0, ())
        return results

    async def renames_statements(self) -> bool:
        """Whether a statement that is prepared under a name has another one at the server."""
        await self._take()
        try:
            self._alive()
            name = b"evenflow_look_%d" % id(self)
            with self._sending():
                self._pg.send_prepare(name, b"select count(*) from pg_prepared_statements where name = $1", [TEXT])
                self._pg.send_query_prepared(name, [name])
            self._sent += 2
            results = await self._sync()
            self._raise_first(results, len(results), ())
            renamed = results[1].get_value(0, 0) == b"0"
            if not renamed:
                self._post_all([f"deallocate {name.decode()}"])
                await self._sync()
            return renamed
        finally:
            self._give()

    async def script(self, sql: str) -> list[pq.abc.PGresult]:
        """Run a text of several statements, outside of the pipeline. Raises `PostgresError` with the index in it."""
        await self._take()
        try:
            self._alive()
            with self._sending():
                self._pg.exit_pipeline_mode()
                self._pg.send_query(sql.encode())
            self._sent = -1
            self._push()
            results = await self._collected()
        finally:
            self._give()
        for index, result in enumerate(results):
            if result.status == _FATAL:
                raise error_of(result, index)
        return results

    # -- one flush --------------------------------------------------------------------------------------------------

    async def _do(
        self, statements: Sequence[Statement], before: Iterable[str], after: Iterable[str]
    ) -> tuple[list[pq.abc.PGresult], Plan | None]:
        if self._busy or self._sent:
            await self._take()
        else:
            self._busy = True
        try:
            return await self._done(statements, before, after)
        finally:
            self._give()

    async def _done(
        self, statements: Sequence[Statement], before: Iterable[str], after: Iterable[str]
    ) -> tuple[list[pq.abc.PGresult], Plan | None]:
        """Send all of whose plans are known, and what has to be learned when its turn comes."""
        plans, names, pg = self.place.plans, self._names, self._pg
        latest, send = plans.latest.get, pg.send_query_prepared
        together = (self._together(statements) if len(statements) >= _MANY else {}).get
        kept: list[pq.abc.PGresult] = []
        start, plan = 0, None
        while True:
            ours = self._post_all(before)
            before = ()
            wrong: PostgresError | None = None
            unknown, narrow = -1, None
            for index in range(start, len(statements)):
                sql, args = statements[index]
                if (ready := together(sql)) is not None:
                    name, many, formats, result_format = ready
                    values: Sequence[bytes | None] = next(many)
                else:
                    plan, types = latest(sql), tuple(map(type, args))
                    if plan is None or plan.types != types:
                        plan = plans.find(sql, types)
                        if plan is None:
                            unknown = index
                            break
                    try:
                        values = list(map(call, plan.encoders, args))
                    except TooWide:
                        unknown, narrow = index, plan
                        break
                    except (ValueError, TypeError, AttributeError) as error:
                        wrong = self._blamed(unfit(error), sql, args, index)
                        break
                    if not (name := names.get(plan, b"")):
                        self._post(plan, values)
                    formats, result_format = plan.formats, plan.result_format
                if name:
                    try:
                        send(name, values, formats, result_format)
                    except psycopg.Error as error:
                        raise self._broken(str(error)) from error
                    self._sent += 1
                if not index % _BURST and index + 1 < len(statements) and pg.flush():
                    await self._drain()
            if wrong is None and unknown < 0:
                self._post_all(after)
            if self._sent:
                results = await self._sync()
                self._raise_first(results, ours, statements, start)
                kept += results[ours:]
            if wrong is not None:
                raise wrong
            if unknown < 0:
                return kept, plan
            sql, args = statements[unknown]
            statements = list(statements)
            statements[unknown] = (sql, await self._learn(sql, args, unknown, narrow))
            start = unknown

    def _together(self, statements: Sequence[Statement]) -> dict[str, _Ready]:
        """By text, what to send of statements that need no look at each: prepared, and with values that fit."""
        given = defaultdict[str, list[tuple[Any, ...]]](list)
        for sql, args in statements:
            given[sql].append(args)
        ready = {}
        for sql, some in given.items():
            plan = self.place.plans.latest.get(sql)
            name = self._names.get(plan) if plan is not None else None
            if plan is not None and name and (values := plan.values(some)) is not None:
                ready[sql] = name, values, plan.formats, plan.result_format
        return ready

    # -- statements that are not known yet --------------------------------------------------------------------------

    async def _learn(self, sql: str, args: tuple[Any, ...], index: int, known: Plan | None) -> tuple[Any, ...]:
        """Make a plan of this statement for such arguments; the arguments with enums resolved.

        `known` is the plan of one in which an integer does not fit.
        """
        try:
            args = checked(sql, tuple(args))
            types = tuple(map(type, args))
            if known is None and self.place.plans.find(sql, types) is not None:
                return args  # enums are told by their values' types
            oids = await self._inferred(sql, types)
            if known is not None:
                oids = tuple(INT8 if oid in (INT2, INT4) else oid for oid in oids)
            oids, description = await self._described(sql, oids)
            plan = Plan(sql, types, oids)
            plan.gives(description)
            if known is not None and known.oids == plan.oids:
                raise PostgresError("an integer is out of range", sqlstate="22003")
        except (TypeError, ValueError) as error:
            raise self._blamed(unfit(error), sql, args, index) from error
        except PostgresError as error:
            raise self._blamed(error, sql, args, index) from error
        self.place.plans.keep(plan)
        return args

    async def _inferred(self, sql: str, types: tuple[type, ...]) -> tuple[int, ...]:
        """The types of the placeholders: the server's, or by the arguments where it has nothing to go by."""
        for type_ in types:
            kind_of(type_)
        first: PostgresError | None = None
        try:
            oids, _ = await self._described(sql, ())
            wanted = better(types, _as_many(oids, types))
        except PostgresError as error:
            if error.sqlstate not in _UNDETERMINED:
                raise
            first, oids = error, ()
            wanted = better(types, (0,) * len(types), undetermined=True)
        if wanted is not None:
            try:
                oids, _ = await self._described(sql, wanted)
            except PostgresError as error:
                if error.trouble is not Trouble.STATEMENT:
                    raise
                if first is not None:
                    raise first from error
        elif first is not None:
            raise first
        return _as_many(oids, types)

    async def _described(self, sql: str, oids: Sequence[int]) -> tuple[tuple[int, ...], pq.abc.PGresult]:
        """What the server makes of a statement, without running it; a failure leaves the transaction as it was."""
        inside = self.in_transaction
        if inside:
            self._post_all(["savepoint evenflow_learn"])
        self._alive()
        text = sql.encode()
        with self._sending():
            self._pg.send_prepare(b"", text, oids)
            self._pg.send_describe_prepared(b"")
        self._sent += 2
        if inside:
            self._post_all(["release evenflow_learn"])
        results = await self._sync()
        try:
            self._raise_first(results, len(results), ())
        except PostgresError:
            if inside and results[0].status != _FATAL:
                self._post_all(["rollback to evenflow_learn", "release evenflow_learn"])
                await self._sync()
            raise
        description = results[1 + inside]
        return tuple(description.param_type(n) for n in range(description.nparams)), description


def _as_many(oids: tuple[int, ...], types: tuple[type, ...]) -> tuple[int, ...]:
    """The types of the placeholders. Raises `PostgresError` where there are not as many as arguments."""
    if len(oids) != len(types):
        raise PostgresError(
            f"the statement has {len(oids)} placeholders, and {len(types)} arguments were given", sqlstate=UNFIT
        )
    return oids


def _misread(plan: Plan, result: pq.abc.PGresult, error: Exception) -> ValueError:
    """Which column it was that Python has no value for."""
    for row in range(result.ntuples):
        for place, decode in enumerate(plan.read):
            data = result.get_value(row, place)
            try:
                if data is not None:
                    decode(data)
            except (ValueError, OverflowError, ArithmeticError):
                name = plan.columns[place]
                return ValueError(f"column {name!r} holds what Python has no value for; read it with {name}::text")
    return ValueError(str(error))
