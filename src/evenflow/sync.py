"""The app for code without an event loop: an event loop of its own in a thread, and calls that wait for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from evenflow.errors import TransactionError
from evenflow.store import Joinable, Row, stepped
from evenflow.unit_of_work import Transaction, open_unit

if TYPE_CHECKING:
    import apsw

    from evenflow.app import App
    from evenflow.service import Service
    from evenflow.settings import Settings

T = TypeVar("T")


class Run(Protocol):
    """How a coroutine comes to its result in a thread that has no loop."""

    def __call__(self, work: Coroutine[Any, Any, T], /) -> T: ...


class SyncApp:
    """`publish` and `transaction` as blocking calls. Safe to use from several threads."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._loop: asyncio.AbstractEventLoop | None = None

    @contextmanager
    def open(self, *, settings: Settings | None = None) -> Generator[None]:
        """Open the app in a thread of its own for as long as the block lasts."""
        if self._loop is not None:
            raise TransactionError("app.sync is open already", remedy="open it once, and share it")
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="evenflow", daemon=True)
        thread.start()
        self._loop = loop
        context = self._app.open(settings=settings)
        try:
            self._wait(context.__aenter__())
            try:
                yield
            finally:
                self._wait(context.__aexit__(None, None, None))
        finally:
            self._loop = None
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    def publish(
        self, *events: Any, after: float | None = None, at: float | None = None, name: str | None = None
    ) -> None:
        """See `App.publish`."""
        self._wait(self._app.publish(*events, after=after, at=at, name=name))

    @contextmanager
    def transaction(
        self, service: Service | str, *, on: Joinable | apsw.Connection | None = None, wait: float = 30.0
    ) -> Generator[SyncTransaction]:
        """See `App.transaction`. With `on`, the connection is used in this thread alone."""
        unit = self._wait(self._app.unit_of_work(service, wait=wait))
        run: Run = self._wait if on is None else stepped
        if on is not None:
            unit.join(stepped(unit.outbox.store.join(on)))
        assert unit.current is not None
        before = open_unit.get()
        open_unit.set(unit)  # what waits in the loop for this thread has its context
        try:
            yield SyncTransaction(run, unit.current)
            loop = self._working_loop()
            run(unit.keep())
            loop.call_soon_threadsafe(unit.tell)
        except BaseException:
            run(unit.rollback())
            raise
        finally:
            open_unit.set(before)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            loop = self._working_loop()
        except TransactionError:
            work.close()
            raise
        return asyncio.run_coroutine_threadsafe(work, loop).result()

    def _working_loop(self) -> asyncio.AbstractEventLoop:
        """The loop of our own thread, or the one in which `async with app.open():` has opened the app."""
        running = self._app._running
        loop = self._loop or (running.loop if running is not None else None)
        if loop is None:
            raise TransactionError(
                "app.sync is not open",
                remedy="use it inside `with app.sync.open():`, or in a thread beside `async with app.open():`",
            )
        if asyncio._get_running_loop() is loop:
            raise TransactionError(
                "app.sync would wait for the event loop that it stands in",
                remedy="use `await app.publish(…)` and `async with app.transaction(…)` here",
            )
        return loop


class SyncTransaction:
    """A `Transaction` whose statements that run now block the calling thread."""

    def __init__(self, run: Run, tx: Transaction) -> None:
        self._run = run
        self._tx = tx
        self.write = tx.write
        self.publish = tx.publish
        self.cancel = tx.cancel

    def flush(self) -> None:
        """See `Transaction.flush`."""
        self._run(self._tx.flush())

    def execute(self, sql: str, *args: Any) -> int:
        """See `Transaction.execute`."""
        return self._run(self._tx.execute(sql, *args))

    def fetch_all(self, sql: str, *args: Any) -> list[Row]:
        """See `Transaction.fetch_all`."""
        return self._run(self._tx.fetch_all(sql, *args))

    def fetch_one(self, sql: str, *args: Any) -> Any:
        """See `Transaction.fetch_one`."""
        return self._run(self._tx.fetch_one(sql, *args))

    def fetch_value(self, sql: str, *args: Any) -> Any:
        """See `Transaction.fetch_value`."""
        return self._run(self._tx.fetch_value(sql, *args))
