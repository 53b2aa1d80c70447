"""A mail server that keeps what it is given: one row for each Message-ID, and how many copies of it came.

`python -m outside.mail_server --port 0 --mailbox FILE` prints where it listens.
"""

from __future__ import annotations

import argparse
import asyncio
import re

from aiosmtpd.smtp import SMTP, Envelope, Session

from outside.serving import ledger, until_told

_SCHEMA = """
create table if not exists mails (
    message_id text primary key, recipient text not null, content blob not null, copies integer not null
)
"""
_KEEP = "insert into mails values (?, ?, ?, 1) on conflict do update set copies = copies + 1"
_MESSAGE_ID = re.compile(rb"^message-id:\s*<([^>\r\n]+)>", re.IGNORECASE | re.MULTILINE)


class Mailbox:
    """What aiosmtpd calls for each mail."""

    def __init__(self, file: str) -> None:
        self._file = ledger(file, _SCHEMA)

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802  # its name
        content = envelope.original_content or b""
        found = _MESSAGE_ID.search(content.partition(b"\r\n\r\n")[0])
        if found is None:
            return "550 A mail needs a Message-ID"
        self._file.execute(_KEEP, (found[1].decode(), envelope.rcpt_tos[0], content))
        return "250 Kept"

    def close(self) -> None:
        self._file.close()


async def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--port", type=int, default=8702)
    options.add_argument("--mailbox", default="mails.db")
    given = options.parse_args()
    mailbox = Mailbox(given.mailbox)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: SMTP(mailbox, hostname="mail.example", enable_SMTPUTF8=True, loop=loop), "127.0.0.1", given.port
    )
    await until_told(server)
    mailbox.close()


if __name__ == "__main__":
    asyncio.run(main())
