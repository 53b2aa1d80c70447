"""The client library: imported only here, its errors said in our words, its calls without a wait on the event loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from evenflow.engines.kafka.options import Address, KafkaOptions, client_settings
from evenflow.errors import EngineUnavailable, EvenflowError, MissingExtra, Refused

try:
    import confluent_kafka as library
    from confluent_kafka import KafkaError, KafkaException, TopicPartition
    from confluent_kafka import admin as _admin
except ImportError as error:
    raise MissingExtra("Apache Kafka", extra="kafka") from error

__all__ = [
    "ASK",
    "Client",
    "KafkaError",
    "KafkaException",
    "TopicPartition",
    "administration",
    "library",
    "reason_of",
    "translated",
]

administration: Any = _admin
"""The library's part for administrators, whose names it does not export to type checkers."""

T = TypeVar("T")
ASK = 10.0
"""Seconds that a question to the brokers may take."""
DOCTOR = "evenflow doctor shows what is wrong"
AWAY = "see that the brokers run, and that hosts and ports in the engine's URL are right"
HANG_UPS = 4
"""Connections that a broker has ended at once, after which one more is no use: it wants another kind."""
SILENCE = 2.0
"""Seconds without an answer after which a lost connection is worth a word."""

log = logging.getLogger("evenflow")
_detail = logging.getLogger("evenflow.kafka")
_detail.setLevel(logging.CRITICAL)
"""The library's own messages repeat what we say; a user who wants them sets the level of this logger."""

_RIGHTS = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    }
)
_AUTHENTICATION = frozenset({KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED})


class Found(NamedTuple):
    """A topic as Kafka describes it."""

    id: str
    partitions: int


class Client:
    """Makes the library's objects for one address, and remembers what they last complained of."""

    def __init__(self, address: Address, options: KafkaOptions) -> None:
        self.address = address
        self.options = options
        self.complaint: KafkaError | None = None
        """The last trouble with a connection."""
        self.said = ""
        self.hung_up = 0
        """How often a broker has ended a connection."""
        self.greeted = False
        """Whether a broker has answered once: then no trouble with connections is final any more."""
        self._settings = client_settings(address, options)
        self._admin: Any = None
        self._down = False
        self._answered = time.monotonic()
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="evenflow-kafka-ask")

    def made(self, kind: str, settings: Mapping[str, Any], hear: Callable[[KafkaError], object] | None = None) -> Any:
        """A producer or consumer of the library. `hear` is called with its errors, in whatever thread polls it."""

        def heard(error: KafkaError) -> None:
            self._heard(error)
            if hear is not None:
                hear(error)

        return self._made(getattr(library, kind), {**settings, "error_cb": heard})

    def _made(self, kind: Callable[[dict[str, Any]], Any], settings: Mapping[str, Any]) -> Any:
        try:
            return kind({**self._settings, **settings, "logger": self})
        except KafkaException as error:
            reason = error.args[0].str() if error.args else str(error)
            raise Refused(
                f"Kafka at {self.address}: {reason}", remedy="correct the engine's URL (files of ca, certificate, key)"
            ) from error

    @property
    def admin(self) -> Any:
        """The library's client for questions and orders about topics and groups."""
        if self._admin is None:
            self._admin = self._made(administration.AdminClient, {"error_cb": self._heard})
        return self._admin

    def log(self, level: int, text: str, *parts: object) -> None:
        """The library says something, at times the only reason that it gives."""
        said = text % parts if parts else text
        if "Disconnected" in said:
            self.hung_up += 1
        if level >= logging.WARNING or "Disconnected" in said:
            self.said = said.rpartition("]: ")[2]
        _detail.log(level, text, *parts)

    def _heard(self, error: KafkaError) -> None:
        if error.code() != KafkaError._ALL_BROKERS_DOWN:
            self.complaint = error
        elif not self._down and time.monotonic() - self._answered > SILENCE:
            self._down = True
            log.warning("Kafka at %s cannot be reached, waiting: %s", self.address, self._complained())

    def answered(self) -> None:
        """A broker has answered."""
        self.complaint, self.hung_up, self._answered = None, 0, time.monotonic()
        if self._down:
            self._down = False
            log.info("Kafka at %s answers again", self.address)

    async def ask(self, future: Future[T], what: str, seconds: float = ASK) -> T:
        """The answer to a question that the library asks in a thread of its own. Raises `EngineUnavailable`."""
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.wrap_future(future)
        except TimeoutError as error:
            raise self.unavailable(what) from error
        except KafkaException as error:
            raise translated(error, what, self) from error

    async def ask_first(self, future: Future[T], what: str, seconds: float) -> T:
        """As `ask`; a complaint that waiting hardly mends ends it at once. Raises `Refused` where it cannot."""
        until = asyncio.get_running_loop().time() + seconds
        while not future.done() and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(0.01)
            self.admin.poll(0)
            if not self.greeted and (found := _hopeless(self.complaint, self)) is not None:
                raise found
        answer = await self.ask(future, what, 0.01)
        self.greeted = True
        return answer

    async def in_thread(self, work: Callable[[], T], what: str) -> T:
        """The result of calls that block, one after another. Raises `EngineUnavailable`."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except KafkaException as error:
            raise translated(error, what, self) from error

    async def described(self, names: Iterable[str]) -> dict[str, Found]:
        """Those of these topics that are there."""
        from confluent_kafka import TopicCollection

        found = {}
        answers = self.admin.describe_topics(TopicCollection(list(names)), request_timeout=ASK)
        for name, future in answers.items():
            what = f"what is the topic {name!r}"
            try:
                async with asyncio.timeout(ASK):
                    described = await asyncio.wrap_future(future)
            except TimeoutError as error:
                raise self.unavailable(what) from error
            except KafkaException as error:
                if reason_of(error).code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.TOPIC_EXCEPTION):
                    continue
                raise translated(error, what, self) from error
            found[name] = Found(str(described.topic_id), len(described.partitions))
        return found

    async def listed(self) -> list[str]:
        """The names of all topics that this user may see."""
        found = await self.in_thread(lambda: self.admin.list_topics(timeout=ASK), "which topics are there")
        return list(found.topics)

    async def groups(self) -> list[str]:
        """The names of all groups that this user may see."""
        asking = self.admin.list_consumer_groups(request_timeout=ASK)
        found: Any = await self.ask(asking, "which groups are there")
        return sorted(each.group_id for each in found.valid)

    async def copies(self) -> int:
        """How many copies a new topic gets."""
        if self.options.replication:
            return self.options.replication
        found: Any = await self.ask(self.admin.describe_cluster(request_timeout=ASK), "which brokers are there")
        return min(3, len(found.nodes))

    async def make_topic(self, name: str, partitions: int, copies: int, config: Mapping[str, str]) -> None:
        """Make a topic, unless it is there."""
        new = administration.NewTopic(name, num_partitions=partitions, replication_factor=copies, config=dict(config))
        (future,) = self.admin.create_topics([new], operation_timeout=ASK, request_timeout=ASK).values()
        try:
            await self.ask(future, f"make the topic {name!r}")
        except EngineUnavailable as error:
            cause = error.__cause__
            code = reason_of(cause).code() if isinstance(cause, KafkaException) else None
            if code in (KafkaError.TOPIC_EXCEPTION, KafkaError.POLICY_VIOLATION, KafkaError.INVALID_CONFIG):
                raise Refused(
                    error.message,
                    remedy="give it another name there (topics.NAME.name in the settings; to Kafka '.' and '_' are "
                    "one), or let its administrators make it",
                ) from error
            if code != KafkaError.TOPIC_ALREADY_EXISTS:
                raise

    def unavailable(self, what: str) -> EngineUnavailable:
        """The error for brokers that do not answer, with what a connection complained of last."""
        why = f": {self._complained()}" if self._complained() else ""
        return EngineUnavailable(f"Kafka at {self.address} does not answer ({what}){why}", remedy=AWAY)

    def _complained(self) -> str:
        return self.said if self.complaint is None else self.complaint.str()

    def close(self) -> None:
        self._threads.shutdown(wait=False)
        self._admin = None


def reason_of(error: KafkaException) -> KafkaError:
    """The library's error inside of its exception."""
    found: KafkaError = error.args[0]
    return found


