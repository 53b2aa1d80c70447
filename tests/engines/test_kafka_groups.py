"""How far a group is, asked of a broker that is still about to know it."""

import pytest

from confluent_kafka import KafkaError, KafkaException

from evenflow.engines.kafka.commits import Commits


def asked(*codes):
    """The answer of a broker that first says these."""
    errors = [KafkaException(KafkaError(code)) for code in codes]

    def ask(_):
        if errors:
            raise errors.pop(0)
        return "far"

    return Commits(None)._until_it_can(ask, None)


def test_a_broker_that_has_just_started_is_asked_again():
    loading, new = KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.COORDINATOR_NOT_AVAILABLE
    assert asked(loading, new, KafkaError.NOT_COORDINATOR) == "far"


def test_another_error_is_told():
    with pytest.raises(KafkaException):
        asked(KafkaError.GROUP_AUTHORIZATION_FAILED)
