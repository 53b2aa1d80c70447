"""Every error that Evenflow raises itself.

EvenflowError
├── DefinitionError        a class, handler or app is written wrongly; carries the line
├── SettingsError          a setting is wrong; carries where it came from
├── MissingExtra           an optional client is not installed; names the command
├── Refused                what was asked at start cannot be kept; says the remedy
├── PublishError           an event was not published
│   ├── EventInvalid         its content would not survive the trip
│   ├── EventTooLarge        it is over the limit of size or depth
│   ├── PublishRefused       the engine surely did not store it
│   ├── PublishUnknown       nobody knows whether it was stored; the same envelope may be sent again
│   ├── OutboxFull           the engine has been away for too long
│   └── BacklogFull          a group is too far behind; carries topic, group, how far, the limit
├── DecodeError            bytes are not the event that they claim to be
│   └── NewerVersion         they were written by newer code; park and try later
├── TransactionError       a transaction is used where or when it cannot be
│   └── TransactionAborted   a statement of it has failed, and the database takes no more of them
├── SchemasUnavailable     the schema registry does not answer; nobody's fault, try again
├── EngineUnavailable      the engine does not answer; nobody's fault, try again
├── StoreUnavailable       the store does not answer; nobody's fault, try again
│   └── StoreConflict        it has undone the transaction for the sake of another; try again at once
├── StatementFailed        a statement of the user's is wrong; carries SQL and arguments
│   └── WriteFailed          one that was handed over; carries the call site as well
├── FenceLost              another owner has taken this partition; nothing was written
└── GroupStopped           a group cannot go on without a person; names the command
"""

from __future__ import annotations


class EvenflowError(Exception):
    """Root of every error that Evenflow raises itself: what happened, and what to do about it."""

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(f"{message}\n  → {remedy}" if remedy else message)
        self.message = message
        self.remedy = remedy


class DefinitionError(EvenflowError):
    """A class, handler or app is written wrongly. `where` is "file:line" of the user's code, or empty.

    `also` are other errors that were found with it.
    """

    def __init__(self, message: str, *, where: str = "", remedy: str = "") -> None:
        super().__init__(f"{where}: {message}" if where else message, remedy=remedy)
        self.plain = message
        self.where = where
        self.also: tuple[DefinitionError, ...] = ()


class SettingsError(EvenflowError):
    """A setting is wrong. `origin` says where its value came from."""

    def __init__(self, message: str, *, origin: str = "", remedy: str = "") -> None:
        super().__init__(f"{message} (from {origin})" if origin else message, remedy=remedy)
        self.origin = origin


class MissingExtra(EvenflowError):
    """An optional client is not installed."""

    def __init__(self, what: str, *, extra: str) -> None:
        super().__init__(f"{what} needs a package that is not installed", remedy=f"pip install 'evenflow[{extra}]'")
        self.extra = extra


class Refused(EvenflowError):
    """What was asked for cannot be kept here, so nothing was started."""


class PublishError(EvenflowError):
    """An event was not published."""


class EventInvalid(PublishError):
    """The event's content would be changed or lost on the way (NaN, a time without zone, no key)."""


class EventTooLarge(PublishError):
    """The event is over the limit of size or depth."""


class PublishRefused(PublishError):
    """The engine surely did not store the event."""


class PublishUnknown(PublishError):
    """The engine's answer was lost: the event may be stored. Sending the same envelope again is safe."""


class OutboxFull(PublishError):
    """The outbox has reached its limit because its events cannot be moved to the engine."""


class BacklogFull(PublishError):
    """A topic has reached the limit of its backlog: this group has so many events of it to go."""

    def __init__(self, topic: str, group: str, waiting: int, limit: int, waited: float) -> None:
        after = f", also after {waited:.3g} s" if waited else ""
        super().__init__(
            f"the topic {topic!r} is full: the group {group!r} has {waiting:,} events of it to go, "
            f"its limit is {limit:,}{after}",
            remedy=f"publish again later; why it is behind: evenflow groups show {group}   "
            f"(one that has gone for good: evenflow groups drop {group})",
        )
        self.topic = topic
        self.group = group
        self.waiting = waiting
        self.limit = limit


class DecodeError(EvenflowError):
    """Bytes are not the event that they claim to be. A retry cannot help."""

    def __init__(self, type_name: str, reason: str) -> None:
        super().__init__(f"cannot decode {type_name!r}: {reason}")
        self.type_name = type_name
        self.reason = reason


class NewerVersion(DecodeError):
    """The event was written by newer code than this. It is kept until this code is up to date."""

    def __init__(self, type_name: str, version: int, known: int) -> None:
        super().__init__(type_name, f"it has version {version}, this code knows {known}")
        self.version = version
        self.known = known


class TransactionError(EvenflowError):
    """A transaction is used where or when it cannot be."""


class TransactionAborted(TransactionError):
    """A statement of it has failed and was not undone: the database takes no more statements, nor the commit."""


class SchemasUnavailable(EvenflowError):
    """The schema registry does not answer, or refuses us. No event's fault; try again."""


class EngineUnavailable(EvenflowError):
    """The engine does not answer, or its disk or file is in trouble. No event's fault; try again."""


class StoreUnavailable(EvenflowError):
    """The store does not answer: locked, full, lost. No event's fault; the transaction is to be tried again."""


class StoreConflict(StoreUnavailable):
    """The database has undone this transaction for the sake of another (a deadlock, a serialisation failure).

    Nothing of it was written. It may be tried again at once.
    """


class StatementFailed(EvenflowError):
    """A statement of the user's failed by its own fault: a constraint, a wrong name, a wrong type.

    `index` is its place in the statements of one `Session.run`, or -1.
    """

    def __init__(self, reason: str, *, sql: str, args: tuple[object, ...] = (), index: int = -1) -> None:
        super().__init__(f"{reason}\n  in: {sql.strip()}\n  with: {args!r}")
        self.reason = reason
        self.sql = sql
        self.arguments = args
        self.index = index

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.reason!r})"


class WriteFailed(StatementFailed):
    """A statement that was handed over by `tx.write` failed. `where` is "file:line" of that call, where known."""

    def __init__(self, reason: str, *, sql: str, args: tuple[object, ...] = (), where: str = "") -> None:
        super().__init__(f"{where}: {reason}" if where else reason, sql=sql, args=args)
        self.where = where


class FenceLost(EvenflowError):
    """Another owner has taken this partition. Nothing of this transaction was written."""


class GroupStopped(EvenflowError):
    """A group cannot go on without a decision by a person. The remedy names the command."""
