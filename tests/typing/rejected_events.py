"""What users may write by mistake about events: both checkers must complain about each marked line, and no other."""

from __future__ import annotations

from dataclasses import dataclass

from evenflow.event import Event, event, replace
from evenflow.topic import Topic

ORDERS = Topic("orders", partitions=16)


class Placed(Event, type="placed", topic=ORDERS, key="order_id"):
    order_id: str
    count: int = 0


Placed()  # expect-error
Placed(order_id=1)  # expect-error
Placed("1")  # expect-error
Placed(order_id="1", colour="red")  # expect-error
placed = Placed(order_id="1")
placed.count = 2  # expect-error
placed.colour  # expect-error
replace(placed, count=1).colour  # expect-error


class NoTopicButText(Event, type="a", topic="orders"):  # expect-error
    pass


class NumberAsKey(Event, type="b", topic=ORDERS, key=1):  # expect-error
    pass


class ListAsKey(Event, type="c", topic=ORDERS, key=["a", "b"]):  # expect-error
    pass


class TextAsVersion(Event, type="d", topic=ORDERS, version="2"):  # expect-error
    pass


class UnknownWord(Event, type="e", topic=ORDERS, colour="red"):  # expect-error
    pass


class WrongUpcaster(Event, type="f", topic=ORDERS, version=2, upcasters={1: len}):  # expect-error
    pass


@event(topic=ORDERS)  # expect-error
@dataclass
class NoType:
    pass


@event("g", topic=ORDERS)  # expect-error
@dataclass
class Positional:
    pass


@event(type="h", topic="orders")  # expect-error
@dataclass
class TextAsTopic:
    pass


Topic("orders", 16)  # expect-error
Topic("orders", partitions="16")  # expect-error
Topic("orders", colour="red")  # expect-error
ORDERS.partitions = 8  # expect-error
