"""What the tests of the documentation share: the environment of a program that a reader would start."""

from __future__ import annotations

import os
from pathlib import Path


def clean_env() -> dict[str, str]:
    """This environment without settings of Evenflow, and with the package of this folder."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("EVENFLOW_")}
    env["PYTHONPATH"] = str(Path(__file__).parents[2] / "src")
    return env
