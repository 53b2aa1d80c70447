"""Which generation a declaration makes, and what a sealed log says: the same for every engine that is a log."""

from __future__ import annotations

from evenflow.engine import Generation, Log
from evenflow.errors import Refused


def due_generation(log: Log | None, partitions: int, after: Log | None) -> Generation | None:
    """The generation that `Engine.declare` has to make in this log, None where there is nothing to make.

    Raises `Refused` where the log is another one than the one that it is to continue.
    """
    if after is None:
        if log is None:
            return Generation(1, partitions)
        last = log.generations[-1]
        return None if log.sealed or last.partitions == partitions else Generation(last.number + 1, partitions)
    if log is not None and log.incarnation != after.incarnation:
        raise another_log(log)
    last = after.generations[-1]
    if log is not None and log.generations[-1].number > last.number:
        return None
    return Generation(last.number + 1, partitions)


def sealed_words(log: Log) -> str:
    """Why an append is refused by a log that is sealed, and the remedy."""
    if log.goes_on:
        return (
            f"the topic {log.topic!r} was moved to {log.goes_on}; name that engine in the settings of this process too "
            "(EVENFLOW_ENGINES__NEW=its URL), and start it again"
        )
    return f"the topic {log.topic!r} is being moved; if that was broken off, give the command evenflow move once more"


def another_log(log: Log) -> Refused:
    """The error for a log that cannot go on where another of the same topic is."""
    return Refused(
        f"there is a topic {log.topic!r} here already, which is another log",
        remedy="where nobody needs it, delete it there; or give the moved one another name there: topics.NAME.name in "
        "the settings",
    )
