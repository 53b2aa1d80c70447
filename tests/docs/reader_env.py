"""What the tests of the documentation share: the environment of a program that a reader would start."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def clean_env() -> dict[str, str]:
    """This environment without settings of Evenflow, and with the package of this folder."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("EVENFLOW_", "PYTEST_", "COV_"))}
    env["PYTHONPATH"] = str(Path(__file__).parents[2] / "src")
    return env


def reader_env() -> dict[str, str]:
    """The same with our commands at hand, and a terminal without colours."""
    env = clean_env() | {"NO_COLOR": "1", "TERM": "xterm", "PYTHONWARNINGS": "error"}
    env.pop("CI", None)
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    return env
