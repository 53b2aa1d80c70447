"""Sign-up: the request stores the member and is done; the welcome mail and the statistics follow by themselves.

`python examples/signup/app.py` signs three people up, one of them twice, and shows what came of it.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime
from pathlib import Path

from evenflow import App, Delivery, Event, Service, Settings, Topic, Transaction

SIGNUPS = Topic("signups", partitions=4)


class MemberSignedUp(Event, type="member.signed-up", topic=SIGNUPS, key="email"):
    email: str
    name: str
    day: date


class Mailer:
    """Stands for a mail server. Told the same key twice, it sends once."""

    def __init__(self) -> None:
        self.sent: dict[str, str] = {}

    async def send(self, email: str, text: str, *, idempotency_key: str) -> None:
        self.sent.setdefault(idempotency_key, f"{email}: {text}")


members = Service("members", migrations="sql")
app = App(members, name="signup")
mail_server = Mailer()


@app.provide
def mailer() -> Mailer:
    return mail_server


@members.on(MemberSignedUp, group="welcome")  # takes no tx: at least once, with a key that makes a repeat harmless
async def welcome(member: MemberSignedUp, mailer: Mailer, delivery: Delivery) -> None:
    await mailer.send(member.email, f"Welcome, {member.name}!", idempotency_key=delivery.id)


@members.on(MemberSignedUp, group="statistics")  # takes a tx: counted once, whatever is delivered twice or killed
async def count(member: MemberSignedUp, tx: Transaction) -> None:
    tx.write("insert into signups_per_day values ($1, 1) on conflict do update set total = total + 1", member.day)


async def sign_up(email: str, name: str) -> bool:
    """What a web request would do: member and event are stored together, or neither is. False if known already."""
    async with app.transaction(members) as tx:
        new = await tx.execute("insert into members values ($1, $2) on conflict do nothing", email, name)
        if new:
            tx.publish(MemberSignedUp(email=email, name=name, day=datetime.now(UTC).date()))
    return bool(new)


async def main() -> None:
    settings = Settings.load({"folder": Path(__file__).parent / ".evenflow"})
    async with app.open(handle=True, settings=settings):
        for promise in app.promises():
            print(promise)
        for email, name in (("ada@example.org", "Ada"), ("alan@example.org", "Alan"), ("ada@example.org", "Ada")):
            print(f"{email}: {'signed up' if await sign_up(email, name) else 'is a member already'}")
        await app.wait_idle()
        for line in mail_server.sent.values():
            print(f"mail to {line}")
        for day, total in await app.read(members, "select day, total from signups_per_day order by day"):
            print(f"{day}: {total} signed up")
    print(f"kept in {settings.folder}; remove it to begin anew")


if __name__ == "__main__":
    asyncio.run(main())
