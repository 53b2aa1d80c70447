"""The log of `evenflow run`: readable on a terminal, JSON lines elsewhere; on stderr."""

from __future__ import annotations

import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

import msgspec

from evenflow.cli.failures import is_users
from evenflow.cli.output import coloured

_STANDARD = {*logging.LogRecord("", 0, "", 0, "", (), None).__dict__, "message", "asctime", "taskName"}
_COLOURS = {"WARNING": "\x1b[33m", "ERROR": "\x1b[31m", "CRITICAL": "\x1b[31m"}


class _Formatter(logging.Formatter):
    def formatException(self, ei: Any) -> str:  # noqa: N802  # the name is the library's
        """The traceback from the user's first line on: what called it is ours."""
        whole = traceback.TracebackException(*ei)
        part: traceback.TracebackException | None = whole
        while part is not None:
            first = next((n for n, frame in enumerate(part.stack) if is_users(frame.filename)), 0)
            part.stack = traceback.StackSummary.from_list(list(part.stack)[first:])
            part = part.__cause__ or part.__context__
        return "".join(whole.format()).rstrip()


class JsonLines(_Formatter):
    """One object a line: time, level, logger, message, what was given as `extra`, and the error."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in record.__dict__.items() if name not in _STANDARD}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


class Readable(_Formatter):
    """Time, level where it is more than information, message."""

    def __init__(self, *, colours: bool) -> None:
        super().__init__()
        self._colours = colours

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S.%f")[:-3]
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        name = "" if record.name.partition(".")[0] == "evenflow" else f"{record.name}: "
        text = f"{level}{name}{record.getMessage()}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        if not self._colours:
            return f"{time} {text}"
        return f"\x1b[2m{time}\x1b[0m {_COLOURS.get(record.levelname, '')}{text}\x1b[0m"


def configure(form: str | None) -> None:
    """Send everything from level "info" on to stderr, unless the app has set up logging by itself."""
    root = logging.getLogger()
    if root.handlers:
        logging.getLogger("evenflow").setLevel(logging.INFO)
        return
    handler = logging.StreamHandler(sys.stderr)
    chosen = form or ("text" if sys.stderr.isatty() else "json")
    handler.setFormatter(Readable(colours=coloured(sys.stderr)) if chosen == "text" else JsonLines())
    root.addHandler(handler)
    root.setLevel(logging.INFO)
