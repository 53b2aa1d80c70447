"""Topics: named logs that one publishes to. Facts of a topic stand in code; where it lives stands in settings."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from math import inf

from evenflow.errors import DefinitionError
from evenflow.ids import NAME_RULE, OTHERS_RULE, SLOTS, is_name, is_topic_of_others
from evenflow.records import Records

JSON_CODECS = ("json", "json-schema")
"""Codecs whose bytes are JSON, so that a field of it can be looked at before it is known what it is."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A named log.

    With `partitions` it is declared by its owner: made when missing, grown as a new generation when the number
    changes. Without, it is another team's, and nothing about it may be said here.

    partitions       a power of two, 1 to 256; what one process of a group owns at a time
    retention        seconds that an event is kept; None: for ever
    retention_bytes  bytes of events kept per partition; None: no bound
    compacted        keep only the latest event of each key (the promise is then: the latest per key)
    codec            "json" (the default) or "msgpack", or the name of a codec given to the App
    records          how records of others, which are no events of Evenflow, become events
    backlog          events that the slowest group may have before it; then publishers wait, handlers excepted
    backlog_wait     seconds that they wait for it before `BacklogFull` is raised; 0: at once
    """

    name: str
    _: KW_ONLY
    partitions: int | None = None
    retention: float | None = None
    retention_bytes: int | None = None
    compacted: bool = False
    codec: str = "json"
    records: Records | None = None
    backlog: int | None = None
    backlog_wait: float = 30.0

    def __post_init__(self) -> None:
        count = self.partitions
        if not is_name(self.name) and not (count is None and is_topic_of_others(self.name)):
            remedy = f"use {NAME_RULE}; {OTHERS_RULE}"
            raise DefinitionError(f"the topic name {self.name!r} cannot be used", remedy=remedy)
        facts = (self.retention, self.retention_bytes, self.backlog)
        if count is None and (self.compacted or any(fact is not None for fact in facts)):
            raise DefinitionError(
                f"Topic({self.name!r}) states facts without partitions",
                remedy="its owner declares it, with partitions=…; others write Topic(name) alone",
            )
        if count is not None and (not 1 <= count <= SLOTS or count & (count - 1)):
            raise DefinitionError(
                f"Topic({self.name!r}) has partitions={count}", remedy=f"use a power of two from 1 to {SLOTS}"
            )
        for fact, value in (("retention", self.retention), ("retention_bytes", self.retention_bytes)):
            if value is not None and value <= 0:
                raise DefinitionError(f"Topic({self.name!r}) has {fact}={value}", remedy="use a positive number")
        self._check_backlog()
        if self.records is not None and self.records.field and self.codec not in JSON_CODECS:
            raise DefinitionError(
                f"Topic({self.name!r}) looks for the type in the field {self.records.field!r}, and its codec is "
                f"{self.codec!r}",
                remedy="a field can be looked for in JSON alone: use Records(header=…) or Records(always=…)",
            )

    def _check_backlog(self) -> None:
        limit, wait = self.backlog, self.backlog_wait
        if limit is not None and not (isinstance(limit, int) and limit >= 1):
            raise DefinitionError(f"Topic({self.name!r}) has backlog={limit!r}", remedy="use 1 event or more, or None")
        if not (isinstance(wait, (int, float)) and 0 <= wait < inf):
            raise DefinitionError(
                f"Topic({self.name!r}) has backlog_wait={wait!r}", remedy="use 0 (refuse at once) or more seconds"
            )

    @property
    def owned(self) -> bool:
        """Whether this code declares the topic, rather than using another team's."""
        return self.partitions is not None
