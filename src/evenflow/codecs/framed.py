"""What codecs with a schema registry have in common: a zero, the number of the schema in 4 bytes, then the content.

Which schema an event is written with is settled once per class: `register` adds it to the subject `<topic>-value`,
otherwise it has to be there.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evenflow.codec import FRAME, FRAMED, Reader, Writer
from evenflow.codecs.schemas import Schema, Schemas
from evenflow.errors import Refused, SchemasUnavailable

if TYPE_CHECKING:
    from evenflow.event import EventSpec

log = logging.getLogger("evenflow")

ASK_AGAIN = 5.0
"""Seconds until it is asked again which schema a class is written with."""


class FramedCodec(ABC):
    """A codec whose schemas are kept in a registry. One object belongs to one App, which makes it learn."""

    name = ""
    content_type = ""
    kind = ""
    """What the registry calls schemas of this form."""

    def __init__(self, *, register: bool) -> None:
        self._register = register
        self._schemas: Schemas | None = None
        self._place: Callable[[str], str] = str
        self._writers: dict[str, Writer] = {}
        self._reasons: dict[str, str] = {}
        self._asked: dict[str, float] = {}

    @property
    def schemas(self) -> Schemas:
        """The registry. Raises `SchemasUnavailable` before the app is open."""
        if self._schemas is None:
            raise SchemasUnavailable(
                f"the codec {self.name!r} has no schema registry",
                remedy="open the app, which gives it that of EVENFLOW_REGISTRY",
            )
        return self._schemas

    async def learn(self, schemas: Schemas, specs: Sequence[EventSpec], place: Callable[[str], str]) -> None:
        """Settle what these classes are written with. Raises `Refused` for a schema that does not fit its subject."""
        self._schemas, self._place = schemas, place
        self._writers.clear()
        self._reasons.clear()
        self._asked.clear()
        for spec in specs:
            try:
                await self._settle(spec)
            except SchemasUnavailable as error:
                log.warning("%s cannot be published yet: %s", spec.cls.__qualname__, error.message)

    async def prepare(self, data: Iterable[bytes]) -> None:  # noqa: B027  # of other kinds
        """Reading needs nothing of the registry."""

    def writer(self, spec: EventSpec) -> Writer:
        writers, kind = self._writers, spec.type

        def write(event: Any) -> bytes:
            found = writers.get(kind)
            if found is None:
                raise self._unsettled(spec)
            return found(event)

        return write

    @abstractmethod
    def reader(self, spec: EventSpec) -> Reader: ...

    @abstractmethod
    def loads(self, topic: str, headers: Mapping[str, str] | None, data: bytes) -> Any: ...

    @abstractmethod
    def text(self, spec: EventSpec) -> str:
        """The schema of a class, as it is registered, or "" where only the registry has it."""

    @abstractmethod
    def compiled(self, spec: EventSpec, schema: Schema) -> Writer:
        """What writes events of a class with this schema, frame and all."""

    def exact(self, spec: EventSpec) -> bool:  # noqa: ARG002  # of other kinds
        """Whether the subject has to have the very schema of the class; otherwise its latest is written with."""
        return False

    # -- what a class is written with -------------------------------------------------------------------------------

    async def _settle(self, spec: EventSpec) -> None:
        subject = f"{self._place(spec.topic.name)}-value"
        schema = await (self._registered(spec, subject) if self._register else self._found(spec, subject))
        if isinstance(schema, str):
            self._reasons[spec.type] = schema
            return
        self._writers[spec.type] = self.compiled(spec, schema)
        self._reasons.pop(spec.type, None)

    async def _registered(self, spec: EventSpec, subject: str) -> Schema:
        text = self.text(spec)
        if not text:
            raise Refused(
                f"{spec.cls.__qualname__} has no schema that could be registered for {subject!r}",
                remedy=f"give it to the codec: {type(self).__name__}({{{spec.cls.__qualname__}: …}}, register=True)",
            )
        misfits = await self.schemas.misfits(subject, self.kind, text)
        if misfits:
            raise Refused(
                f"the schema of {spec.cls.__qualname__} does not fit those that {subject!r} has: {'; '.join(misfits)}",
                remedy="make the change one that its readers can take (a default for what is new), or change the rule "
                "of compatibility of that subject in the registry",
            )
        return Schema(await self.schemas.register(subject, self.kind, text), self.kind, text)

    async def _found(self, spec: EventSpec, subject: str) -> Schema | str:
        """The schema, or why there is none."""
        if self.exact(spec):
            text = self.text(spec)
            number = await self.schemas.number_of(subject, self.kind, text)
            if number is not None:
                return Schema(number, self.kind, text)
            return f"{subject!r} does not have its schema: register it, or let the codec do that with register=True"
        latest = await self.schemas.latest(subject)
        if latest is None:
            return f"the registry has no schema for {subject!r}: register one, or let the codec do that, register=True"
        if latest.kind != self.kind:
            return f"{subject!r} is of {latest.kind}, and the codec of its topic is {self.name!r}"
        return latest

    def _unsettled(self, spec: EventSpec) -> Exception:
        now, schemas = time.monotonic(), self.schemas
        if now - self._asked.get(spec.type, -ASK_AGAIN) >= ASK_AGAIN:
            self._asked[spec.type] = now
            schemas.later(lambda: self._settle(spec))
        reason = self._reasons.get(spec.type)
        if reason is not None:
            return ValueError(reason)
        return SchemasUnavailable(f"it is not known yet which schema {spec.cls.__qualname__} is written with")


def number_in(data: bytes) -> int:
    """The number of the schema that bytes name. Raises `ValueError` where they name none."""
    if len(data) < FRAME or not data.startswith(FRAMED):
        raise ValueError("it does not begin with the number of a schema, as a registry's serializers write it")
    return int.from_bytes(data[1:FRAME], "big")


def frame(number: int) -> bytes:
    """How content of this schema begins."""
    return FRAMED + number.to_bytes(4, "big")
