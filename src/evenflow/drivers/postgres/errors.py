"""What PostgreSQL's errors mean: whose fault each is, by its SQLSTATE, and what to do about it."""

from __future__ import annotations

import re
from enum import Enum

from psycopg import pq

CACHED_PLAN = "0A000"
NO_STATEMENT = "26000"
ABORTED = "25P02"
READ_ONLY = "25006"
LOCK_TIMEOUT = "55P03"
DIVISION_BY_ZERO = "22012"
UNFIT = "22023"
"""What a value gets that is refused before it is sent."""
LOST = "08006"


class Trouble(Enum):
    """Whose fault an error is.

    STATEMENT    the statement's or its values'
    CONFLICT     nobody's: rolled back for another transaction's sake; the same again at once may pass
    UNAVAILABLE  the server's, the connection's, the operator's
    """

    STATEMENT = "statement"
    CONFLICT = "conflict"
    UNAVAILABLE = "unavailable"


class PostgresError(Exception):
    """An error of the server or of the connection to it.

    `index` is the place of the statement in what was run at once, or -1. `lost`: the connection went away while an
    answer was owed, so nobody knows what became of it.
    """

    def __init__(
        self,
        message: str,
        *,
        sqlstate: str = LOST,
        index: int = -1,
        lost: bool = False,
        remedy: str = "",
        position: int = 0,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.sqlstate = sqlstate
        self.index = index
        self.lost = lost
        self.remedy = remedy or _REMEDIES.get(sqlstate, "")
        self.position = position
        self.sql = ""
        self.args_: tuple[object, ...] = ()

    @property
    def trouble(self) -> Trouble:
        if self.sqlstate == CACHED_PLAN and "cached plan" in self.message:
            return Trouble.CONFLICT
        return trouble(self.sqlstate)


_CONFLICTS = frozenset({"40001", "40P01", "40000", NO_STATEMENT})
_UNAVAILABLE_CLASSES = frozenset({"08", "28", "3D", "40", "53", "57", "58", "F0", "XX"})
_UNAVAILABLE = frozenset({READ_ONLY, "25P03", "25P04", LOCK_TIMEOUT})


def trouble(sqlstate: str) -> Trouble:
    """Whose fault an error of this SQLSTATE is."""
    if sqlstate in _CONFLICTS:
        return Trouble.CONFLICT
    if sqlstate in _UNAVAILABLE or sqlstate[:2] in _UNAVAILABLE_CLASSES:
        return Trouble.UNAVAILABLE
    return Trouble.STATEMENT


_REMEDIES = {
    READ_ONLY: "the server is a standby, or default_transaction_read_only is on: connect to the primary "
    "(target_session_attrs=read-write in the URL)",
    "53100": "make room on the server's disk; everything goes on by itself then",
    "53300": "raise max_connections, or give the store a smaller pool (?pool=)",
    "57P03": "wait: the server is starting up, shutting down or recovering",
    "57014": "a statement_timeout that is set for the role or the database is too short, or somebody has cancelled it",
    "25P03": "a transaction was left idle for too long",
    "42P18": "say the type of the placeholder, as in $1::bigint or $1::text",
    "42P08": "one placeholder stands for two types: cast one of them, as in $1::text",
    "25001": "it cannot run inside of a transaction, and every migration is one: run it by hand, and write the "
    "migration so that it does nothing then, as in: create index if not exists …",
}


def error_of(result: pq.abc.PGresult, index: int = -1) -> PostgresError:
    """The error that a result is."""

    def field(name: pq.DiagnosticField) -> str:
        return (result.error_field(name) or b"").decode("utf-8", "replace")

    sqlstate = field(pq.DiagnosticField.SQLSTATE)
    message = field(pq.DiagnosticField.MESSAGE_PRIMARY)
    for name in (pq.DiagnosticField.MESSAGE_DETAIL, pq.DiagnosticField.MESSAGE_HINT):
        more = field(name)
        if more:
            message += f" ({more})"
    if not sqlstate:  # the connection's own words
        message = result.error_message.decode("utf-8", "replace").strip()
        return PostgresError(message, index=index, lost=True)
    position = field(pq.DiagnosticField.STATEMENT_POSITION)
    return PostgresError(message, sqlstate=sqlstate, index=index, position=int(position) if position else 0)


_PLACE = re.compile(r'connection to server at "[^"]*"(?: \([^)]*\))?, port \d+ failed: ')


def connect_words(text: str) -> str:
    """What libpq says of a connection, each reason once; without the place, which our words name, where it is one."""
    lines = dict.fromkeys(line.strip().removeprefix("connection failed: ") for line in text.splitlines())
    if len({found[0] for line in lines if (found := _PLACE.match(line))}) == 1:
        lines = dict.fromkeys(_PLACE.sub("", line).removeprefix("FATAL:").strip() for line in lines)
    return "; ".join(line for line in lines if line and not line.startswith("Is the server running"))


def connect_remedy(message: str) -> str:
    """What to do about a connection that was refused. libpq has no code for these, only words."""
    for words, remedy in (*_WRONG, *_AWAY):
        if words in message:
            return remedy
    return "see that the server runs, and that host and port in the URL are right"


def connect_in_vain(message: str) -> bool:
    """Whether only a person can mend that a connection was refused: waiting for the server does not."""
    return any(words in message for words, _ in _WRONG)


_POOLS = "raise max_connections, or give the stores smaller pools (?pool=)"
_WRONG = (
    ("password authentication failed", "correct the user or the password in the URL"),
    ("no password supplied", "put the password into the URL, or into ~/.pgpass"),
    ("root certificate", "name the file that signs the server's certificate with ?sslrootcert="),
    ("certificate verify failed", "name the file that signs the server's certificate with ?sslrootcert="),
    ("does not exist", "make the role or the database (createuser, createdb), or correct the URL"),
    ("no encryption", "encrypt the connection (?sslmode=require), or let it in, in the server's pg_hba.conf"),
    ("pg_hba.conf", "let this address and user in, in the server's pg_hba.conf"),
    ("could not translate host name", "correct the host in the URL"),
    ("failed to resolve host", "correct the host in the URL"),
    ("SSL negotiation", "correct host and port in the URL: who answers there is no PostgreSQL"),
    ("does not support SSL", "take sslmode out of the URL, or have the server speak TLS"),
    (' value: "', "correct this option in the URL"),
    ("for connection option", "correct this option in the URL"),
)
_AWAY = (
    ("starting up", "wait until it has started: after a crash it first reads its log again"),
    ("shutting down", "start it again when it has ended"),
    ("not yet accepting connections", "wait until it has started, or see what its log says"),
    ("too many clients", _POOLS),
    ("too many connections", "raise the connection limit of the role or the database, or give a smaller ?pool="),
    ("remaining connection slots", _POOLS),
)
