"""Doctor: a check-up of a whole system. Looks from the ground up, and stops where nothing above can be told."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence

from evenflow.app import App
from evenflow.checkup import Finding
from evenflow.clock import Clock
from evenflow.errors import EvenflowError
from evenflow.operate.doctor_running import examine_running
from evenflow.operate.doctor_url import missing
from evenflow.operate.schema import plan_migrations
from evenflow.places import make_engine, make_store
from evenflow.settings import Settings
from evenflow.settings_sources import MEMORY_ENGINE, masked
from evenflow.store import Store


async def examine(app: App, settings: Settings, clock: Clock, *, deep: bool = True) -> AsyncGenerator[Finding]:
    """Everything that can be told of the app's system, running or not. `deep` reads the files for their integrity.

    Changes nothing.
    """
    for finding in _definition(app, settings):
        yield finding
    if settings.engine == MEMORY_ENGINE:
        yield Finding("warn", "engine", "it is in memory: only the process that runs the app sees anything of it")
        return
    sound, disks = True, set[Finding]()
    for url in settings.engine_urls():
        for finding in await _engine(url, clock, deep):
            sound = sound and (finding.level != "wrong" or finding.about == "disk")
            disks.add(finding)
            yield finding
    ready: list[str] = []
    unread = False
    for service in app.services:
        store = make_store(settings.store_url(service.name), service.name, clock)
        bad = False
        for finding in await _store(service.name, store, deep):
            bad = bad or (finding.level == "wrong" and finding.about != "disk")
            if finding not in disks:
                yield finding
        for finding in [] if bad else await _migrations(app, service.name, settings, clock):
            bad = bad or finding.level == "wrong"
            yield finding
        sound = sound and not bad
        made = None if bad else await _made(store)
        if made:
            ready.append(service.name)
        elif made is False:
            older = "its tables are of an older version, so its groups are not looked at"
            yield Finding("warn", f"schema of {service.name}", older, "evenflow migrate apply, or start it")
            unread = True
    if not sound:
        yield Finding("warn", "groups", "not looked at, for what is wrong above")
    elif ready and (lost := [url for url in settings.engine_urls() if missing(url)]):
        remedy = (
            "if its URL is wrong, correct it (evenflow config); if it is lost, restore it, or start: groups stop then"
        )
        yield Finding("wrong", "the event log", f"{masked(lost[0])} is not there, and the stores have read it", remedy)
    elif not ready and not unread:
        yield Finding("ok", "groups", "no service has run here yet", "evenflow run")
    elif ready:
        async for finding in _running(app, settings, clock, ready):
            yield finding


async def _running(app: App, settings: Settings, clock: Clock, ready: list[str]) -> AsyncGenerator[Finding]:
    try:
        async with app.running(handle=ready, settings=settings, clock=clock, join=False) as running:
            async for finding in examine_running(running):
                yield finding
    except EvenflowError as error:
        yield Finding("wrong", "start", error.message, error.remedy)


def _definition(app: App, settings: Settings) -> Iterator[Finding]:
    problems = app.check()
    for each in problems:
        yield Finding("wrong", "definition", f"{each.where}: {each.plain}".removeprefix(": "), each.remedy)
    if not problems:
        yield Finding("ok", "definition", f"app {app.name}: {len(app.services)} services, nothing wrong in the code")
    topics = {topic.name for service in app.services for spec in service.read()[0] for topic in spec.topics}
    try:
        for line in settings.check_names([each.name for each in app.services], topics):
            yield Finding("warn", "settings", line, "evenflow config shows where it comes from")
    except EvenflowError as error:
        yield Finding("wrong", "settings", error.message, error.remedy)


async def _engine(url: str, clock: Clock, deep: bool) -> Sequence[Finding]:
    try:
        return await make_engine(url, clock).examine(deep=deep)
    except EvenflowError as error:
        return [Finding("wrong", "engine", f"{masked(url)}: {error.message}", error.remedy)]


async def _store(service: str, store: Store, deep: bool) -> list[Finding]:
    try:
        found = await store.examine(deep=deep)
    except EvenflowError as error:
        return [Finding("wrong", f"store of {service}", error.message, error.remedy)]
    return [each._replace(about=f"store of {service}") if each.about == "the store" else each for each in found]


async def _made(store: Store) -> bool | None:
    """Whether it has all our tables, so that opening it changes nothing; None where it is not there yet."""
    there = {each.number for each in await store.applied() if each.owner == "evenflow"}
    return there >= {each.number for each in store.own_migrations()} if there else None


async def _migrations(app: App, service: str, settings: Settings, clock: Clock) -> list[Finding]:
    about = f"schema of {service}"
    try:
        (plan,) = await plan_migrations(app, settings, clock, [service])
    except EvenflowError as error:
        return [Finding("wrong", about, error.message, error.remedy)]
    found = [
        Finding("wrong", about, f"{step.migration.name} was changed after it was applied, which a start refuses",
                "put its text back, and write the change as a new migration")
        for step in plan.in_state("changed")
    ]  # fmt: skip
    found += [
        Finding("warn", about, f"{step.migration.name} was applied, and its file is gone", "put it back")
        for step in plan.in_state("gone")
    ]
    pending = len(plan.in_state("pending"))
    said = f"{pending} pending, applied at the next start" if pending else "nothing is pending"
    return [*found, Finding("ok", about, said, "evenflow migrate plan" if pending else "")]
