"""In which order the processes of an application may start."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from evenflow import App, Event, Service, Settings, Topic, Transaction
from evenflow.errors import Refused


class Placed(Event, type="placed", topic=Topic("orders", partitions=2), key="key"):
    key: str


def shop(*groups: str) -> tuple[App, list[str]]:
    service, got = Service("shop"), []
    for group in groups:

        async def keep(event: Placed, tx: Transaction) -> None:
            got.append(event.key)

        service.on(Placed, group=group)(keep)
    return App(service, events=[Placed]), got


def test_what_the_web_process_publishes_before_the_first_worker_starts_is_handled(tmp_path: Path) -> None:
    """No `start=` is needed: the group is created before the first event is published."""

    async def test() -> list[str]:
        settings = Settings.load({"folder": str(tmp_path)}, env={})
        web, _ = shop("keep")
        async with web.open(settings=settings):
            await web.publish(Placed(key="a"))
        worker, got = shop("keep")
        async with worker.open(handle=True, settings=settings):
            assert await worker.wait_idle(20.0)
        return got

    assert asyncio.run(test()) == ["a"]


def test_a_group_that_comes_later_has_to_say_where_it_begins_and_keeps_no_publisher_out(tmp_path: Path) -> None:
    async def test() -> None:
        settings = Settings.load({"folder": str(tmp_path)}, env={})
        for groups in (["keep"], ["keep", "count"]):
            web, _ = shop(*groups)
            async with web.open(settings=settings):
                await web.publish(Placed(key="a"))
        worker, _ = shop("keep", "count")
        with pytest.raises(Refused, match=r"'shop\.count' is new.*\n.*start=\"beginning\""):
            async with worker.open(handle=True, settings=settings):
                pass

    asyncio.run(test())


PROGRAM = """
from evenflow import App, Event, Service, Topic, Transaction

class Placed(Event, type="placed", topic=Topic("orders", partitions=2), key="key"):
    key: str

shop = Service("shop")
app = App(shop)

@shop.on(Placed, group="keep")
async def keep(event: Placed, tx: Transaction) -> None:
    print("kept", event.key)
"""


def test_what_the_command_publishes_before_the_first_run_is_handled(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(PROGRAM)

    def evenflow(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "evenflow", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    assert evenflow("publish", "shop:app", "placed", '{"key": "a"}').returncode == 0
    ran = evenflow("run", "shop:app", "--until-idle")
    assert (ran.returncode, ran.stdout) == (0, "kept a\n"), ran.stderr
