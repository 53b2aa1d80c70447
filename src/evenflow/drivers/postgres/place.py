"""Where connections to PostgreSQL lead, and what all connections to one place know of its statements."""

from __future__ import annotations

from collections.abc import Mapping

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from evenflow.drivers.postgres.plans import Plan, Plans
from evenflow.errors import SettingsError

CONNECTION: Mapping[str, object] = {
    "connect_timeout": 10,
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,  # milliseconds
    "client_encoding": "UTF8",
}
"""What a connection has unless its URL says otherwise: a peer that is gone without a word is noticed in 25 s."""
APPLICATION_BYTES = 63


class PostgresPlace:
    """A server and a database, as a URL of libpq's names them.

    words     it without its password, for messages
    prepare   whether statements keep their names on the way there: a pgbouncer of before 1.21 loses them
    """

    def __init__(self, conninfo: Mapping[str, object], application: str = "evenflow") -> None:
        given = {name: value for name, value in conninfo.items() if value is not None}
        self.application = application.encode()[:APPLICATION_BYTES].decode("utf-8", "ignore")
        self.plans = Plans()
        self._controls: dict[str, Plan] = {}
        self.prepare = True
        self._given = {**CONNECTION, **given, "application_name": self.application}
        host = given.get("host") or given.get("hostaddr") or "localhost"
        port, database = given.get("port", 5432), given.get("dbname") or given.get("user") or ""
        self.words = f"{host}:{port}/{database}"

    def control(self, text: str) -> Plan:
        """The plan of a text of our own, without arguments, whose rows nobody reads."""
        plan = self._controls.get(text)
        if plan is None:
            plan = self._controls[text] = Plan(text, (), ())
        return plan

    def conninfo(self) -> str:
        return make_conninfo("", **self._given)  # type: ignore[arg-type]  # what libpq takes, as its own parser gave it

    def without_password(self, text: str) -> str:
        """The driver's words, in which no password may stand."""
        password = str(self._given.get("password") or "")
        return text.replace(password, "***") if password else text


def libpq_options() -> set[str]:
    """What a URL's query may say to libpq, and by `ssl=true` to its other clients."""
    return {each.keyword.decode() for each in pq.Conninfo.get_defaults()} | {"ssl"}


def conninfo_of(text: str, masked: str) -> dict[str, object]:
    """The parts of a URL without options of ours. Raises `SettingsError`."""
    try:
        return dict(conninfo_to_dict(text))
    except psycopg.Error as error:
        raise SettingsError(
            f"{masked} is no URL of PostgreSQL: {str(error).strip()}",
            remedy="write postgresql://user:password@host:port/database",
        ) from None
