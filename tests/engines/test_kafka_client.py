"""Whose fault a failure of Kafka's client library is, at the start and later."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from types import SimpleNamespace

import pytest


from confluent_kafka import OFFSET_INVALID, KafkaError, KafkaException
from confluent_kafka.admin import OffsetSpec

from evenflow.engines.kafka.client import HANG_UPS, Client, Found, translated
from evenflow.engines.kafka.options import Address, KafkaOptions
from evenflow.engines.kafka.peek import Peek
from evenflow.errors import EngineUnavailable, Refused


@pytest.fixture
def client():
    made = Client(Address("127.0.0.1:1"), KafkaOptions())
    yield made
    made.close()


def failed(client, code):
    return type(translated(KafkaException(KafkaError(code)), "ask", client))


@pytest.mark.parametrize("greeted", [False, True])
def test_who_hangs_up_may_be_on_its_way_down(client, greeted):
    """Connections through a proxy without its broker end at once: a process that waits must not take it for final."""
    client.greeted, client.hung_up = greeted, HANG_UPS
    assert failed(client, KafkaError._TIMED_OUT) is EngineUnavailable


@pytest.mark.parametrize("code", [KafkaError._RESOLVE, KafkaError._SSL, KafkaError._AUTHENTICATION])
def test_what_is_wrong_for_good_at_the_start_is_a_trouble_later(client, code):
    assert failed(client, code) is Refused
    client.greeted = True
    assert failed(client, code) is EngineUnavailable


class Answers:
    """A client whose library answers with these offsets, one after another."""

    def __init__(self, *offsets):
        self.offsets = list(offsets)
        self.admin = self

    def list_offsets(self, asked, **_):
        future = Future()
        future.set_result(SimpleNamespace(offset=self.offsets.pop(0)))
        return dict.fromkeys(asked, future)

    async def described(self, names):
        return dict.fromkeys(names, Found("id", 1))


def test_an_offset_that_no_broker_has_given_is_asked_for_again():
    """The library tells it without an error. Taken for the end of a log, it would stop every group that reads it."""
    found = asyncio.run(Peek(Answers(OFFSET_INVALID, 7)).offsets([("t", 0)], OffsetSpec.latest()))
    assert found == {("t", 0): 7}


def test_no_offset_is_an_answer():
    assert asyncio.run(Peek(Answers(-1)).offsets([("t", 0)], OffsetSpec.latest())) == {("t", 0): -1}
