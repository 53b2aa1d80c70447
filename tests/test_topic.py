from __future__ import annotations

from typing import Any

import pytest

from evenflow.errors import DefinitionError
from evenflow.topic import Topic


def test_a_bare_topic_is_another_teams() -> None:
    assert not Topic("orders").owned
    assert Topic("orders", partitions=1).owned


def test_a_topic_is_a_frozen_value() -> None:
    assert Topic("orders", partitions=4) == Topic("orders", partitions=4)
    assert len({Topic("orders"), Topic("orders"), Topic("bills")}) == 2
    with pytest.raises(AttributeError):
        Topic("orders").name = "bills"  # type: ignore[misc]


@pytest.mark.parametrize("count", [1, 2, 4, 8, 16, 32, 64, 128, 256])
def test_partition_counts(count: int) -> None:
    assert Topic("orders", partitions=count).partitions == count


@pytest.mark.parametrize("count", [0, -1, 3, 12, 255, 257, 512])
def test_wrong_partition_counts(count: int) -> None:
    with pytest.raises(DefinitionError, match="a power of two from 1 to 256"):
        Topic("orders", partitions=count)


@pytest.mark.parametrize("facts", [{"retention": 5.0}, {"retention_bytes": 5}, {"compacted": True}])
def test_facts_belong_to_the_owner(facts: dict[str, Any]) -> None:
    assert Topic("orders", partitions=1, **facts).owned
    with pytest.raises(DefinitionError, match="its owner declares it"):
        Topic("orders", **facts)


@pytest.mark.parametrize("facts", [{"retention": 0.0}, {"retention": -1.0}, {"retention_bytes": 0}])
def test_retention_is_positive(facts: dict[str, Any]) -> None:
    with pytest.raises(DefinitionError, match="use a positive number"):
        Topic("orders", partitions=1, **facts)


@pytest.mark.parametrize("name", ["", "Orders", "a b", "a..b", "x" * 101])
def test_wrong_names(name: str) -> None:
    with pytest.raises(DefinitionError, match="small letters and digits"):
        Topic(name, partitions=1)


@pytest.mark.parametrize("name", ["Orders", "orders_V2", "x" * 249, "_schemas", "1st"])
def test_another_teams_topic_may_have_a_name_that_ours_may_not_have(name: str) -> None:
    assert Topic(name).name == name
    with pytest.raises(DefinitionError, match="cannot be used"):
        Topic(name, partitions=1)


@pytest.mark.parametrize("name", ["", ".", "..", "a b", "ä", "orders--2", "x" * 250, "a/b"])
def test_names_that_no_topic_has(name: str) -> None:
    with pytest.raises(DefinitionError, match="cannot be used"):
        Topic(name)
