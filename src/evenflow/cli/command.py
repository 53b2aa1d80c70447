"""What a command is, and the options that several have."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from argparse import ArgumentParser

Options = Callable[["ArgumentParser"], None]

APP_HELP = """\
APP is module:attribute (shop:app) or path/to/file.py:app. Without it, the one that `app` in [tool.evenflow] of
pyproject.toml names, or EVENFLOW_APP."""


class Command(NamedTuple):
    """One command. `words` are its positional arguments after APP; "…?" may be left out, as the last one.

    `run` is "module:function" below evenflow.cli, called with the parsed options.
    """

    name: str
    line: str
    words: tuple[str, ...]
    run: str
    text: str
    examples: str
    options: Options = lambda _: None
    app: bool = True


def json(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON document")


def yes(parser: ArgumentParser) -> None:
    parser.add_argument("--yes", "-y", action="store_true", help="do not ask")


def seconds(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found < 1e10:
        raise _wrong(f"{text!r} is no number of seconds")
    return found


def count(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) < 2**31:
        raise _wrong(f"{text!r} is no number of events")
    return int(text)


def workers(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) <= 1024:
        raise _wrong(f"{text!r} is no number of workers; the app stands before --workers")
    return int(text)


def _wrong(message: str) -> Exception:
    from argparse import ArgumentTypeError

    return ArgumentTypeError(message)
