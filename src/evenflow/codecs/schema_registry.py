"""A schema registry: the client of Confluent's HTTP interface, which those of Karapace, Redpanda and Apicurio share.

A schema never changes under its number, so each is asked for once. Requests run in a thread, outside the hot path.
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, urlsplit
from urllib.request import HTTPSHandler, Request, build_opener

from evenflow.codecs.schemas import Schema
from evenflow.errors import DecodeError, EvenflowError, Refused, SchemasUnavailable, SettingsError

FORGET = 30.0
"""Seconds for which it is remembered that the registry does not have a schema."""
_SIZE = 16 * 1024 * 1024
_TYPE = "application/vnd.schemaregistry.v1+json"
_NOT_FOUND = 404
_NO_FIT = (409, 422)


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaRegistryOptions:
    """timeout: seconds that an answer may take. ca: a file with the certificates to trust, instead of the system's.
    cert, key: files with a certificate of ours and its key.
    """

    timeout: float = 5.0
    ca: str = ""
    cert: str = ""
    key: str = ""


class SchemaRegistry:
    """One registry, by its URL without a query. Implements `Schemas`."""

    def __init__(
        self, url: str, options: SchemaRegistryOptions | None = None, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._options = options or SchemaRegistryOptions()
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SettingsError(
                f"the URL of the schema registry begins with {parts.scheme}:", remedy="write http://host:8081, or https"
            )
        self.place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
        """The URL without the password."""
        self._headers = {"accept": f"{_TYPE}, application/json", "content-type": _TYPE}
        if parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers["authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
        self._opener = build_opener(HTTPSHandler(context=_tls(self._options, parts.scheme)))
        self._now = now
        self._known: dict[int, Schema] = {}
        self._missing: dict[int, float] = {}
        self._asking: dict[int, asyncio.Task[None]] = {}
        self._working: set[asyncio.Task[None]] = set()

    def known(self, number: int) -> Schema:
        found = self._known.get(number)
        if found is not None:
            return found
        if self._missing.get(number, 0.0) > self._now():
            raise DecodeError(f"schema {number}", f"the schema registry at {self.place} has no schema {number}")
        self.later(lambda: self.fetch((number,)))
        raise SchemasUnavailable(f"schema {number} is not known yet: the registry at {self.place} is being asked")

    async def fetch(self, numbers: Iterable[int]) -> None:
        now = self._now()
        for number in numbers:
            if number not in self._known and self._missing.get(number, 0.0) <= now:
                task = self._asking.get(number)
                if task is None:
                    task = self._asking[number] = asyncio.create_task(self._ask_for(number))
                    task.add_done_callback(self._heard)
                await asyncio.shield(task)

    async def latest(self, subject: str) -> Schema | None:
        found = await self._ask("GET", f"/subjects/{_path(subject)}/versions/latest")
        return None if found is None else await self._schema(found.get("id"), found)

    async def number_of(self, subject: str, kind: str, text: str) -> int | None:
        found = await self._ask("POST", f"/subjects/{_path(subject)}", _body(kind, text))
        return None if found is None else _whole(found.get("id"))

    async def register(self, subject: str, kind: str, text: str) -> int:
        found = await self._ask("POST", f"/subjects/{_path(subject)}/versions", _body(kind, text), of=subject)
        return _whole(None if found is None else found.get("id"))

    async def misfits(self, subject: str, kind: str, text: str) -> list[str]:
        found = await self._ask(
            "POST", f"/compatibility/subjects/{_path(subject)}/versions/latest?verbose=true", _body(kind, text)
        )
        if found is None or found.get("is_compatible", True):
            return []
        return [str(each) for each in found.get("messages") or ["it is not compatible"]]

    def later(self, work: Callable[[], Awaitable[None]]) -> None:

        async def quietly() -> None:
            with suppress(EvenflowError):
                await work()

        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        task = loop.create_task(quietly())
        self._working.add(task)
        task.add_done_callback(self._working.discard)

    async def close(self) -> None:
        """End what is asked in the background."""
        tasks = [*self._working, *self._asking.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _heard(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()  # those that wait for it are told

    async def _ask_for(self, number: int) -> None:
        try:
            found = await self._ask("GET", f"/schemas/ids/{number}")
            if found is None:
                self._missing[number] = self._now() + FORGET
            else:
                self._known[number] = await self._schema(number, found)
                self._missing.pop(number, None)
        finally:
            del self._asking[number]

    async def _schema(self, number: object, found: dict[str, Any]) -> Schema:
        parts: dict[tuple[str, int], str] = {}
        await self._collect(found, parts)
        return Schema(_whole(number), found.get("schemaType", "AVRO"), str(found.get("schema", "")), (*parts.values(),))

    async def _collect(self, found: dict[str, Any], parts: dict[tuple[str, int], str]) -> None:
        """The schemas that one refers to, those that others of them need first."""
        for each in found.get("references") or ():
            place = (str(each["subject"]), int(each["version"]))
            if place not in parts:
                inner = await self._ask("GET", f"/subjects/{_path(place[0])}/versions/{place[1]}")
                if inner is None:
                    raise SchemasUnavailable(f"the registry at {self.place} has no version {place[1]} of {place[0]!r}")
                await self._collect(inner, parts)
                parts[place] = str(inner.get("schema", ""))

    async def _ask(self, method: str, path: str, body: bytes | None = None, *, of: str = "") -> dict[str, Any] | None:
        """The answer, or None for what is not there. `of`: the subject that a refusal is about."""
        status, text = await asyncio.to_thread(self._request, method, path, body)
        if status == _NOT_FOUND and _is_error(text):
            return None
        said = _said(text)
        if status in _NO_FIT and of:
            raise Refused(
                f"the schema registry at {self.place} refuses the schema for {of!r}: {said}",
                remedy="make the change one that readers of the old shape can take (a default for what is new), or "
                "change the rule of compatibility of that subject there",
            )
        if not 200 <= status < 300:
            raise SchemasUnavailable(
                f"the schema registry at {self.place} answers {status} to {method} {path}: {said}",
                remedy="check user, password and rights in EVENFLOW_REGISTRY" if status in (401, 403) else "",
            )
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise SchemasUnavailable(f"what answers at {self.place} is no schema registry: {said}")
        return found

    def _request(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        """In a thread. Raises `SchemasUnavailable`."""
        request = Request(self.place + path, data=body, headers=self._headers, method=method)  # noqa: S310  # checked
        try:
            with self._opener.open(request, timeout=self._options.timeout) as answer:
                return answer.status, answer.read(_SIZE)
        except HTTPError as error:
            with error:
                return error.code, error.read(_SIZE)
        except (OSError, HTTPException) as error:
            reason = error.reason if isinstance(error, URLError) else error
            raise SchemasUnavailable(
                f"the schema registry at {self.place} does not answer: {str(reason) or type(reason).__name__}"
            ) from error


def _tls(options: SchemaRegistryOptions, scheme: str) -> ssl.SSLContext | None:
    if scheme != "https":
        return None
    try:
        context = ssl.create_default_context(cafile=options.ca or None)
        if options.cert:
            context.load_cert_chain(options.cert, options.key or None)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(
            f"the certificates for the schema registry cannot be read: {error}", remedy="check ca, cert and key"
        ) from error
    return context


def _path(subject: str) -> str:
    return quote(subject, safe="")


def _body(kind: str, text: str) -> bytes:
    return json.dumps({"schema": text} if kind == "AVRO" else {"schema": text, "schemaType": kind}).encode()


def _whole(value: object) -> int:
    if type(value) is not int:
        raise SchemasUnavailable(f"the schema registry gives {value!r} for the number of a schema")
    return value


def _is_error(text: bytes) -> bool:
    """Whether the registry itself says that it is not there, rather than something before it."""
    with suppress(ValueError):
        found = json.loads(text)
        return isinstance(found, dict) and "error_code" in found
    return False


def _said(text: bytes) -> str:
    with suppress(ValueError):
        found = json.loads(text)
        if isinstance(found, dict) and "message" in found:
            return str(found["message"])[:500]
    return text[:200].decode(errors="replace").strip() or "nothing"
