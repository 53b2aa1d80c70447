"""How a statement is sent and its rows are read: inferred by the server once per text, kept for all connections."""

from __future__ import annotations

import re
from collections import namedtuple
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import repeat
from typing import Any

from psycopg import pq

from evenflow.drivers.postgres.decoding import Decoder, decoders
from evenflow.drivers.postgres.errors import UNFIT, PostgresError
from evenflow.drivers.postgres.types import TEXTS, Encoder, encoder, in_columns, natural, plain

Key = tuple[str, tuple[type, ...]]
LIMIT = 2000
_TOKEN = re.compile(r"\s+|--[^\n]*|/\*.*?\*/|(?P<word>[^\W\d]\w*)|(?P<other>.)", re.DOTALL)
_CONTROL = frozenset({"begin", "start", "commit", "end", "rollback", "abort", "savepoint", "release", "prepare"})
_STATE = frozenset({"set", "reset", "listen", "unlisten", "discard", "deallocate", "load", "declare"})
"""What would outlive its transaction on a connection that others use next."""


class Plan:
    """A statement text for arguments of certain classes."""

    __slots__ = (
        "columns", "encoders", "formats", "many", "new", "oids", "read", "result_format", "sql", "text", "types"
    )  # fmt: skip

    def __init__(self, text: str, types: tuple[type, ...], oids: Sequence[int]) -> None:
        self.text = text
        self.types = types
        self.sql = text.encode()
        self.oids = tuple(oids)
        chosen = [encoder(type_, oid) for type_, oid in zip(types, oids, strict=True)]
        self.encoders: tuple[Encoder, ...] = tuple(each[0] for each in chosen)
        self.many = tuple(map(in_columns, self.encoders))
        self.formats: list[int] = [each[1] for each in chosen]
        self.result_format = 0
        self.read: tuple[Decoder, ...] = ()
        self.columns: tuple[str, ...] = ()
        self.new: Callable[[Sequence[Any]], tuple[Any, ...]] = tuple

    def gives(self, description: pq.abc.PGresult) -> None:
        """Learn the columns of its result."""
        count = description.nfields
        self.columns = tuple((description.fname(n) or b"").decode() for n in range(count))
        self.result_format, self.read = decoders(tuple(description.ftype(n) for n in range(count)))
        self.new = partial(tuple.__new__, row_class(self.columns))

    def values(self, given: Sequence[tuple[Any, ...]]) -> Iterator[tuple[bytes | None, ...]] | None:
        """What to send for many argument lists, column by column. None where it takes a look at each of them."""
        try:
            columns = list(zip(*given, strict=True))
            kinds = [set(map(type, column)) for column in columns]
            if not columns or kinds != [{type_} for type_ in self.types]:
                return None
            return iter(list(zip(*[encode(column) for encode, column in zip(self.many, columns)])))  # noqa: B905
        except (ValueError, TypeError, AttributeError):
            return None

    def rows(self, result: pq.abc.PGresult) -> list[tuple[Any, ...]]:
        """The rows of a result, as named tuples."""
        get, read, new = result.get_value, self.read, self.new
        if len(read) == 1:
            decode = read[0]
            return [new((None if (data := get(n, 0)) is None else decode(data),)) for n in range(result.ntuples)]
        places = range(len(read))
        return [
            new([None if data is None else decode(data) for decode, data in zip(read, map(get, repeat(n), places))])  # noqa: B905
            for n in range(result.ntuples)
        ]


@lru_cache(maxsize=2000)
def row_class(names: tuple[str, ...]) -> type[tuple[Any, ...]]:
    return namedtuple("Row", names, rename=True)


class Plans:
    """The plans of a store or an engine, by text and classes of the arguments. Bounded.

    `latest` holds the one that was used last of each text: looking there first is what makes it fast.
    """

    def __init__(self) -> None:
        self.latest: dict[str, Plan] = {}
        self._all: dict[Key, Plan] = {}

    def find(self, text: str, types: tuple[type, ...]) -> Plan | None:
        plan = self._all.get((text, types))
        if plan is not None:
            self.latest[text] = plan
        return plan

    def keep(self, plan: Plan) -> None:
        if len(self._all) >= LIMIT:
            self._all.clear()
            self.latest.clear()
        self._all[plan.text, plan.types] = self.latest[plan.text] = plan

    def forget(self, text: str) -> None:
        """The tables that this statement names have changed."""
        self.latest.pop(text, None)
        for key in [key for key in self._all if key[0] == text]:
            del self._all[key]


def unfit(error: Exception) -> PostgresError:
    """The error of a value that is refused before it is sent."""
    return PostgresError(str(error), sqlstate=UNFIT)


def checked(sql: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments with enums resolved. Raises `PostgresError` for a statement that is not a session's to run."""
    words = first_words(sql)
    if words[:1] and words[0] in _CONTROL and not (words[0] == "prepare" and words[1:2] != ["transaction"]):
        raise PostgresError(f"{words[0]!r} is not for a statement: the store owns the transaction", sqlstate=UNFIT)
    if words[:1] and words[0] in _STATE and words[1:2] not in (["local"], ["constraints"]):
        raise PostgresError(
            f"{words[0]!r} would change the connection for those who use it next",
            sqlstate=UNFIT,
            remedy="use set local",
        )
    return plain(args)


def first_words(sql: str) -> list[str]:
    """The first two words of a statement, in small letters, without comments."""
    words: list[str] = []
    for token in _TOKEN.finditer(sql):
        if token["word"]:
            words.append(token["word"].lower())
        if token["other"] or len(words) == 2:
            break
    return words


def better(types: tuple[type, ...], inferred: Sequence[int], *, undetermined: bool = False) -> tuple[int, ...] | None:
    """The types to try in place of what the server took for want of better, or None.

    It takes a placeholder that nothing speaks about for text.
    """
    wanted = [
        natural(type_) if oid in TEXTS and type_ not in _TEXTUAL else 0
        for type_, oid in zip(types, inferred, strict=True)
    ]
    if undetermined:
        wanted = [natural(type_) for type_ in types]
    return tuple(wanted) if any(wanted) else None


_TEXTUAL = (str, type(None), dict, list)