def translated(error: KafkaException, what: str, client: Client) -> EvenflowError:
    """An exception of the library as one of ours."""
    found = reason_of(error)
    code, text = found.code(), found.str()
    connecting = not client.greeted and (code < 0 or code in _AUTHENTICATION)
    if connecting and (hopeless := _hopeless(found, client)) is not None:
        return hopeless
    if code in _RIGHTS:
        who = f"the user {client.address.user!r}" if client.address.user else "an unnamed user"
        return Refused(
            f"Kafka at {client.address} does not allow {who}: {what}: {text}",
            remedy="let its administrators grant it (kafka-acls.sh --add --allow-principal …)",
        )
    if code in (KafkaError._TIMED_OUT, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN):
        return client.unavailable(what)
    return EngineUnavailable(f"Kafka at {client.address}: {what}: {text}", remedy=DOCTOR)


def _hopeless(error: KafkaError | None, client: Client) -> EvenflowError | None:
    """The error for a complaint that waiting does not mend, or hardly: who hangs up may be on its way up or down."""
    code, text = (None, client.said) if error is None else (error.code(), error.str())
    if code in _AUTHENTICATION:
        return Refused(
            f"Kafka at {client.address} does not take this user and password: {text}",
            remedy="correct user, password and mechanism= in the engine's URL, or leave them away where that port asks "
            "for none",
        )
    if code == KafkaError._SSL or "SSL handshake failed" in text:
        return Refused(
            f"no encrypted connection to Kafka at {client.address}: {text}",
            remedy="correct ca= in the engine's URL, or leave tls=true away where that port is not encrypted",
        )
    if code == KafkaError._RESOLVE:
        return Refused(
            f"nobody knows where {client.address} is: {text}", remedy="correct the hosts in the engine's URL"
        )
    if "Invalid response size" in text:
        return Refused(
            f"who answers at {client.address} speaks no plain Kafka: {text}",
            remedy="correct host and port in the engine's URL, or add tls=true where that port is encrypted",
        )
    if client.hung_up >= HANG_UPS or "security.protocol" in text:
        return EngineUnavailable(
            f"Kafka at {client.address} hangs up at once: {text}",
            remedy="leave tls=true away where that port is not encrypted"
            if client.options.tls
            else "add tls=true (and ca=) to the engine's URL where that port is encrypted, and user and password where "
            "it asks for them",
        )
    return None
