"""From an error to what a person reads, and to the exit code. The codes are frozen: see docs/exit-codes.md."""

from __future__ import annotations

import linecache
import os
import sys
import traceback
from enum import IntEnum
from pathlib import Path

from evenflow.errors import (
    BacklogFull,
    DefinitionError,
    EngineUnavailable,
    EvenflowError,
    EventInvalid,
    EventTooLarge,
    GroupStopped,
    MissingExtra,
    OutboxFull,
    PublishRefused,
    PublishUnknown,
    Refused,
    SchemasUnavailable,
    SettingsError,
    StatementFailed,
    StoreUnavailable,
    TransactionError,
)


class Code(IntEnum):
    """What a command's exit says."""

    DONE = 0
    FOUND = 1
    USAGE = 2
    NOT_FOUND = 3
    REFUSED = 4
    UNREACHABLE = 5
    TIME_OVER = 7
    OURS = 70
    INTERRUPTED = 130


class UsageError(EvenflowError):
    """The command line cannot be understood."""


class Missing(EvenflowError):
    """The app that was named does not exist."""


class Declined(EvenflowError):
    """A person said no."""


class OutputLost(EvenflowError):
    """What the command tells cannot be written to stdout."""


class BrokenApp(EvenflowError):
    """The user's module raises when it is imported; the cause says what."""


_USAGE = (UsageError, BrokenApp, DefinitionError, SettingsError, MissingExtra, EventInvalid, EventTooLarge)
_REFUSED = (Declined, Refused, GroupStopped, TransactionError)
_FULL = (OutboxFull, BacklogFull)
_UNREACHABLE = (
    EngineUnavailable,
    StoreUnavailable,
    SchemasUnavailable,
    PublishRefused,
    PublishUnknown,
    *_FULL,
    OutputLost,
)


def code_of(error: BaseException) -> Code:
    """The exit code of an error."""
    if isinstance(error, KeyboardInterrupt):
        return Code.INTERRUPTED
    if isinstance(error, (*_USAGE, StatementFailed)):
        return Code.USAGE
    kind = type(error).__name__  # of modules that are imported on demand
    if isinstance(error, Missing) or kind == "NotFound":
        return Code.NOT_FOUND
    if kind == "NoRoom":
        return Code.UNREACHABLE
    if isinstance(error, _REFUSED):
        return Code.REFUSED
    if isinstance(error, _UNREACHABLE):
        return Code.UNREACHABLE
    return Code.USAGE if isinstance(error, EvenflowError) or blame(error) else Code.OURS


def report(error: BaseException, *, debug: bool, app: str | None = None) -> int:
    """Write the error to stderr, with commands for this app; its exit code."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else Code.USAGE
    code = code_of(error)
    if debug:
        traceback.print_exception(error)
    elif isinstance(error, (KeyboardInterrupt, Declined)):
        _write("interrupted" if isinstance(error, KeyboardInterrupt) else str(error))
    elif isinstance(error, BrokenApp):
        _write_error(error, app)
        cause = error.__cause__
        if cause is not None and not isinstance(cause, DefinitionError):
            _write(user_error(cause))
    elif isinstance(error, DefinitionError):
        for each in (error, *error.also):
            _write_error(each, app)
    elif isinstance(error, EvenflowError):
        _write_error(error, app)
    elif code is Code.OURS:
        _write_ours(error)
    else:
        _write(f"{_error_word()} in your code:\n{user_error(error)}")
    return code


def shown(error: EvenflowError) -> str:
    """Message and remedy, with paths as seen from here."""
    text = str(error)
    where = getattr(error, "where", "")
    return text.replace(where, relative(where), 1) if where else text


def relative(path: str) -> str:
    """A path, or "file:line", as short as it is from the working directory."""
    try:
        near = os.path.relpath(path)
    except ValueError:  # another drive
        return path
    return near if not near.startswith("..") else path


def _write(text: str) -> None:
    print(text, file=sys.stderr)


def _error_word() -> str:
    from evenflow.cli.output import paint

    return paint("error", "red", sys.stderr)


def _write_error(error: EvenflowError, app: str | None) -> None:
    from evenflow.cli.remedies import runnable

    _write(f"{_error_word()}: {runnable(shown(error), app)}")


def _write_ours(error: BaseException) -> None:
    lines = traceback.format_exception(error)
    _write("".join(lines).rstrip())
    _write(f"{_error_word()}: this is a mistake in Evenflow, not in your code: {type(error).__name__}: {error}")
    _write("  → nothing is lost by it; report it with the lines above, and with `evenflow --version`")


# -- the user's own lines ---------------------------------------------------------------------------------------------


_OURS = str(Path(__file__).parent.parent) + os.sep
_LIBRARY = tuple({str(Path(os.__file__).parent) + os.sep, f"{os.sep}site-packages{os.sep}", "<frozen "})


def is_users(filename: str) -> bool:
    """Whether this file is neither ours nor a library's."""
    return not filename.startswith(_OURS) and not any(each in filename for each in _LIBRARY) and filename != "<string>"


def blame(error: BaseException) -> bool:
    """Whether the user's code raised this, rather than ours: whose frame is the last one, libraries aside."""
    frames = [f.filename for f in traceback.extract_tb(error.__traceback__)]
    known = [name for name in frames if name.startswith(_OURS) or is_users(name)]
    return bool(known) and not known[-1].startswith(_OURS)


def user_error(error: BaseException) -> str:
    """The error with the user's own lines, the innermost last; none of ours and none of libraries'."""
    lines = []
    for frame in traceback.extract_tb(error.__traceback__):
        if is_users(frame.filename) and frame.lineno:
            source = linecache.getline(frame.filename, frame.lineno).strip()
            lines += [f"  {relative(frame.filename)}:{frame.lineno} in {frame.name}"] + (
                [f"    {source}"] * bool(source)
            )
    if isinstance(error, SyntaxError) and error.filename and is_users(error.filename):
        source = (error.text or "").rstrip("\n")
        lines += [f"  {relative(error.filename)}:{error.lineno}"] + ([f"    {source.strip()}"] * bool(source.strip()))
        return "\n".join([*lines, f"  {type(error).__name__}: {error.msg}"])
    place = getattr(error, "where", "")
    if isinstance(error, StatementFailed) and place:  # it ran later than it was handed over
        file, _, line = place.rpartition(":")
        source = linecache.getline(file, int(line)).strip() if line.isdigit() else ""
        lines = [f"  {relative(place)}"] + [f"    {source}"] * bool(source)
        return "\n".join([*lines, f"  {type(error).__name__}: {str(error).removeprefix(f'{place}: ')}"])
    return "\n".join([*lines, f"  {type(error).__name__}: {error}"])
