"""Imports go down only, and the core imports no engine but `memory`. Read from the source, inside functions too."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "src" / "evenflow"

# From the bottom up. A module may import from lower layers and from its own. A name that ends in ".*" is a folder.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "clock", "checkup", "protection", "redrive", "schedules", "watching"),
    ("ids",),
    ("records", "topic", "envelope", "envelopes"),
    (
        "codec",
        "codecs.*",
        "fidelity",
        "checks",
        "event",
        "registry",
        "cloudevents",
        "strangers",
        "settings_sources",
        "settings",
    ),
    ("engine", "store", "sql.*", "migrations"),
    ("drivers.*",),
    ("engines.*", "stores.*"),
    (
        "policy",
        "protection.limiting",
        "protection.breaker",
        "position",
        "failure",
        "watching.watchdog",
        "watching.keeping",
        "schedules.recurrence",
        "schedules.schedule",
    ),
    (
        "unit_of_work",
        "oversize",
        "outbox",
        "protection.backpressure",
        "publish",
        "parking",
        "pausing",
        "ownership",
        "protection.breaker_shared",
    ),
    ("handler", "provide", "drive", "cpu_pool"),
    (
        "work",
        "group",
        "calling",
        "passes",
        "lane",
        "chunk",
        "batch",
        "window",
        "settling",
        "lane_transaction",
        "late",
        "waiting",
        "protection.limit_shared",
        "protection.refund",
        "protection.protecting",
    ),
    ("leading", "schedules.scheduling", "redrive.operation", "redrive.redriving"),
    ("runtime", "watching.stalls", "report"),
    ("service", "places"),
    ("routes", "routed_consumer"),
    ("running", "app", "sync", "schemas"),
    ("lab.*",),
    ("describe", "operate.*", "testing.*"),
    ("__init__",),
    ("cli.*", "__main__"),
)

# What holds beyond the order. The modules of the left side import, of Evenflow, only what the right side names.
CONTRACTS = (
    "errors",
    "clock",
    "checkup",
    "ids",
    "topic",
    "envelope",
    "envelopes",
    "codec",
    "records",
    "cloudevents",
    "strangers",
    "engine",
    "store",
    "sql.*",
    "migrations",
)
ONLY: dict[str, tuple[str, ...]] = {
    "engines.*": (*CONTRACTS, "drivers.*", "engines.*"),
    "stores.*": (*CONTRACTS, "drivers.*", "stores.*"),
    "drivers.sqlite.*": ("errors", "clock", "checkup", "drivers.sqlite.*"),
    "drivers.postgres.*": ("errors", "checkup", "drivers.postgres.*"),
    "lab.*": ("lab.*",),
}
# The only ones outside of engines/ and stores/ that import an implementation, each on its demand.
NAMES_IMPLEMENTATIONS = {
    "places": (
        "engines.memory",
        "engines.sqlite.engine",
        "engines.postgres.engine",
        "engines.kafka.engine",
        "engines.kafka.options",
        "stores.sqlite.store",
        "stores.postgres.store",
    ),
    "testing.*": ("engines.*", "stores.*"),
    "cli.*": (),
}
CORE_MAY = ("engines.memory",)


@cache
def modules(package: Path) -> dict[str, ast.Module]:
    """Every module by its name below the package; a folder is known by its `__init__`."""
    found = {}
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(package).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        found[name] = ast.parse(file.read_text("utf-8"))
    return found


def imported(name: str, tree: ast.Module, known: set[str]) -> Iterator[tuple[str, int]]:
    """The modules of the package that this one imports, with the line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                inside = ["evenflow", *name.split(".")][: -node.level]
                origin = ".".join([*inside, *filter(None, [node.module])])
            targets = [f"{origin}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in targets:
            if target == "evenflow" or target.startswith("evenflow."):
                yield _module(target.removeprefix("evenflow").lstrip("."), known), node.lineno


def _module(target: str, known: set[str]) -> str:
    while target and target not in known:
        target = target.rpartition(".")[0]
    return target or "__init__"


def fits(name: str, patterns: tuple[str, ...]) -> bool:
    return any(
        name == pattern or (pattern.endswith(".*") and (name + ".").startswith(pattern[:-1])) for pattern in patterns
    )


def layer(name: str) -> int | None:
    return next((number for number, patterns in enumerate(LAYERS) if fits(name, patterns)), None)


def findings(package: Path) -> list[str]:
    """What is wrong, a line each."""
    trees = modules(package)
    wrong = [f"{name} stands in no layer: give it one in tests/test_layers.py" for name in trees if layer(name) is None]
    for name, tree in trees.items():
        for target, line in imported(name, tree, set(trees)):
            wrong.extend(f"{name}:{line} imports {target}: {why}" for why in reasons(name, target))
    return wrong


def reasons(name: str, target: str) -> Iterator[str]:
    mine, theirs = layer(name), layer(target)
    if mine is None or theirs is None:
        return
    if theirs > mine:
        yield "imports go down only"
    for patterns, allowed in ONLY.items():
        if fits(name, (patterns,)) and not fits(target, allowed):
            yield f"{patterns} imports only contracts and files of its own kind"
    if fits(target, ("engines.*", "stores.*")) and not fits(name, ("engines.*", "stores.*")):
        named = next(
            (allowed for patterns, allowed in NAMES_IMPLEMENTATIONS.items() if fits(name, (patterns,))), CORE_MAY
        )
        if not fits(target, named):
            yield "only places.py names engines and stores"


def test_imports_go_down_only() -> None:
    assert findings(PACKAGE) == []


def test_no_layer_is_named_twice_and_the_folders_are_real() -> None:
    names = list(modules(PACKAGE))
    for name in names:
        assert [number for number, patterns in enumerate(LAYERS) if fits(name, patterns)] == [layer(name)], name
    assert {"engines", "stores", "codecs", "engine", "store"} <= set(names)


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("errors", "from evenflow.clock import Clock\nimport evenflow.envelope", "errors:2 imports envelope"),
        ("position", "def late():\n    from evenflow.app import App", "position:2 imports app"),
        (
            "position",
            "if True:\n    from evenflow.engines import sqlite",
            "position:2 imports engines.sqlite: only places",
        ),
        ("position", "from evenflow.engines.memory import MemoryEngine", None),
        ("position", "from evenflow import App", "position:1 imports __init__"),
        ("engines.sqlite", "from evenflow.policy import Policy", "engines.sqlite:1 imports policy"),
        ("engines.sqlite", "from evenflow.event import Event", "engines.* imports only contracts"),
        ("engines.sqlite", "from evenflow.stores.sqlite import SqliteStore", "engines.* imports only contracts"),
        ("engines.sqlite", "from ..policy import Policy", "engines.sqlite:1 imports policy"),
        ("stores.sqlite", "from evenflow.engines.memory import MemoryEngine", "stores.* imports only contracts"),
        ("stores.sqlite", "from . import helpers\nfrom ..store import Store", None),
        ("drivers.sqlite.file", "from evenflow.engine import Engine", "drivers.sqlite.* imports only"),
        ("testing.world", "from evenflow.engines.memory import MemoryEngine", None),
        ("app", "from evenflow.places import make_engine", None),
        ("somewhere", "", "somewhere stands in no layer"),
    ],
)
def test_a_planted_import_is_found(tmp_path: Path, name: str, source: str, expected: str | None) -> None:
    others = ("__init__", "clock", "envelope", "event", "app", "policy", "engine", "store", "places", "errors")
    folders = ("engines/__init__", "stores/__init__", "engines/memory", "engines/sqlite", "stores/sqlite")
    for each in (*others, *folders):
        file = tmp_path / f"{each}.py"
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_text("")
    planted = tmp_path / f"{name.replace('.', '/')}.py"
    planted.parent.mkdir(exist_ok=True, parents=True)
    planted.write_text(source)
    found = findings(tmp_path)
    if expected is None:
        assert found == []
    else:
        assert any(expected in each for each in found), found
