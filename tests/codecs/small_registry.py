"""A schema registry of the tests' own: the HTTP paths that Confluent's has, in a thread, with what a test wants of it."""

from __future__ import annotations

import json
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

Answer = tuple[int, dict[str, Any]]


class SmallRegistry:
    """Schemas by number, subjects with versions.

    asked     what was asked, a line each
    down      answers 503 to everything
    login     "user:password" that is wanted
    misfits   why no further schema fits, by subject
    """

    def __init__(self) -> None:
        self.schemas: dict[int, dict[str, Any]] = {}
        self.subjects: dict[str, list[int]] = {}
        self.asked: list[str] = []
        self.down = False
        self.login = ""
        self.misfits: dict[str, str] = {}
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def add(
        self, subject: str, text: str, kind: str = "AVRO", *, references: list[dict[str, Any]] | None = None
    ) -> int:
        """A schema of this subject; its number."""
        entry: dict[str, Any] = {"schema": text, "schemaType": kind, "references": references or []}
        number = next((n for n, known in self.schemas.items() if known == entry), len(self.schemas) + 1)
        self.schemas[number] = entry
        versions = self.subjects.setdefault(subject, [])
        if number not in versions:
            versions.append(number)
        return number

    def answer(self, method: str, path: str, body: dict[str, Any]) -> Answer:
        parts = [unquote(part) for part in path.partition("?")[0].strip("/").split("/")]
        match (method, *parts):
            case ("GET", "schemas", "ids", number):
                found = self.schemas.get(int(number))
                return _missing(40403, "Schema not found") if found is None else (200, _shown(found))
            case ("GET", "subjects", subject, "versions", version):
                return self._version(subject, version)
            case ("POST", "subjects", subject):
                for number in self.subjects.get(subject, ()):
                    if self.schemas[number]["schema"] == body["schema"]:
                        return 200, {"id": number, **self.schemas[number]}
                return _missing(40403, "Schema not found")
            case ("POST", "subjects", subject, "versions"):
                if subject in self.misfits:
                    return 409, {"error_code": 409, "message": self.misfits[subject]}
                return 200, {"id": self.add(subject, body["schema"], body.get("schemaType", "AVRO"))}
            case ("POST", "compatibility", "subjects", subject, "versions", "latest"):
                if subject not in self.subjects:
                    return _missing(40401, "Subject not found")
                why = self.misfits.get(subject)
                return 200, {"is_compatible": why is None, "messages": [why] if why else []}
        return 404, {"no": "such path"}

    def _version(self, subject: str, version: str) -> Answer:
        versions = self.subjects.get(subject)
        if not versions:
            return _missing(40401, "Subject not found")
        number = versions[-1] if version == "latest" else versions[int(version) - 1]
        return 200, {"id": number, "subject": subject, **_shown(self.schemas[number])}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                body = json.loads(self.rfile.read(length)) if length else {}
                registry.asked.append(f"{self.command} {self.path.partition('?')[0]}")
                wanted = f"Basic {b64encode(registry.login.encode()).decode()}" if registry.login else None
                if registry.down:
                    status, answer = 503, {"error_code": 50301, "message": "leader not known"}
                elif self.headers.get("authorization") != wanted:
                    status, answer = 401, {"error_code": 40101, "message": "Unauthorized"}
                else:
                    status, answer = registry.answer(self.command, self.path, body)
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_POST = do_GET

            def log_message(self, *_: object) -> None:
                """Nothing is written to the terminal."""

        return Handler


def _shown(entry: dict[str, Any]) -> dict[str, Any]:
    """As the registry shows it: Avro is not named, and no references are no field."""
    return {name: value for name, value in entry.items() if (name, value) != ("schemaType", "AVRO") and value != []}


def _missing(code: int, message: str) -> Answer:
    return 404, {"error_code": code, "message": message}


@contextmanager
def small_registry() -> Iterator[SmallRegistry]:
    """A registry that runs."""
    registry = SmallRegistry()
    thread = threading.Thread(target=registry.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield registry
    finally:
        registry.server.shutdown()
        registry.server.server_close()
        thread.join()
