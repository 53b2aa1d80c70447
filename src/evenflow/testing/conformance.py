"""The conformance of a user's own server: both suites, the stream with harm around it, and the suites once more.

Each result is given as it is known. Everything is in places of its own (`grounds`), which are removed at the end.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple

from evenflow.clock import SystemClock
from evenflow.errors import EvenflowError
from evenflow.ids import new_id
from evenflow.places import ENGINES, STORES, make_engine, make_store, parse
from evenflow.testing import engine_suite, store_suite
from evenflow.testing.grounds import EngineAt, Ground, Kind, StoreAt, ground_of
from evenflow.testing.harms import Commands, Harm, Stream, Way, around, harms, own_settings
from evenflow.testing.suite import NotApplicable, run_check
from evenflow.testing.ways import NoWay, Through, led
from evenflow.testing.workers import Workers

Outcome = Literal["stated", "passed", "failed", "does not apply"]
REMOVED = "everything made for this is removed"
HARMED = ("engine", "store", "server")
"""How the checks begin in which a server comes to harm, or the way to it."""
SQLITE = "sqlite:///{folder}/{name}.db"


class Result(NamedTuple):
    """One check. `reason`: why it failed or does not apply, and what else there is to say. Durations in seconds."""

    section: str
    check: str
    outcome: Outcome
    reason: str
    seconds: float

    @property
    def name(self) -> str:
        return f"{self.section}: {self.check}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be tried. `store` is the URL of a second server, beside the engine at `url`.

    only     words of which one has to be in a check's name, "section: check"; empty for all
    through  listeners of Kafka that may be proxied
    """

    url: str
    kind: Kind | None = None
    store: str = ""
    only: Sequence[str] = ()
    through: Sequence[Through] = ()
    commands: Commands = field(default_factory=Commands)

    def chosen(self, name: str) -> bool:
        return not self.only or any(each in name for each in self.only)


async def conform(wanted: Wanted) -> AsyncGenerator[Result]:
    """Run everything. Raises `EvenflowError` where it cannot begin."""
    async with AsyncExitStack() as stack:
        grounds = [await stack.enter_async_context(_cleared(url, kind)) for url, kind in _grounds(wanted)]
        for ground in grounds:
            yield await _stated(ground)
        async for result in _suites(wanted, grounds, ""):
            yield result
        done = set[str]()
        async for result in _stream(wanted, grounds):
            done |= {result.check} if result.outcome in ("passed", "failed") else set()
            yield result
        if any(check.startswith(HARMED) for check in done):
            async for result in _suites(wanted, grounds, " after harm"):
                yield result
        for ground in grounds:
            yield await _result(ground.kind, REMOVED, _removed(ground))


def _grounds(wanted: Wanted) -> list[tuple[str, Kind]]:
    scheme = parse(wanted.url).scheme
    kinds: list[Kind] = [wanted.kind] if wanted.kind else []
    if not kinds:
        rest = parse(wanted.url).rest
        is_engine = scheme in ENGINES and rest != ":memory:"
        is_store = scheme in STORES and (scheme != "memory") and not wanted.store
        kinds = [*(["engine"] if is_engine or not is_store else []), *(["store"] if is_store else [])]  # type: ignore[list-item]
    found = [(wanted.url, kind) for kind in kinds]
    return [*found, (wanted.store, "store")] if wanted.store else found


def _removed(ground: Ground) -> Callable[[], Awaitable[str]]:
    async def removed() -> str:
        await ground.clear()
        ground.cleared = True
        return ground.leaves

    return removed


@asynccontextmanager
async def _cleared(url: str, kind: Kind) -> AsyncGenerator[Ground]:
    ground = ground_of(url, kind)
    try:
        yield ground
    except EvenflowError:  # it could not begin, and that is what there is to say
        ground.cleared = True
        with suppress(EvenflowError):
            await ground.clear()
        raise
    finally:
        if not ground.cleared:
            ground.cleared = True
            await ground.clear()


async def _stated(ground: Ground) -> Result:
    """Open it once, so that what a start refuses is refused before anything else; and what it states of itself."""
    factory = EngineAt(ground) if ground.kind == "engine" else StoreAt(ground)
    began = time.monotonic()
    async with factory() as opened:
        facts = asdict(opened.capabilities)
    words = [name if value is True else f"not {name}" if value is False else f"{name}={value}"
             for name, value in facts.items()]  # fmt: skip
    return Result(ground.kind, "capabilities", "stated", ", ".join(words), time.monotonic() - began)


