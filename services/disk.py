"""A disk that is soon full."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.places import ServiceError


@contextmanager
def small_disk(megabytes: int) -> Iterator[Path]:
    """A folder with so much room that every user may enter. Raises `ServiceError` where mounting is refused."""
    folder = tempfile.mkdtemp(prefix="evenflow-disk-")
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0755", "tmpfs", folder]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        refused = done.stderr.strip() if done.returncode else ""
    except FileNotFoundError:
        refused = "there is no mount here"
    if refused:
        Path(folder).rmdir()
        raise ServiceError(f"a small disk needs the right to mount one: {refused}")
    try:
        Path(folder).chmod(0o755)
        yield Path(folder)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
        Path(folder).rmdir()
