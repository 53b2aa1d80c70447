"""The shop's clients and the world outside, over real HTTP and SMTP on loopback."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import outside.provider
import outside.supplier
import pytest
from aiohttp import web
from aiosmtpd.smtp import SMTP
from outside.mail_server import Mailbox
from outside.provider import Ledger
from outside.rule import verdict
from outside.supplier import Away
from shop.notifications import Mail, Mailer
from shop.notifications.mailer import MailFailed
from shop.payments import Answer, Provider
from shop.payments.provider import ProviderFailed
from shop.stock import Supplier
from shop.stock.supplier import SupplierFailed

DECLINED, PENDING, SLOW, TAKEN = 9, 31, 23, 1
PATIENT, HASTY = 60.0, 0.2


@asynccontextmanager
async def a_provider(file: Path) -> AsyncGenerator[str]:
    """The address of a provider that runs in this process."""
    ledger = Ledger(str(file))
    server = web.Server(outside.provider.provider(ledger), access_log=None)
    listening = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    try:
        yield "http://{}:{}".format(*listening.sockets[0].getsockname())
    finally:
        listening.close()
        await server.shutdown(0.1)
        ledger.close()


@asynccontextmanager
async def a_client(url: str, patience: float = PATIENT) -> AsyncGenerator[Provider]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=patience)) as session:
        yield Provider(session, url)


def kept(file: Path, sql: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(file)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def test_a_key_is_charged_once_and_keeps_its_answer(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_provider(tmp_path / "ledger.db") as url, a_client(url) as client:
            for _ in range(2):
                assert await client.charge(TAKEN, 500) == Answer("taken", "ch_1")
                assert await client.charge(DECLINED, 500) == Answer("declined", "ch_9")
        async with a_provider(tmp_path / "ledger.db") as url, a_client(url) as client:  # it was restarted
            assert await client.charge(TAKEN, 500) == Answer("taken", "ch_1")

    asyncio.run(main())
    rows = kept(tmp_path / "ledger.db", "select key, cents, state, calls from charges order by key")
    assert rows == [("1", 500, "taken", 3), ("9", 500, "declined", 2)]


def test_who_gives_up_on_a_slow_answer_gets_it_when_asking_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outside.provider, "SLOW", 2 * PATIENT)
    assert verdict(SLOW).slow

    async def main() -> None:
        async with a_provider(tmp_path / "ledger.db") as url:
            async with a_client(url, HASTY) as hasty:
                while not kept(tmp_path / "ledger.db", "select 1 from charges"):
                    with pytest.raises(ProviderFailed, match="no answer about order 23"):
                        await hasty.charge(SLOW, 500)
            async with a_client(url) as patient:
                assert await patient.charge(SLOW, 500) == Answer("taken", "ch_23")

    asyncio.run(main())


def test_only_what_is_pending_can_be_given_up(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_provider(tmp_path / "ledger.db") as url, a_client(url) as client:
            assert (await client.charge(PENDING, 500)).state == "pending"
            await client.void(PENDING)
            await client.void(PENDING)
            await client.charge(TAKEN, 500)
            with pytest.raises(ProviderFailed, match="409"):
                await client.void(TAKEN)

    asyncio.run(main())
    assert kept(tmp_path / "ledger.db", "select state from charges order by key") == [("taken",), ("voided",)]


def test_a_provider_that_is_away_is_told_as_such() -> None:
    async def main() -> None:
        async with a_client("http://127.0.0.1:1") as client:
            with pytest.raises(ProviderFailed, match="no answer about order 1"):
                await client.charge(TAKEN, 500)

    asyncio.run(main())


@asynccontextmanager
async def a_supplier(file: Path, away: Away) -> AsyncGenerator[str]:
    """The address of a supplier that runs in this process."""
    ledger = outside.supplier.Ledger(str(file))
    server = web.Server(outside.supplier.supplier(ledger, away), access_log=None)
    listening = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    try:
        yield "http://{}:{}".format(*listening.sockets[0].getsockname())
    finally:
        listening.close()
        await server.shutdown(0.1)
        ledger.close()


def test_a_supplier_delivers_once_for_a_key_and_is_away_until_somebody_complains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outside.supplier, "HANGS_EACH", 3)
    monkeypatch.setattr(outside.supplier, "HANGS", 2 * PATIENT)

    async def main() -> None:
        async with (
            a_supplier(tmp_path / "ledger.db", Away(after=2, seconds=0.0)) as url,
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENT)) as http,
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=HASTY)) as hasty,
        ):
            client = Supplier(http, url)
            assert [await client.order(key, 25, 3) for key in (1, 1, 2)] == ["d_1", "d_1", "d_2"]
            for _ in range(2):
                with pytest.raises(SupplierFailed, match=r"^answer 503: the warehouse does not answer$"):
                    await client.order(3, 25, 1)
            with pytest.raises(SupplierFailed, match=r"^no answer in time$"):
                await Supplier(hasty, url).order(3, 25, 1)
            assert await status(http, "GET", f"{url}/health") == 503
            assert await status(http, "POST", f"{url}/complaints") == 202
            assert await client.order(3, 25, 1) == "d_3"
            assert await status(http, "GET", f"{url}/health") == 200

    asyncio.run(main())
    rows = kept(tmp_path / "ledger.db", "select key, title, cds, calls from orders order by key")
    assert rows == [("1", 25, 3, 2), ("2", 25, 3, 1), ("3", 25, 1, 1)]


async def status(http: aiohttp.ClientSession, method: str, url: str) -> int:
    async with http.request(method, url) as answer:
        return answer.status


@asynccontextmanager
async def a_mail_server(file: Path) -> AsyncGenerator[tuple[int, list[SMTP]]]:
    """The port of a mail server in this process, and its connections."""
    mailbox, connections = Mailbox(str(file)), list[SMTP]()
    loop = asyncio.get_running_loop()

    def connection() -> SMTP:
        connections.append(SMTP(mailbox, hostname="mail.example", loop=loop))
        return connections[-1]

    server = await loop.create_server(connection, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], connections
    finally:
        server.close()
        for each in connections:
            if each.transport is not None:
                each.transport.close()
        await asyncio.sleep(0)
        mailbox.close()


def mail(number: int, pdf: bytes = b"") -> Mail:
    mail_id = f"mail-{number}@shop.example"
    return Mail(mail_id=mail_id, recipient="a@example.com", subject="Hi", text="hello\n", pdf=pdf, pdf_name="a.pdf")


def test_mails_share_kept_connections_and_repeats_are_counted(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_mail_server(tmp_path / "mails.db") as (port, connections):
            mailer = Mailer("127.0.0.1", port)
            for number in (1, 2, 2):
                await mailer.send(mail(number))
            assert len(connections) == 1
            await asyncio.gather(*(mailer.send(mail(number, b"%PDF")) for number in range(3, 11)))
            assert len(connections) == 8
            mailer.close()

    asyncio.run(main())
    rows = kept(tmp_path / "mails.db", "select message_id, copies, instr(content, 'application/pdf') > 0 from mails")
    expected = {(f"mail-{number}@shop.example", 2 if number == 2 else 1, int(number > 2)) for number in range(1, 11)}
    assert set(rows) == expected


def test_a_mail_server_that_went_away_costs_a_failure_and_no_more(tmp_path: Path) -> None:
    async def main() -> None:
        async with a_mail_server(tmp_path / "mails.db") as (port, connections):
            mailer = Mailer("127.0.0.1", port)
            await mailer.send(mail(1))
            connections[0].transport.abort()
            try:
                await mailer.send(mail(2))  # it may be told of the end of its connection in time, or not
            except MailFailed:
                await mailer.send(mail(2))
            mailer.close()
        with pytest.raises(MailFailed, match="mail-3"):
            await mailer.send(mail(3))

    asyncio.run(main())
    assert kept(tmp_path / "mails.db", "select count(*) from mails") == [(2,)]
