"""The SQL of engines and stores: `.sql` files of named blocks, each begun by a line `-- name: the_name`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType

_MARK = "-- name:"


@cache
def load(*names: str) -> Mapping[str, str]:
    """The blocks of these `.sql` files by name, without their comments. What stands before the first mark is prose."""
    texts = [(files(__name__) / f"{name}.sql").read_text("utf-8") for name in names]
    return MappingProxyType(parse("\n".join(texts), " and ".join(names)))


def parse(text: str, file: str = "") -> dict[str, str]:
    """The named blocks of a text. Raises `ValueError` for a name without SQL and for one that stands twice."""
    blocks: dict[str, str] = {}
    for part in ("\n" + text).split("\n" + _MARK)[1:]:
        head, _, body = part.partition("\n")
        name = head.strip()
        lines = [line for line in body.splitlines() if not line.lstrip().startswith("--")]
        statement = "\n".join(lines).strip()
        if not name.isidentifier() or not statement or name in blocks:
            raise ValueError(f"{file}: the block {name!r} has no proper name, no SQL, or stands twice")
        blocks[name] = statement
    return blocks
