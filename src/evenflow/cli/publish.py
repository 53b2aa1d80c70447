"""publish."""

from __future__ import annotations

import asyncio
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import msgspec

from evenflow.app import App
from evenflow.cli.failures import Code, UsageError, relative
from evenflow.cli.filters import fields_of
from evenflow.cli.load import load_app
from evenflow.cli.output import paint, say
from evenflow.codecs.json import JsonCodec
from evenflow.errors import DecodeError, Refused
from evenflow.event import EventSpec, spec_of
from evenflow.operate import NotFound
from evenflow.settings import Settings
from evenflow.settings_sources import MEMORY_ENGINE, suggestion


def publish(options: Namespace) -> int:
    """Publish one event, as the app's code would."""
    app, settings = load_app(options.app), Settings.load()
    spec = _spec(app, options.type)
    event = _event(spec, _given(options.json))
    if settings.engine == MEMORY_ENGINE:
        raise Refused("the engine is in memory: no other process would see the event", remedy="run it on files")
    asyncio.run(_publish(app, settings, event, _service(app, options)))
    key = spec.key_of(event)
    about = f"{spec.type}{'' if key is None else f' (key {key})'}"
    to = f"kept in the outbox, due in {options.after:g} s" if options.after else f"published to {spec.topic.name}"
    say(paint(f"{about} is {to}", "green", sys.stderr))
    return Code.DONE


async def _publish(app: App, settings: Settings, event: Any, kept: tuple[str, float] | None) -> None:
    async with app.running(settings=settings, join=False) as running:
        for name in running.stores:
            await running.create_groups(name)
        if kept is None:
            await app.publish(event)
            return
        service, after = kept
        async with app.transaction(service) as tx:
            tx.publish(event, after=after)


def _service(app: App, options: Namespace) -> tuple[str, float] | None:
    names = [each.name for each in app.services]
    if options.service is not None and options.service not in names:
        hint = suggestion(options.service, names) or f"known: {', '.join(names) or 'none'}"
        raise NotFound(f"this app has no service {options.service!r}", remedy=hint)
    if options.after is None:
        return None
    if options.service is None and len(names) != 1:
        raise UsageError("--after needs to know whose outbox keeps the event", remedy=f"--service {' or '.join(names)}")
    return options.service or names[0], options.after


def _spec(app: App, name: str) -> EventSpec:
    specs = [spec_of(cls) for cls in app.event_classes()]
    for spec in specs:
        if name in (spec.type, spec.cls.__name__):
            return spec
    known = [spec.type for spec in specs]
    hint = suggestion(name, [*known, *(spec.cls.__name__ for spec in specs)])
    raise NotFound(f"this app has no event {name!r}", remedy=hint or f"known: {', '.join(known) or 'none'}")


def _given(text: str) -> bytes:
    if text == "-":
        return sys.stdin.buffer.read()
    if not text.startswith("@"):
        return text.encode()
    try:
        return Path(text[1:]).read_bytes()
    except OSError as error:
        raise UsageError(f"{text[1:]} cannot be read: {error.strerror}") from None


def _event(spec: EventSpec, data: bytes) -> Any:
    try:
        event = JsonCodec().reader(spec)(spec.topic.name, None, data)
    except Exception as error:
        reason = error.reason if isinstance(error, DecodeError) else f"{error}"
        remedy = f"its fields are those of {spec.cls.__qualname__}, {relative(spec.where)}"
        raise UsageError(f"this is no {spec.type}: {reason}", remedy=remedy) from error
    _refuse_unknown(spec, data)
    return event


def _refuse_unknown(spec: EventSpec, data: bytes) -> None:
    """A reader passes over fields that it does not know; of one typed by hand that would lose what was meant."""
    known = fields_of(spec)
    if known is None:
        return
    for name in msgspec.json.decode(data):
        if name not in known:
            raise UsageError(
                f"{spec.type} has no field {name!r}", remedy=suggestion(name, known) or f"known: {', '.join(known)}"
            )
