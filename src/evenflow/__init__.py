"""Event-driven applications: typed events, plain async handlers, one promise on every engine."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from evenflow import errors as errors
from evenflow.errors import EvenflowError

if TYPE_CHECKING:
    from evenflow.app import App
    from evenflow.clock import DAY, HOUR, MINUTE
    from evenflow.codec import Codec
    from evenflow.codecs.json import JsonCodec
    from evenflow.codecs.msgpack import MsgpackCodec
    from evenflow.envelope import Envelope
    from evenflow.event import Event, event, replace
    from evenflow.handler import Delivery
    from evenflow.policy import Policy, Reject, RetryLater
    from evenflow.protection.breaker import Breaker
    from evenflow.protection.limiting import Limit
    from evenflow.records import Records
    from evenflow.schedules.schedule import Due
    from evenflow.service import Service
    from evenflow.settings import Settings
    from evenflow.topic import Topic
    from evenflow.unit_of_work import Transaction

__version__ = "0.1.0"

__all__ = [
    "DAY",
    "HOUR",
    "MINUTE",
    "App",
    "Breaker",
    "Codec",
    "Delivery",
    "Due",
    "Envelope",
    "EvenflowError",
    "Event",
    "JsonCodec",
    "Limit",
    "MsgpackCodec",
    "Policy",
    "Records",
    "Reject",
    "RetryLater",
    "Service",
    "Settings",
    "Topic",
    "Transaction",
    "__version__",
    "event",
    "replace",
]

_HOMES = {
    "app": ("App",),
    "protection.breaker": ("Breaker",),
    "clock": ("DAY", "HOUR", "MINUTE"),
    "codec": ("Codec",),
    "codecs.json": ("JsonCodec",),
    "codecs.msgpack": ("MsgpackCodec",),
    "envelope": ("Envelope",),
    "event": ("Event", "replace"),
    "handler": ("Delivery",),
    "protection.limiting": ("Limit",),
    "policy": ("Policy", "Reject", "RetryLater"),
    "records": ("Records",),
    "schedules.schedule": ("Due",),
    "service": ("Service",),
    "settings": ("Settings",),
    "topic": ("Topic",),
    "unit_of_work": ("Transaction",),
}


if not TYPE_CHECKING:  # a checker that saw it would take every name for one of ours

    def __getattr__(name: str) -> Any:
        """Each name is imported when it is first asked for, so that `import evenflow` costs next to nothing."""
        for home, names in _HOMES.items():
            if name in names:
                found = globals()[name] = getattr(import_module(f"evenflow.{home}"), name)
                return found
        raise AttributeError(f"module 'evenflow' has no attribute {name!r}", name=name, obj=sys.modules[__name__])


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _FrontDoor(ModuleType):
    """`evenflow.event` is the decorator, also after the module of that name was imported, which would cover it."""

    @property
    def event(self) -> Any:
        return import_module("evenflow.event").event

    @event.setter
    def event(self, _: ModuleType) -> None: ...


sys.modules[__name__].__class__ = _FrontDoor
