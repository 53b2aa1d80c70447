"""The SQL of PostgreSQL's log for one schema: names of tables that only run time knows, filled in."""

from __future__ import annotations

import re
from functools import lru_cache

from evenflow.errors import SettingsError
from evenflow.sql import load

SQL = load("engine_postgres")
DEFAULT_SCHEMA = "evenflow_log"
_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,47}")
_TOPIC, _SEGMENT = (re.compile(rf"(?<![A-Za-z0-9]){letter}(?![A-Za-z0-9])") for letter in "NS")


class Texts:
    """Statements by name; N stands for the id of a topic in them, S for a segment."""

    def __init__(self, schema: str) -> None:
        if not _SCHEMA.fullmatch(schema):
            raise SettingsError(
                f"the schema {schema!r} cannot be used", remedy="use small letters, digits and _, at most 48 of them"
            )
        self.schema = schema
        self.text = lru_cache(maxsize=4096)(self._text)

    def _text(self, name: str, topic: int = 0, segment: int = 0) -> str:
        text = _SEGMENT.sub(str(segment), _TOPIC.sub(str(topic), SQL[name]))
        return text.replace(f"{DEFAULT_SCHEMA}.", f"{self.schema}.")
