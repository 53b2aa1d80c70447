"""Commands in messages, made so that they run when they are copied: with the app that this command was given."""

from __future__ import annotations

import re
import shlex

from evenflow.cli.commands import COMMANDS

_NAMES = sorted((each.name for each in COMMANDS if each.app), key=len, reverse=True)
_COMMAND = re.compile(rf"\bevenflow ({'|'.join(_NAMES)})\b")


def runnable(text: str, app: str | None) -> str:
    """The text with APP behind each command that takes one, unless the app comes from the environment."""
    if app is None or "evenflow " not in text:
        return text
    word = shlex.quote(app)

    def named(found: re.Match[str]) -> str:
        return found[0] if text.startswith(f" {word}", found.end()) else f"{found[0]} {word}"

    return _COMMAND.sub(named, text)