# -- the suites -------------------------------------------------------------------------------------------------------


async def _suites(wanted: Wanted, grounds: Sequence[Ground], again: str) -> AsyncGenerator[Result]:
    for ground in grounds:
        section = f"{ground.kind}{again}"
        checks: Sequence[Callable[[Any], Awaitable[None]]]
        checks = engine_suite.checks() if ground.kind == "engine" else store_suite.checks()
        named = [(_words(check), check) for check in checks]
        mine = [(name, check) for name, check in named if wanted.chosen(f"{section}: {name}")]
        shared = EngineAt(ground) if mine and ground.kind == "engine" else None
        for name, check in mine:
            factory = shared or StoreAt(ground)
            yield await _result(section, name, lambda check=check, factory=factory: _checked(check, factory))  # type: ignore[misc]


def _words(check: Callable[..., object]) -> str:
    return getattr(check, "__name__", "").removeprefix("check_").replace("_", " ")


async def _checked(check: Callable[[Any], Awaitable[None]], factory: object) -> str:
    await run_check(check, factory)
    return ""


async def _result(section: str, name: str, work: Callable[[], Awaitable[str]]) -> Result:
    began = time.monotonic()

    def result(outcome: Outcome, reason: str) -> Result:
        return Result(section, name, outcome, reason, time.monotonic() - began)

    try:
        return result("passed", await work())
    except NotApplicable as reason:
        return result("does not apply", str(reason))
    except AssertionError as error:
        return result("failed", str(error))
    except TimeoutError:
        return result("failed", "it hung")
    except Exception as error:
        return result("failed", f"{type(error).__name__}: {error}")


# -- the stream -------------------------------------------------------------------------------------------------------


async def _stream(wanted: Wanted, grounds: Sequence[Ground]) -> AsyncGenerator[Result]:
    why_not = _alone(grounds)
    if why_not:
        if wanted.chosen("stream: harm"):
            yield Result("stream", "harm", "does not apply", why_not, 0.0)
        return
    prefix = f"check.s{new_id().replace('-', '')[-12:]}."
    with TemporaryDirectory(prefix="evenflow-stream-") as name, ExitStack() as stack:
        folder = Path(name)
        env = {"EVENFLOW_TOPIC_PREFIX": prefix, "EVENFLOW_GROUP_PREFIX": prefix}
        ways: list[Way] = []
        for kind in ("engine", "store"):
            ground = next((each for each in grounds if each.kind == kind), None)
            url = SQLITE.format(folder=folder, name=kind) if ground is None else ground.fresh()
            if ground is not None:
                ground.topics.add(prefix)
                ground.groups.add(prefix)
                try:
                    url, proxies = led(url, wanted.through, stack)
                    ways.append(Way(kind, proxies))
                except NoWay as reason:
                    ways.append(Way(kind, (), str(reason)))
                except OSError as error:
                    ways.append(Way(kind, (), f"the proxy cannot listen: {error}"))
            env["EVENFLOW_ENGINE" if kind == "engine" else "EVENFLOW_STORES__STREAM"] = url
        with Workers(folder, {**env, **own_settings(folder)}) as workers:
            chosen = [each for each in harms(workers, wanted.commands, ways) if wanted.chosen(f"stream: {each.name}")]
            async for result in _harmed(workers, chosen):
                yield result


async def _harmed(workers: Workers, chosen: Sequence[Harm]) -> AsyncGenerator[Result]:
    if not chosen:
        return
    async with Stream.flowing(workers) as flow:

        async def began() -> str:
            return f"everything flowed after {await flow.goes_on():.1f} s"

        first = await _result("stream", "events flow before anything is harmed", began)
        yield first
        if first.outcome == "failed":
            return
        for harm in chosen:
            yield await _result("stream", harm.name, _around(flow, harm))

        async def ended() -> str:
            return f"{await flow.ends():,} events, each key in order, each effect once"

        yield await _result("stream", "everything published has had its effect", ended)


def _around(flow: Stream, harm: Harm) -> Callable[[], Awaitable[str]]:
    return lambda: around(flow, harm)


def _alone(grounds: Sequence[Ground]) -> str:
    """Why the stream cannot be in several processes."""
    for each in grounds:
        made = (
            make_engine(each.url, SystemClock()) if each.kind == "engine" else make_store(each.url, "x", SystemClock())
        )
        if not made.capabilities.shared or not made.capabilities.durable:
            return f"the {each.kind} is not shared by processes and durable"
    return ""
