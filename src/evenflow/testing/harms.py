"""The harm that comes to servers, networks and workers, each around the stream: it goes on by itself, and is whole.

A harm that cannot be done says what is missing: a command of the user's, a way through a proxy, another process.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from evenflow.errors import EvenflowError
from evenflow.lab.proxy import Proxy
from evenflow.settings import Settings
from evenflow.testing import stream
from evenflow.testing.suite import NotApplicable, eventually, expect
from evenflow.testing.workers import Workers

LEASE = 2.0
LASTS = 2.0
"""Seconds that a cut or a freeze lasts."""
FROZEN = 2 * LEASE
"""The same of a worker, so that others have taken over when it goes on."""
RECOVERS = 60.0
"""Seconds after which all has to go on again."""
COMMAND_SECONDS = 120.0
MORE = 20
"""Events after which the stream is seen to flow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Commands:
    """The user's own, run by a shell, for what only an operator may do to a server. `start` follows `kill`."""

    restart: str = ""
    kill: str = ""
    start: str = ""
    freeze: str = ""
    thaw: str = ""


class Way(NamedTuple):
    """The way to a server: the proxies that stand in it, or why there are none."""

    name: str
    proxies: Sequence[Proxy]
    why_not: str = ""


class Harm(NamedTuple):
    """One thing that is done while the stream flows. `why_not`: what is missing for it."""

    name: str
    act: Callable[[], Awaitable[None]]
    why_not: str = ""


class Stream:
    """Two workers and a publisher on places of their own."""

    def __init__(self, workers: Workers, publisher: stream.Publisher) -> None:
        self.workers = workers
        self._publisher = publisher

    @classmethod
    @asynccontextmanager
    async def flowing(cls, workers: Workers) -> AsyncGenerator[Stream]:
        """All flows until the block ends."""
        async with stream.app.open(settings=Settings.load(env=workers.settings, cwd=workers.folder)):
            publisher = stream.Publisher()
            publisher.start()
            try:
                workers.start()
                workers.start()
                yield cls(workers, publisher)
            finally:
                await publisher.stop()

    async def goes_on(self) -> float:
        """Seconds until what was published up to now, and more after it, has had its effect.

        Raises `AssertionError` where it does not, where anything is out of order, twice or missing, and where a worker
        has ended by itself.
        """
        began = looked = time.monotonic()
        wanted, done, why = -1, 0, ""
        while wanted < 0 or done < wanted:
            now = time.monotonic()
            expect(now < began + RECOVERS, why or f"{wanted - done:,} events wait after {RECOVERS:.0f} s")
            try:
                if wanted < 0:
                    wanted = sum((await stream.sent()).values()) + MORE
                ((done,),) = await stream.app.read(stream.service, "select count(*) from taken")
                if now > looked + 1.0:
                    await _right()
                    looked = now
            except EvenflowError as error:
                why = f"not within {RECOVERS:.0f} s: {error}"
            await asyncio.sleep(0.05)
        seconds = time.monotonic() - began
        await _right()
        ended = self.workers.ended()
        expect(not ended, f"a worker has ended by itself: {ended}")
        return seconds

    async def ends(self) -> int:
        """Publish no more; everything has its effect, once and in order. How many events there were."""
        await self._publisher.stop()
        until = time.monotonic() + RECOVERS
        while waiting := stream.left(await stream.taken(), await stream.sent()):
            expect(time.monotonic() < until, f"{waiting:,} events have not had their effect")
            await asyncio.sleep(0.05)
        await _right()
        return sum((await stream.sent()).values())


async def _right() -> None:
    done = await stream.taken()  # first, so that all of it has been published when that is read
    wrong = stream.violations(done, await stream.sent())
    expect(not wrong, "; ".join(wrong[:3]))


def own_settings(folder: Path) -> dict[str, str]:
    """Of the stream, wherever it flows."""
    return {"EVENFLOW_LEASE": str(LEASE), "EVENFLOW_FOLDER": str(folder)}


def harms(workers: Workers, commands: Commands, ways: Sequence[Way]) -> list[Harm]:
    """All there are, in the order in which they are done."""
    found = [*_to_workers(workers), *(harm for way in ways for harm in _to_network(way))]
    return [*found, *_to_server(commands)]


def _to_workers(workers: Workers) -> list[Harm]:
    async def killed() -> None:
        workers.start()
        await asyncio.to_thread(workers.kill)

    async def handed_over() -> None:
        workers.start()
        await workers.stop()

    async def frozen() -> None:
        await workers.freeze(FROZEN)

    return [
        Harm("worker killed", killed),
        Harm("worker stopped and another one started, so partitions are handed over", handed_over),
        Harm("worker frozen for longer than its lease, and thawed", frozen),
    ]


def _to_network(way: Way) -> list[Harm]:
    def each(name: str, act: Callable[[Proxy], None], lasts: float = LASTS) -> Harm:
        async def harm() -> None:
            for proxy in way.proxies:
                await asyncio.to_thread(act, proxy)
            await asyncio.sleep(lasts)
            for proxy in way.proxies:
                await asyncio.to_thread(proxy.heal)

        return Harm(f"{way.name} {name}", harm, way.why_not)

    return [
        each("connections reset", Proxy.reset, 0.0),
        each("cut off: connections reset, new ones refused", Proxy.cut),
        each("half-open: requests are lost without a word", lambda proxy: proxy.swallow(down=False)),
        each("half-open: answers are lost without a word", lambda proxy: proxy.swallow(up=False)),
        each("connections forgotten by a firewall", Proxy.forget, 0.0),
    ]


def _to_server(commands: Commands) -> list[Harm]:
    async def restarted() -> None:
        await _command(commands.restart)

    async def killed() -> None:
        await _command(commands.kill)
        if commands.start:
            await _command(commands.start)

    async def frozen() -> None:
        await _command(commands.freeze)
        try:
            await asyncio.sleep(LASTS)
        finally:
            await _command(commands.thaw)

    return [
        Harm("server restarted", restarted, "" if commands.restart else "no command: --restart COMMAND"),
        Harm("server killed and started", killed, "" if commands.kill else "no command: --kill COMMAND"),
        Harm("server frozen and thawed", frozen, "" if commands.freeze else "no commands: --freeze … --thaw COMMAND"),
    ]


async def _command(text: str) -> None:
    def run() -> None:
        try:
            done = subprocess.run(  # what the user asked for
                text, shell=True, check=False, capture_output=True, timeout=COMMAND_SECONDS, stdin=subprocess.DEVNULL
            )
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{text!r} did not end within {COMMAND_SECONDS:.0f} s") from None
        said = (done.stderr or done.stdout).decode("utf-8", "replace").strip()[-300:]
        expect(done.returncode == 0, f"{text!r} ended with {done.returncode}: {said}")

    await asyncio.to_thread(run)


async def around(flow: Stream, harm: Harm) -> str:
    """Do it; words for how soon all went on. Raises `NotApplicable`, and `AssertionError` for what is wrong then."""
    if harm.why_not:
        raise NotApplicable(harm.why_not)
    await eventually(flow.workers.ready, seconds=RECOVERS, what="all workers are ready")
    await harm.act()
    return f"all went on {await flow.goes_on():.1f} s later"
