"""What users import from the front door is known to both checkers by its own type."""

from __future__ import annotations

from dataclasses import dataclass

import evenflow
from evenflow import DAY, App, Envelope, Event, Policy, Service, Settings, Topic, Transaction, event, replace


@event(type="seen", topic=Topic("seen", partitions=1))
@dataclass(frozen=True)
class Seen:
    name: str


class Made(evenflow.Event, type="made", topic=evenflow.Topic("made", partitions=1)):
    name: str


made: Made = replace(Made(name="a"), name="b")
seen: Seen = evenflow.event(type="s", topic=Topic("s", partitions=1))(Seen)("a")
service: Service = Service("s", policy=Policy(attempts=int(DAY)))
app: App = evenflow.App(service)
kinds: tuple[type[Event], type[Transaction], type[Envelope], type[Settings]] = (Event, Transaction, Envelope, Settings)


def fails() -> None:
    raise evenflow.errors.Refused("no", remedy="yes")
