"""SQL text as SQLite wants it: `$n` becomes `?n`, one statement at a time, and transactions are the store's."""

from __future__ import annotations

import re
from collections.abc import Iterator

import apsw

from evenflow.errors import StatementFailed

_TOKEN = re.compile(
    r"""'(?:[^']|'')*' | "(?:[^"]|"")*" | `(?:[^`]|``)*` | \[[^\]]*\]   # literals and quoted names
      | --[^\n]* | /\*.*?(?:\*/|\Z)                                     # comments
      | \$(?P<number>\d+) | (?P<end>;) | (?P<word>[^\W\d][\w$]*)""",
    re.DOTALL | re.VERBOSE,
)
_COMMENT = re.compile(r"--[^\n]*|/\*.*?(?:\*/|\Z)", re.DOTALL)
_LEADING = re.compile(r"\s+|--[^\n]*|/\*.*?(?:\*/|\Z)", re.DOTALL)
_CONTROL = frozenset({"begin", "commit", "end", "rollback", "savepoint", "release"})


class Ready(dict[str, str]):
    """Texts made ready for SQLite, by what the caller wrote: one look-up on the hot path. Bounded."""

    LIMIT = 2000

    def __init__(self) -> None:
        super().__init__()
        self.deferring = False
        """Whether a text has spoken of deferred constraints."""

    def __missing__(self, sql: str) -> str:
        text = rewritten(sql)
        self.deferring = self.deferring or "defer" in sql.lower()
        if len(self) >= self.LIMIT:
            self.clear()
        self[sql] = text
        return text


def rewritten(sql: str) -> str:
    """The statement with `?n` for `$n`, outside literals, quoted names and comments.

    SQLite takes `$1` for a name and would number it by its first appearance.
    Raises `StatementFailed` for several statements in one text, and for those that would end the transaction.
    """
    parts: list[str] = []
    first, last = "", 0
    for token in _TOKEN.finditer(sql):
        if token["number"]:
            parts += sql[last : token.start()], "?", token["number"]
            last = token.end()
        elif token["word"] and not first:
            first = token["word"].lower()
            if first in _CONTROL:
                raise StatementFailed(f"{first!r} is not for a statement: the store owns the transaction", sql=sql)
        elif token["end"] and first != "create" and _COMMENT.sub("", sql[token.end() :]).strip(" \t\r\n;"):
            raise StatementFailed("there are several statements in one text; give them one by one", sql=sql)
    return "".join((*parts, sql[last:]))


def statements(script: str) -> Iterator[tuple[int, str]]:
    """The single statements of a script, each with the line that it begins on: a migration's file."""
    start = 0
    for token in _TOKEN.finditer(script):
        if token["end"] and apsw.complete(script[start : token.end()]):
            if _COMMENT.sub("", script[start : token.start()]).strip():
                yield _placed(script, start, token.end())
            start = token.end()
    if _COMMENT.sub("", script[start:]).strip(" \t\r\n;"):
        yield _placed(script, start, len(script))


def _placed(script: str, start: int, end: int) -> tuple[int, str]:
    while leading := _LEADING.match(script, start):
        start = leading.end()
    return 1 + script.count("\n", 0, start), script[start:end].strip()
