"""What a relay sets aside: an event over the limit of its topic, and what comes behind it in its slot.

Order per key is kept, nothing is lost, and other slots go on. The engine is asked again every so often: when somebody
has raised the limit, all of it goes out, in order.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

from evenflow.envelope import Envelope

AGAIN = 5.0
"""Seconds after which what was set aside is tried again."""
ROWS = 1000
"""Rows of an outbox that are set aside at most; more of them hold up what comes behind."""

log = logging.getLogger("evenflow")


class Aside:
    """What one relay has set aside, by topic and slot; which rows of the outbox have nothing else in them."""

    def __init__(self, source: str) -> None:
        self.trouble = ""
        self.left: set[str] = set()
        """Ids of events that the append just now has set aside."""
        self._source = source
        self._slots: dict[str, set[int]] = {}
        self._rows: dict[int, None] = {}
        self._again = 0.0
        self._said: set[str] = set()

    def rows(self, now: float) -> Collection[int]:
        """The rows that are not to be looked at now. From time to time there is none: all are tried again."""
        if self._rows and now >= self._again:
            self._slots, self._rows, self.trouble = {}, {}, ""
        return self._rows

    def without(self, topic: str, envelopes: list[Envelope]) -> list[Envelope]:
        """Those that need not wait behind another; the others are `left`."""
        slots = self._slots.get(topic)
        if not slots:
            return envelopes
        self.left.update([each.id for each in envelopes if each.slot in slots])
        return [each for each in envelopes if each.slot not in slots]

    def found(self, topic: str, over: Mapping[int, Envelope], why: str, now: float) -> None:
        """These, by slot, are over the limit of their topic, for what reason the engine has given."""
        if not self._slots:
            self._again, self._said = now + AGAIN, self._said if len(self._said) < ROWS else set()
        self._slots.setdefault(topic, set()).update(over)
        for each in over.values():
            self.trouble = f"{named(each, topic)} is not taken: {why}"
            if each.id not in self._said:
                self._said.add(each.id)
                log.error("outbox of %s: %s; it waits, and so do later events of its slot", self._source, self.trouble)

    def put(self, row: int) -> bool:
        """Set a row aside; False when too many are."""
        if len(self._rows) < ROWS:
            self._rows[row] = None
        return row in self._rows


def named(envelope: Envelope, topic: str) -> str:
    """An event, in words for a person."""
    key = "" if envelope.key is None else f" (key {envelope.key[:100]})"
    return f"the event {envelope.type} {envelope.id}{key} of {topic!r}"
