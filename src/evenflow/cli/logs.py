"""The log of `evenflow run`: readable on a terminal, JSON lines elsewhere; on stderr."""

from __future__ import annotations

import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

import msgspec

from evenflow.cli.failures import is_users, user_error
from evenflow.cli.output import coloured
from evenflow.cli.remedies import runnable
from evenflow.errors import StatementFailed

_STANDARD = {*logging.LogRecord("", 0, "", 0, "", (), None).__dict__, "message", "asctime", "taskName"}
_COLOURS = {"WARNING": "\x1b[33m", "ERROR": "\x1b[31m", "CRITICAL": "\x1b[31m"}


class _Formatter(logging.Formatter):
    """Commands in messages name the app that was given, so that they can be copied."""

    def __init__(self, *, app: str | None = None, debug: bool = False) -> None:
        super().__init__()
        self._app = app
        self._debug = debug

    def message(self, record: logging.LogRecord) -> tuple[str, str]:
        """What happened, and the remedy, which begins with an arrow where there is one."""
        what, arrow, remedy = runnable(record.getMessage(), self._app).partition("\n  → ")
        return what, f"{arrow}{remedy}"

    def formatException(self, ei: Any) -> str:  # noqa: N802  # the name is the library's
        """The traceback from the user's first line on: what called it is ours. Of a mistake in SQL the line alone."""
        if self._debug:
            return super().formatException(ei)
        if isinstance(ei[1], StatementFailed):
            return user_error(ei[1])
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
            "message": "".join(self.message(record)),
        }
        line |= {name: value for name, value in record.__dict__.items() if name not in _STANDARD}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


class Readable(_Formatter):
    """Time, level where it is more than information, message."""

    def __init__(self, *, colours: bool, app: str | None = None, debug: bool = False) -> None:
        super().__init__(app=app, debug=debug)
        self._colours = colours

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S.%f")[:-3]
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        name = "" if record.name.partition(".")[0] == "evenflow" else f"{record.name}: "
        what, remedy = self.message(record)
        worker = f"[{record.worker}] " if hasattr(record, "worker") else ""
        text = f"{worker}{level}{name}{what}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        text += remedy
        if not self._colours:
            return f"{time} {text}"
        return f"\x1b[2m{time}\x1b[0m {_COLOURS.get(record.levelname, '')}{text}\x1b[0m"


def form_of(asked: str | None) -> str:
    """What was asked for, "text" or "json", or what fits stderr."""
    return asked or ("text" if sys.stderr.isatty() else "json")


def ours() -> bool:
    """Whether the log goes where `configure` says, and not where the app has sent it."""
    handlers = logging.getLogger().handlers
    return all(isinstance(each.formatter, _Formatter) for each in handlers)


def configure(form: str | None, *, app: str | None = None, debug: bool = False, colours: bool | None = None) -> None:
    """Send everything from level "info" on to stderr, unless the app has set up logging by itself."""
    root = logging.getLogger()
    if root.handlers:
        logging.getLogger("evenflow").setLevel(logging.INFO)
        return
    handler = logging.StreamHandler(sys.stderr)
    if form_of(form) == "json":
        handler.setFormatter(JsonLines(app=app, debug=debug))
    else:
        wanted = coloured(sys.stderr) if colours is None else colours
        handler.setFormatter(Readable(colours=wanted, app=app, debug=debug))
    root.addHandler(handler)
    root.setLevel(logging.INFO)
