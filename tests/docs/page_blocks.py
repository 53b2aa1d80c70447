"""The fenced blocks of a page, and how an output that is shown is compared with one that came."""

from __future__ import annotations

import re
from typing import NamedTuple

FENCE = re.compile(r"^(?P<fence>`{3,})(?P<info>[^\n`]*)\n(?P<text>.*?)^(?P=fence)[ ]*$", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"(?:#|--) (?P<name>[\w./-]+\.\w+)\n")
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")

VARY = (
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?"), "DATE"),
    (re.compile(r"(?<!\d)\d\d:\d\d:\d\d(\.\d{3})?\b"), "TIME"),
    (re.compile(r"\bpid (?:\d+|…)"), "PID"),
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"), "ID"),
    (re.compile(r"(?<![\w.])\d+\.\d+ (s|ms|min)\b"), "SPAN"),
    (re.compile(r"(?<=\S)  +"), "  "),
)


class Block(NamedTuple):
    """One fence of a page. `shown` is the output that the text block right after it promises."""

    line: int
    language: str
    text: str
    shown: str | None

    @property
    def file(self) -> str | None:
        """The file that the block is, as its first line says."""
        named = NAMED.match(self.text)
        return named["name"] if named else None


def blocks(page: str) -> list[Block]:
    """All blocks but directives and the text blocks that are another's output."""
    found: list[Block] = []
    for match in FENCE.finditer(page):
        language = match["info"].strip()
        line = page.count("\n", 0, match.start()) + 1
        if language == "text" and found and found[-1].language == "python" and found[-1].shown is None:
            found[-1] = found[-1]._replace(shown=match["text"])
        elif not language.startswith("{"):
            found.append(Block(line, language, match["text"], None))
    return found


def same(shown: str, came: str) -> bool:
    """Whether this came. What varies (times, ids, processes) may differ; … stands for anything in a line or for lines."""
    return re.fullmatch(_pattern(shown), f"{_plain(came)}\n") is not None


def begins(shown: str, came: str) -> bool:
    """Whether all of what is shown has come so far."""
    return re.match(_pattern(shown), f"{_plain(came)}\n") is not None


def readable(text: str) -> str:
    """Without what moves a cursor or gives a colour."""
    return CONTROL.sub("", text)


def _plain(text: str) -> str:
    lines = [line.rstrip() for line in readable(text).strip().splitlines()]
    plain = "\n".join(lines)
    for pattern, word in VARY:
        plain = pattern.sub(word, plain)
    return plain


def _pattern(shown: str) -> str:
    lines = []
    for line in _plain(shown).splitlines():
        inside = "[^\n]*".join(re.escape(part) for part in line.split("…"))
        lines.append(r"(?:[^\n]*\n)*?" if line.strip() == "…" else rf"{inside}\n")
    return "".join(lines) or r"\n"
