"""The client of a schema registry: asked once, and whatever goes wrong there is said and is nobody's event's fault."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_registry import SmallRegistry, small_registry

from evenflow.codecs.schema_registry import FORGET, SchemaRegistry, SchemaRegistryOptions
from evenflow.errors import DecodeError, SchemasUnavailable, SettingsError
from evenflow.places import make_schemas
from tests import servers


@pytest.fixture
def registry() -> Iterator[SmallRegistry]:
    with small_registry() as made:
        yield made


def test_a_schema_is_asked_for_once_by_all_who_want_it(registry: SmallRegistry) -> None:
    number = registry.add("payments-value", '"string"')

    async def main() -> None:
        schemas = SchemaRegistry(registry.url)
        await asyncio.gather(*(schemas.fetch([number]) for _ in range(5)))
        await schemas.fetch([number])
        assert schemas.known(number).text == '"string"'

    asyncio.run(main())
    assert registry.asked == [f"GET /schemas/ids/{number}"]


def test_one_that_is_not_known_is_asked_for_in_the_background(registry: SmallRegistry) -> None:
    number = registry.add("payments-value", '"string"')

    async def main() -> None:
        schemas = SchemaRegistry(registry.url)
        with pytest.raises(SchemasUnavailable, match=f"schema {number} is not known yet"):
            schemas.known(number)
        async with asyncio.timeout(10):
            while True:
                await asyncio.sleep(0.001)
                try:
                    schemas.known(number)
                except SchemasUnavailable:
                    continue
                break
        await schemas.close()

    asyncio.run(main())


def test_one_that_is_not_there_is_asked_for_again_after_a_while(registry: SmallRegistry) -> None:
    now = [100.0]

    async def main() -> None:
        schemas = SchemaRegistry(registry.url, now=lambda: now[0])
        for _ in range(3):
            await schemas.fetch([1])
            with pytest.raises(DecodeError, match="has no schema 1"):
                schemas.known(1)
        registry.add("payments-value", '"string"')
        now[0] += FORGET
        await schemas.fetch([1])
        assert schemas.known(1).kind == "AVRO"

    asyncio.run(main())
    assert registry.asked == ["GET /schemas/ids/1"] * 2


def test_user_and_password_go_along_and_are_never_shown(registry: SmallRegistry) -> None:
    registry.login = "us er:p@ss"
    registry.add("a/b-value", '"string"')
    at = registry.url.removeprefix("http://")
    good = SchemaRegistry(f"http://us%20er:p%40ss@{at}/")
    assert good.place == registry.url
    found = asyncio.run(good.latest("a/b-value"))
    assert found is not None and found.number == 1
    with pytest.raises(SchemasUnavailable, match="answers 401 to GET .*: Unauthorized") as refused:
        asyncio.run(SchemaRegistry(f"http://us:secret@{at}").latest("a/b-value"))
    assert "EVENFLOW_REGISTRY" in refused.value.remedy
    assert "secret" not in str(refused.value)


def test_a_registry_in_trouble_is_nobodys_fault(registry: SmallRegistry) -> None:
    registry.down = True
    with pytest.raises(SchemasUnavailable, match="answers 503 to GET /schemas/ids/1: leader not known"):
        asyncio.run(SchemaRegistry(registry.url).fetch([1]))
    with socket.socket() as bound:  # nobody listens
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(SchemasUnavailable, match="does not answer: .*[Rr]efused"):
            asyncio.run(SchemaRegistry(f"http://127.0.0.1:{bound.getsockname()[1]}").fetch([1]))
        bound.listen()  # and now nobody answers
        slow = SchemaRegistry(f"http://127.0.0.1:{bound.getsockname()[1]}", SchemaRegistryOptions(timeout=0.05))
        with pytest.raises(SchemasUnavailable, match="does not answer: timed out"):
            asyncio.run(slow.fetch([1]))


def test_what_is_no_registry_is_not_taken_for_one(registry: SmallRegistry) -> None:
    with pytest.raises(SchemasUnavailable, match="answers 404"):
        asyncio.run(SchemaRegistry(f"{registry.url}/elsewhere").fetch([1]))  # a 404 that is not the registry's own


@pytest.mark.parametrize(
    ("url", "message"),
    [("ftp://host", "begins with ftp"), ("http:host", "begins with http"), ("http://h?tmeout=1", "unknown option")],
)
def test_a_url_that_cannot_be_one_is_refused(url: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make_schemas(url)


def test_over_tls_the_registry_has_to_be_one_that_is_trusted(registry: SmallRegistry, tmp_path: Path) -> None:
    tool = shutil.which("openssl")
    if tool is None:
        servers.refuse("there is no openssl to make a certificate with")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [tool, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        + ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    registry.server.socket = context.wrap_socket(registry.server.socket, server_side=True)
    registry.add("payments-value", '"string"')
    url = registry.url.replace("http:", "https:")
    assert asyncio.run(make_schemas(f"{url}?ca={cert}").latest("payments-value")) is not None
    with pytest.raises(SchemasUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
        asyncio.run(make_schemas(url).latest("payments-value"))
    with pytest.raises(SettingsError, match="certificates for the schema registry cannot be read"):
        make_schemas(f"{url}?ca={tmp_path}/none.pem")
