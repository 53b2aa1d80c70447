"""The front door: what `import evenflow` offers is listed here by name, and is only a table of contents."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import evenflow

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "evenflow" / "__init__.py"
NAMES = {
    *("App", "Service", "Event", "event", "Topic", "Policy", "Transaction", "Delivery", "Envelope"),
    *("Codec", "JsonCodec", "MsgpackCodec", "Settings", "EvenflowError", "replace"),
    *("SECOND", "MINUTE", "HOUR", "DAY", "__version__"),
}
LIMIT = 25


def test_the_exported_names_are_exactly_these() -> None:
    assert len(evenflow.__all__) == len(set(evenflow.__all__))
    assert set(evenflow.__all__) == NAMES
    assert len(NAMES) <= LIMIT
    assert [name for name in NAMES if not hasattr(evenflow, name)] == []


def test_nothing_else_is_imported_there_and_there_is_no_logic() -> None:
    bound = set()
    for node in ast.parse(SOURCE.read_text("utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            bound |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign):
            ast.literal_eval(node.value)
            bound |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        else:
            assert isinstance(node, ast.Expr), ast.dump(node)
            assert isinstance(node.value, ast.Constant), ast.dump(node)
    assert bound == NAMES | {"__all__"} - {"annotations"}


def test_each_name_comes_from_the_package_itself() -> None:
    for name in NAMES - {"SECOND", "MINUTE", "HOUR", "DAY", "__version__"}:
        assert getattr(evenflow, name).__module__.startswith("evenflow."), name


def test_the_version_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert evenflow.__version__ == project["version"]


def test_importing_it_opens_no_engine_and_needs_no_extra() -> None:
    code = (
        "import sys, evenflow\n"
        "loaded = {name for name in sys.modules if name.startswith(('evenflow.engines', 'evenflow.stores'))}\n"
        "loaded |= {'apsw', 'sqlite3', 'pydantic'} & set(sys.modules)\n"
        "print(sorted(loaded))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT / "src", timeout=60)
    assert (run.stdout, run.stderr) == ("[]\n", "")


def test_the_package_is_typed() -> None:
    assert SOURCE.with_name("py.typed").exists()
