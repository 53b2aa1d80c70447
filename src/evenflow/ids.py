"""Names, ids, keys, slots: what is written into logs and stores and can never change. Test vectors hold all of it."""

from __future__ import annotations

import os
import re
import time
import uuid
import zlib
from collections.abc import Callable
from hashlib import blake2b

import msgspec

SLOTS = 256
NAME = re.compile(r"[a-z][a-z0-9]*(?:[._-][a-z0-9]+)*")
NAME_LIMIT = 100
OTHERS = re.compile(r"[A-Za-z0-9._-]{1,249}")
NAME_RULE = f"small letters and digits, parted by single '.', '-' or '_', starting with a letter, at most {NAME_LIMIT}"
OTHERS_RULE = "another team's topic may have capitals too, and 249 letters"

_json = msgspec.json.Encoder().encode


def is_name(text: str) -> bool:
    """Whether the text may name a service, group, topic, event type or schedule."""
    return len(text) <= NAME_LIMIT and NAME.fullmatch(text) is not None


def is_topic_of_others(text: str) -> bool:
    """Whether the text may name another team's topic: as Kafka names them, without the `--` that is ours."""
    return OTHERS.fullmatch(text) is not None and "--" not in text and text not in (".", "..")


def slot_of(key: str) -> int:
    """CRC-32 (as in zlib, IEEE 802.3) of the key's UTF-8, modulo 256."""
    return zlib.crc32(key.encode()) & 0xFF


def key_text(values: tuple[object, ...]) -> str:
    """A key of one field is its text; one of several is a compact JSON array of their texts."""
    if len(values) == 1:
        return key_part(values[0])
    return _json([key_part(value) for value in values]).decode()


def key_part(value: object) -> str:
    """The text of one key field: strings as they are, integers in decimal, UUIDs in their usual form."""
    kind = type(value)
    if kind is str:
        return value  # type: ignore[return-value]  # narrowed by type() for speed
    if kind is int or kind is uuid.UUID:
        return str(value)
    if isinstance(value, str):
        return str.__str__(value)
    raise TypeError(f"a key is text, an integer or a UUID, not {kind.__name__}")


def new_id(now: Callable[[], float] = time.time, random: Callable[[int], bytes] = os.urandom) -> str:
    """A UUIDv7: sorts by time of creation."""
    seed = int.from_bytes(random(10), "big")
    moment, tail = int(now() * 1000) & 0xFFFFFFFFFFFF, 0x8 << 60 | seed & 0x1FFFFFFFFFFFFFFF
    return _dashed(f"{moment:012x}7{seed >> 64 & 0xFFF:03x}{tail:016x}")


def new_ids(count: int, now: float, random: Callable[[int], bytes] = os.urandom) -> list[str]:
    """UUIDv7s of one moment (Unix time), rising: the first is random, the others count on from it (RFC 9562, 6.2)."""
    seed = int.from_bytes(random(10), "big")
    moment = f"{int(now * 1000) & 0xFFFFFFFFFFFF:012x}"
    head = f"{moment[:8]}-{moment[8:]}-7{seed >> 64 & 0xFFF:03x}-"
    tail = seed & 0x1FFFFFFFFFFFFFFF  # one bit free, so that counting on does not overflow
    ids: list[str] = []
    for block in range(tail >> 8, (tail + count + 0xFF) >> 8):  # whose ids differ in their last two digits alone
        start = f"{head}{0x8000 | block >> 40:04x}-{block & 0xFFFFFFFFFF:010x}"
        low, high = max(tail - (block << 8), 0), min(tail + count - (block << 8), 0x100)
        ids += [start + each for each in _HEX[low:high]]
    return ids


_HEX = [f"{each:02x}" for each in range(0x100)]


def derived_id(*parts: str) -> str:
    """A UUIDv8 that is the same for the same parts: ids of events that a handler publishes."""
    digest = blake2b("\x00".join(parts).encode(), digest_size=16).digest()
    value = int.from_bytes(digest, "big") & ~(0xF << 76) & ~(0x3 << 62) | 0x8 << 76 | 0x2 << 62
    return _dashed(f"{value:032x}")


def _dashed(text: str) -> str:
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
