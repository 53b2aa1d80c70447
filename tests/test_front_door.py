"""The front door: what `import evenflow` offers is listed here by name, and is only a table of contents."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import evenflow

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "evenflow" / "__init__.py"
NAMES = {
    *("App", "Service", "Event", "event", "Topic", "Policy", "Transaction", "Delivery", "Due", "Envelope"),
    *("Reject", "RetryLater"),
    *("Limit", "Breaker"),
    *("Codec", "Records", "JsonCodec", "MsgpackCodec", "Settings", "EvenflowError", "replace"),
    *("MINUTE", "HOUR", "DAY", "__version__"),
}
LIMIT = 25


def test_the_exported_names_are_exactly_these() -> None:
    assert len(evenflow.__all__) == len(set(evenflow.__all__))
    assert set(evenflow.__all__) == NAMES
    assert len(NAMES) <= LIMIT
    assert [name for name in NAMES if not hasattr(evenflow, name)] == []


def for_type_checkers() -> dict[str, set[str]]:
    """What the file imports under TYPE_CHECKING: names by module."""
    block = next(node for node in ast.parse(SOURCE.read_text("utf-8")).body if isinstance(node, ast.If))
    assert all(isinstance(node, ast.ImportFrom) for node in block.body)
    return {str(node.module): {a.name for a in node.names} for node in block.body if isinstance(node, ast.ImportFrom)}


def test_type_checkers_see_the_same_names_from_the_same_modules() -> None:
    at_run_time = {f"evenflow.{home}": set(names) for home, names in evenflow._HOMES.items()}
    at_run_time["evenflow.event"].add("event")
    assert for_type_checkers() == at_run_time
    eager = {"EvenflowError", "__version__"}
    assert set().union(*at_run_time.values()) == NAMES - eager


def fresh(code: str) -> str:
    """What the code prints in a process of its own."""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT / "src", timeout=60)
    assert run.stderr == ""
    return run.stdout.strip()


@pytest.mark.parametrize(
    "before",
    [
        "import evenflow",
        "import evenflow.event",
        "from evenflow.event import spec_of",
        "from evenflow import event",
        "from evenflow import App",
        "from evenflow import *",
        "import evenflow; evenflow.event; import evenflow.event, evenflow.app",
        "import evenflow.registry, importlib; importlib.import_module('evenflow.event')",
        "import evenflow; evenflow.event = 1",
    ],
)
def test_event_is_the_decorator_and_its_module_can_be_imported_whoever_comes_first(before: str) -> None:
    code = (
        f"{before}\n"
        "import sys, evenflow, evenflow.event\n"
        "from evenflow import event\n"
        "from evenflow.event import Event, event as there\n"
        "assert evenflow.event is event is there and callable(event), evenflow.event\n"
        "assert sys.modules['evenflow.event'].Event is Event is evenflow.Event\n"
        "print('right')"
    )
    assert fresh(code) == "right"


def test_every_way_to_ask_for_names_works() -> None:
    shown = fresh(
        "import evenflow, pickle, pydoc\n"
        "assert set(evenflow.__all__) <= set(dir(evenflow))\n"
        "for each in ('App', 'Topic', 'replace', 'event'):\n"
        "    value = getattr(evenflow, each)\n"
        "    assert pickle.loads(pickle.dumps(value)) is value, each\n"
        "assert pickle.loads(pickle.dumps(evenflow.Topic('t'))) == evenflow.Topic('t')\n"
        "try: evenflow.Ap\n"
        "except AttributeError as error: assert error.name == 'Ap' and 'no attribute' in str(error)\n"
        "else: raise SystemExit('found')\n"
        "try: from evenflow import Ap\n"
        "except ImportError as error: assert 'cannot import name' in str(error)\n"
        "print(pydoc.plain(pydoc.render_doc(evenflow)))"
    )
    for each in ("class App", "class Topic", "replace(", "event(", "DAY = 86400.0"):
        assert each in shown


HEAVY = {
    *("asyncio", "logging", "inspect", "dataclasses", "msgspec", "apsw", "sqlite3", "ssl", "socket", "subprocess"),
    *("multiprocessing", "concurrent", "importlib.resources", "tomllib", "difflib", "argparse", "uuid", "hashlib"),
}


@pytest.mark.parametrize(
    ("code", "may"),
    [
        ("import evenflow", set[str]()),
        ("from evenflow.cli import main; main(['--help'])", set[str]()),
        ("from evenflow.cli import main; main(['--version'])", {"argparse"}),
        (
            "from evenflow import App, Event, Service, Topic, Transaction",
            {"logging", "inspect", "dataclasses", "msgspec", "uuid", "hashlib"},
        ),
        (
            "import importlib, evenflow; [importlib.import_module(f'evenflow.{name}') for name in ('running', 'app')]",
            HEAVY - {"apsw", "sqlite3", "multiprocessing", "importlib.resources", "argparse"},
        ),
    ],
)
def test_starting_imports_no_more_than_is_needed(code: str, may: set[str]) -> None:
    found = fresh(f"import sys\nknown = set(sys.modules)\n{code}\nprint(*(set(sys.modules) - known), sep='\\n')")
    loaded = set(found.splitlines())
    assert loaded & HEAVY - may == set()
    assert {name for name in loaded if name.startswith(("evenflow.engines", "evenflow.stores"))} == set()


def test_a_bare_import_loads_two_modules_of_ours() -> None:
    code = "import sys, evenflow\nprint(*sorted(name for name in sys.modules if name.startswith('evenflow')))"
    assert fresh(code) == "evenflow evenflow.errors"


def test_each_name_comes_from_the_package_itself() -> None:
    for name in NAMES - {"MINUTE", "HOUR", "DAY", "__version__"}:
        assert getattr(evenflow, name).__module__.startswith("evenflow."), name


def test_the_version_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert evenflow.__version__ == project["version"]


def test_importing_every_name_opens_no_engine_and_needs_no_extra() -> None:
    code = (
        "import sys\n"
        "from evenflow import *\n"
        "loaded = {name for name in sys.modules if name.startswith(('evenflow.engines', 'evenflow.stores'))}\n"
        "loaded |= {'apsw', 'sqlite3', 'pydantic'} & set(sys.modules)\n"
        "print(sorted(loaded))"
    )
    assert fresh(code) == "[]"


def test_the_package_is_typed() -> None:
    assert SOURCE.with_name("py.typed").exists()
