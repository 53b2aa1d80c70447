"""The core's own tests with their stores on PostgreSQL: a part of them here, all of them by `make test-postgres`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import on_postgres, servers

ROOT = Path(__file__).parents[2]
PARTS = {
    "producers": ("tests/premortem/test_a_producers.py", "test_01 or test_02 or test_04 or test_06"),
    "ownership": ("tests/premortem/test_b_ownership.py", "test_07 or test_08 or test_16"),
    "parking": ("tests/test_parking_lot.py", ""),
    "redriving": ("tests/test_redriving.py tests/premortem/test_operations.py", "not mend and not killed"),
    "schedules": ("tests/test_schedules.py tests/premortem/test_schedule_processes.py", "not mend and not killed"),
    "operating": ("tests/test_operate.py", "seek or redrive or deleted"),
    "mending": ("tests/test_mending.py", "owner or key or race"),
    "rehearsal": ("tests/test_rehearsal.py", "changes_nothing or kind"),
}


@pytest.mark.skipif(on_postgres.ON, reason="it is what runs now")
@pytest.mark.parametrize("part", PARTS)
def test_the_core_holds_on_postgres(part: str) -> None:
    servers.need("postgres")
    files, chosen = PARTS[part]
    command = [sys.executable, "-m", "pytest", "-v", "-x", "--tb=short", "--no-header", *files.split(), "-k", chosen]
    env = {**os.environ, "TEST_STORE": "postgres"}
    done = subprocess.run(command, cwd=ROOT, env=env, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " PASSED" in done.stdout or " passed" in done.stdout
