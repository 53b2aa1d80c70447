"""A parked event as one line of JSON: its place, its envelope byte for byte, and its history."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from evenflow.envelope import Envelope, pack
from evenflow.errors import EvenflowError
from evenflow.operate.letters import Attempt, Letter

FORMAT = 1


class FileInvalid(EvenflowError):
    """A file does not hold what an export writes."""


class Paper(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """An envelope in words. `data` is the payload where it is text, else `data_base64`."""

    id: str
    source: str
    type: str
    version: int
    key: str | None
    slot: int
    time: float
    data: str | None = None
    data_base64: bytes | None = None
    producer: str = ""
    number: int = 0
    correlation: str = ""
    causation: str = ""
    content_type: str = ""
    headers: dict[str, str] | None = None


class Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One parked event. `format` rises when older code could not read it any more."""

    format: int
    group: str
    topic: str
    log: str
    lane: str
    generation: int
    partition: int
    offset: int
    slot: int
    head: bool
    due: float | None
    attempts: int
    error_type: str | None
    error: str | None
    fingerprint: str | None
    first_failed: float | None
    failed: float | None
    parked: float
    envelope: Paper
    original: Paper | None
    history: list[Attempt]


def line_of(letter: Letter, log: str, history: Sequence[Attempt]) -> Line:
    """A parked event as it is written; `log` is the incarnation that its offset belongs to."""
    return Line(
        format=FORMAT, group=letter.group, topic=letter.topic, log=log, lane=letter.lane, generation=letter.generation,
        partition=letter.partition, offset=letter.offset, slot=letter.slot, head=letter.head, due=letter.due,
        attempts=letter.attempts, error_type=letter.error_type, error=letter.error, fingerprint=letter.fingerprint,
        first_failed=letter.first_failed, failed=letter.failed, parked=letter.parked,
        envelope=paper_of(letter.envelope), original=None if letter.original is None else paper_of(letter.original),
        history=list(history),
    )  # fmt: skip


def paper_of(envelope: Envelope) -> Paper:
    """An envelope in words, from which `envelope_of` makes the same."""
    given = {name: getattr(envelope, name) for name in Envelope.__struct_fields__ if name != "data"}
    try:
        return Paper(**given, data=envelope.data.decode())
    except UnicodeDecodeError:
        return Paper(**given, data_base64=envelope.data)


def envelope_of(paper: Paper) -> Envelope:
    """The envelope again."""
    given = {name: getattr(paper, name) for name in Envelope.__struct_fields__ if name != "data"}
    return Envelope(**given, data=(paper.data_base64 or b"") if paper.data is None else paper.data.encode())


def digest(envelope: Envelope, original: Envelope | None) -> bytes:
    """What tells whether an event comes back as it went."""
    return hashlib.sha256(pack([envelope] if original is None else [envelope, original])).digest()


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Line).decode


def written(lines: Iterable[Line]) -> bytes:
    """JSON, a line each."""
    return b"".join(_encode(each) + b"\n" for each in lines)


def read(rows: Iterable[bytes]) -> Iterator[Line]:
    """The inverse of `written`. Raises `FileInvalid` with the number of the line."""
    for number, row in enumerate(rows, 1):
        if not row.strip():
            continue
        try:
            line = _decode(row)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise FileInvalid(
                f"line {number} is no parked event: {error}", remedy="give a file that `evenflow parked export` wrote"
            ) from None
        if line.format > FORMAT:
            raise FileInvalid(f"line {number} was written by newer code", remedy="take it back with that")
        yield line
