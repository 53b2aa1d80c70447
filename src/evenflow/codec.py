"""CONTRACT: how an event becomes bytes. A codec is asked once per event class, and answers with plain functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from evenflow.event import EventSpec

Writer = Callable[[Any], bytes]
Reader = Callable[[str, Mapping[str, str] | None, bytes], Any]


class BytesReader:
    """A reader that looks at the bytes alone. The runner calls `decode` itself, which saves a call per event."""

    __slots__ = ("decode",)

    def __init__(self, decode: Callable[[bytes], Any]) -> None:
        self.decode = decode

    def __call__(self, _topic: str, _headers: Mapping[str, str] | None, data: bytes) -> Any:
        return self.decode(data)


class Codec(Protocol):
    """Bytes from and to events. `reader` and `writer` are called once per class; what they return is the hot path."""

    name: str
    content_type: str

    def writer(self, spec: EventSpec) -> Writer:
        """A function from an event to bytes. It may raise anything; the caller names the event."""
        ...

    def reader(self, spec: EventSpec) -> Reader:
        """A function from (topic, headers, bytes) to an event of the class, at its current version.

        It may raise anything; the caller turns it into `DecodeError`. Best a `BytesReader`, where the bytes suffice.
        """
        ...

    def loads(self, topic: str, headers: Mapping[str, str] | None, data: bytes) -> Any:
        """The bytes as plain dicts, lists, text and numbers: for upcasters and for showing them to a person."""
        ...
