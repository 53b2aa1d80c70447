"""A way to a user's server that leads through proxies of ours, which can be cut."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from evenflow.lab.proxy import LOOPBACK, Proxy
from evenflow.places import parse


class Through(NamedTuple):
    """What clients are told that a broker's address is, `port` of this machine, and where that listener is reached."""

    port: int
    host: str
    target: int


class NoWay(Exception):
    """Nothing can stand in the way; the text says why, and what would let it."""


def led(url: str, through: Sequence[Through], stack: ExitStack) -> tuple[str, list[Proxy]]:
    """The same server by a way that can be cut, as long as `stack` is open. Raises `NoWay` and `OSError`."""
    scheme = parse(url).scheme
    if scheme == "kafka":
        return _kafka(url, through, stack)
    if scheme in ("postgresql", "postgres"):
        return _postgres(url, stack)
    raise NoWay("there is no server and no network")


def _kafka(url: str, through: Sequence[Through], stack: ExitStack) -> tuple[str, list[Proxy]]:
    if not through:
        raise NoWay(
            "brokers tell clients their addresses, so a proxy needs a listener that is advertised as one of this "
            "machine: --through PORT:HOST:PORT"
        )
    proxies = [stack.enter_context(Proxy(each.target, host=each.host, port=each.port)) for each in through]
    parts = urlsplit(url)
    who, at, _ = parts.netloc.rpartition("@")
    brokers = ",".join(each.address for each in proxies)
    return urlunsplit(parts._replace(netloc=f"{who}{at}{brokers}")), proxies


def _postgres(url: str, stack: ExitStack) -> tuple[str, list[Proxy]]:
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    who, at, address = parts.netloc.rpartition("@")
    if "," in address or not address or query.keys() & {"host", "hostaddr", "port", "service"}:
        raise NoWay("only a URL with one host:port can be led through a proxy")
    host, _, port = address.rpartition(":") if address.rpartition(":")[2].isdigit() else (address, "", "5432")
    proxy = stack.enter_context(Proxy(int(port), host=host.strip("[]")))
    query["hostaddr"] = LOOPBACK  # the name stays, by which a certificate is checked
    return urlunsplit(parts._replace(netloc=f"{who}{at}{host}:{proxy.port}", query=urlencode(query))), [proxy]
