"""What a check-up finds: a line on one thing each, with what to do about it."""

from __future__ import annotations

from typing import Literal, NamedTuple

Level = Literal["ok", "warn", "wrong"]


class Finding(NamedTuple):
    """One thing that was looked at. `about` names it; `remedy` is empty where nothing is to be done."""

    level: Level
    about: str
    message: str
    remedy: str = ""
