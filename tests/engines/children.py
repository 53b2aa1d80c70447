"""Another process on a log (`log_process.py`), for tests that kill or freeze it."""

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import evenflow.engine

PROCESS = Path(__file__).with_name("log_process.py")


@contextmanager
def process(*args):
    """`log_process.py` with these arguments, killed at the end."""
    root = PROCESS.parent.parent.parent
    source = str(Path(evenflow.engine.__file__).parent.parent)
    child = subprocess.Popen(
        [sys.executable, str(PROCESS), *map(str, args)],
        env={**os.environ, "PYTHONPATH": f"{source}{os.pathsep}{root}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()


def said(child, word):
    """The words of its next line, of which this is the first."""
    line = child.stdout.readline()
    assert line.startswith(word), f"the process said {line!r}, not {word!r}"
    return line.split()
