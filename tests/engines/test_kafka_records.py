"""What is written into Kafka, and never changes: header, key, partition."""

import zlib

import pytest

from evenflow.engine import Partition
from evenflow.engines.kafka.records import Place, Records, headers_of, runs_of
from evenflow.envelope import Envelope
from evenflow.envelopes import Given
from evenflow.ids import slot_of
from evenflow.topic import Topic

FULL = Envelope(
    "id-1", "orders", "order.placed", 2, "k1", slot_of("k1"), 1000.25, b'{"a":1}', "p-1", 7, "c", "d", "application/json",
    {"traceparent": "00-1"},
)  # fmt: skip
PLACE = Place(Partition("orders", 1, 3), "orders", "T-1", Topic("orders"))


class Message:
    """As the client library's."""

    def __init__(self, offset, value, headers=None, key=None, partition=3, topic="orders"):
        self.facts = (offset, value, headers, key, partition, topic)

    def offset(self):
        return self.facts[0]

    def value(self):
        return self.facts[1]

    def headers(self):
        return self.facts[2]

    def key(self):
        return self.facts[3]

    def partition(self):
        return self.facts[4]

    def topic(self):
        return self.facts[5]

    def timestamp(self):
        return (2, 5000)


def message(offset, envelope, **facts):
    key = None if envelope.key is None else envelope.key.encode()
    return Message(offset, envelope.data, headers_of(envelope), key, **facts)


def runs(*messages):
    return list(runs_of(list(messages), {("orders", 3): PLACE}))


def test_header_is_one_array_with_what_handling_needs_first():
    assert headers_of(FULL) == [
        (
            "evenflow",
            b'["p-1",7,' + str(slot_of("k1")).encode() + b',2,"order.placed","application/json",'
            b'"id-1","orders",1000.25,"c","d",{"traceparent":"00-1"}]',
        )
    ]


def test_headers_of_cloudevents_stand_behind_it():
    names = [name for name, _ in headers_of(FULL, shown=Topic("orders"))]
    assert names[0] == "evenflow" and {"ce_specversion", "ce_id", "ce_source", "ce_type", "content-type"} <= {*names}
    assert sum(name.startswith("evenflow") for name in names) == 1


@pytest.mark.parametrize(("key", "slot"), [("k1", 0xA9), ("", 0), ("schlüssel", 0xF6), ("0b5e1f6a-1", 0x6D)])
def test_partition_is_the_one_of_librdkafkas_own_partitioner(key, slot):
    assert slot_of(key) == zlib.crc32(key.encode()) & 0xFF == slot
    for count in (1, 2, 8, 64, 256):
        assert slot_of(key) % count == zlib.crc32(key.encode()) % count


def test_a_run_comes_back_unchanged():
    plain = Envelope("id-2", "orders", "order.placed", 2, None, 3, 1001.0, b"{}", "p-1", 8)
    (run,) = runs(message(5, FULL), message(9, plain))
    assert isinstance(run.envelopes, Records)
    assert (list(run.envelopes), run.offsets, run.next) == ([FULL, plain], [5, 9], 10)
    assert run.envelopes.keys() == ["k1", None] and run.envelopes.id_at(1) == "id-2"
    assert run.envelopes.types == "order.placed" and run.envelopes.numbers == [7, 8]
    assert list(run.envelopes[1:]) == [plain]


def test_a_later_version_may_add_fields():
    header = headers_of(FULL)[0][1][:-1] + b',false,"new"]'
    (run,) = runs(Message(5, FULL.data, [("evenflow", header)], b"k1"))
    assert list(run.envelopes) == [FULL]


def test_what_has_no_key_is_kept_through_compaction_by_its_id():
    plain = Envelope("id-2", "orders", "t", 1, None, 3, 1.0, b"{}", "p-1", 8)
    (run,) = runs(Message(5, b"{}", headers_of(plain, keyless=True), b"id-2"))
    assert list(run.envelopes) == [plain]


@pytest.mark.parametrize(
    "headers",
    [
        None,
        [],
        [("x", b"1")],
        [("evenflow", None)],
        [("evenflow", b"no json")],
        [("evenflow", b'["p",1]')],
        [("evenflow", b'["p",1,256,1,"t","c","i","s",1,"","",null]')],
    ],
)
def test_strangers_among_ours_are_strangers(headers):
    (run,) = runs(message(5, FULL), Message(6, b"x", headers, b"k2"))
    assert isinstance(run.envelopes, Given)
    ours, other = run.envelopes
    assert ours == FULL
    assert (other.producer, other.key, other.data, other.slot) == ("", "k2", b"x", 3) and other.number <= 0
    assert other.id == "orders-3-6" and "T-1" in other.source


def test_tombstones_and_runs_of_several_partitions():
    other = Place(Partition("orders", 1, 4), "orders", "T-1", Topic("orders"))
    found = list(
        runs_of(
            [
                message(1, FULL),
                message(7, FULL, partition=4),
                Message(2, None, None, b"k"),
                message(1, FULL, topic="x"),
            ],
            {("orders", 3): PLACE, ("orders", 4): other},
        )
    )
    assert [(run.place.partition.number, run.offsets) for run in found] == [(3, [1]), (4, [7]), (3, [2])]
    assert found[2].envelopes[0].data == b""
