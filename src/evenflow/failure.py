"""A failure as it is written down: its text for a person, and a fingerprint that failures alike have in common."""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b

from evenflow.policy import Again, Decision, Retry

ERROR_LIMIT = 4000
NORMAL_LIMIT = 1000
"""Characters of an error's text that its fingerprint is made of."""


@dataclass(frozen=True, slots=True, eq=False)
class Failure:
    """One attempt that failed. `at` is Unix time; `earlier` the attempt in place before it, if there was one."""

    error: BaseException
    attempt: int
    decision: Decision
    at: float
    earlier: Failure | None = None

    @property
    def counted(self) -> int:
        """How many attempts the event has had by now, as its policy counts them."""
        return self.attempt if not isinstance(self.decision, Retry) or self.decision.counts else self.attempt - 1

    @property
    def due(self) -> float | None:
        """When it is tried again; None for a dead letter."""
        if isinstance(self.decision, Retry):
            return self.at + self.decision.delay
        return self.at if self.again else None

    @property
    def again(self) -> bool:
        """Whether the handler is to be called again at once."""
        return isinstance(self.decision, Again)

    def history(self) -> Iterator[Failure]:
        """The attempts in place that came before it, and it."""
        if self.earlier is not None:
            yield from self.earlier.history()
        yield self


def describe(error: BaseException) -> str:
    """An error as a person wants to read it: its text, where in the user's code it arose, and what had caused it."""
    parts, seen = [_described(error)], {id(error)}
    cause = error.__cause__
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        parts.append(f"caused by {_described(cause)}")
        cause = cause.__cause__
    return clean("\n".join(parts))[:ERROR_LIMIT]


def _described(error: BaseException) -> str:
    frames = [(frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    where = "".join(f"\n  {c.co_filename}:{line} in {c.co_name}" for c, line in frames if _users(c.co_filename))
    notes = "".join(f"\n  {note}" for note in getattr(error, "__notes__", ()))
    return f"{type(error).__name__}: {text_of(error)}{notes}{where}"


def place_of(error: BaseException) -> str:
    """The innermost line of the user's code that it came through, as "file:line in function", or ""."""
    frames = [(frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    users = [f"{c.co_filename}:{line} in {c.co_name}" for c, line in frames if _users(c.co_filename)]
    return users[-1] if users else ""


def text_of(error: BaseException) -> str:
    """Its text, whatever its `__str__` does."""
    try:
        return str(error)
    except Exception as second:
        return f"(its text cannot be had: {type(second).__name__})"


def fingerprint(error: BaseException) -> str:
    """12 hex characters that failures alike share, over restarts and over changes elsewhere in the file.

    Made of the error's type, the innermost function of the user's code, and the text without numbers, ids and quotes.
    """
    kind = type(error)
    parts = (f"{kind.__module__}.{kind.__qualname__}", _arose(error), normal(text_of(error)))
    return blake2b("\x00".join(map(clean, parts)).encode(), digest_size=6).hexdigest()


def _arose(error: BaseException) -> str:
    """The innermost function of the user's code that it came through: its file's name, and its own."""
    found = ""
    for frame, _line in traceback.walk_tb(error.__traceback__):
        code = frame.f_code
        if _users(code.co_filename):
            found = f"{os.path.basename(code.co_filename)}:{code.co_qualname}"  # noqa: PTH119
    return found


_QUOTED = re.compile(r"""(?<!\w)[bBrRuU]{0,2}(["'`])(?:\\.|(?!\1)[^\\\n])*\1(?!\w)""")
_NUMBERED = re.compile(r"\w*\d\w*")
_SEVERAL = re.compile(r"#(?:[\s.,:;/+-]*#)+")


def normal(text: str) -> str:
    """A text with its values taken out: '?' for what is quoted, '#' for numbers, ids, times, and lists of them."""
    text = _NUMBERED.sub("#", _QUOTED.sub("?", text[:NORMAL_LIMIT]))
    return " ".join(_SEVERAL.sub("#", text).split())


def _users(filename: str) -> bool:
    return "/evenflow/" not in filename and not filename.startswith("<")


def clean(text: str) -> str:
    """Text that every database takes: no lone surrogates, no NUL."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\0")
