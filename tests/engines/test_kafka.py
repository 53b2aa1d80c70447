import asyncio

import pytest

from evenflow.testing import engine_suite
from evenflow.testing.grounds import EngineAt, ground_of
from evenflow.testing.suite import NotApplicable
from tests import servers


@pytest.fixture(scope="module")
def engines():
    """Engines on one Kafka. Its checks make topics and groups of their own, which are removed in the end."""
    ground = ground_of(servers.kafka().url(), "engine")
    yield EngineAt(ground)
    asyncio.run(ground.clear())


@pytest.mark.parametrize("check", engine_suite.checks(), ids=lambda check: check.__name__)
def test_promise(check, engines):
    try:
        asyncio.run(engine_suite.run_check(check, engines))
    except NotApplicable as reason:
        pytest.skip(str(reason))
