"""Our docstrings as pages: `code` in single backticks, and "name  what it means" in columns as a list."""

from __future__ import annotations

import re
from typing import Any

ENTRY = re.compile(r"^(\w+(?:, \w+)*) {2,}(\S.*)$")
TREE = re.compile("[├└]── ")
MADE_FOR_YOU = {"SyncApp", "SyncTransaction", "Transaction", "World", "Settings", "Parked", "Promise", "Setting"}
"""Classes that a user only receives: how they are made is nobody's business."""
CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")


def as_rest(lines: list[str]) -> list[str]:
    """The lines of a docstring in the markup that autodoc expects."""
    tree = [number for number, line in enumerate(lines) if TREE.search(line)]
    if tree:
        first, last = tree[0] - 1, tree[-1] + 1
        drawn = ["::", "", *(f"    {line}" for line in lines[first:last]), ""]
        return [*as_rest(lines[:first]), *drawn, *as_rest(lines[last:])]
    found: list[str] = []
    inside = False
    for line in lines:
        match = ENTRY.match(line)
        if match:
            found += [*[""] * (not inside), f"``{match[1]}``", f"    {code(match[2])}"]
        elif inside and line.startswith(" "):
            found.append(f"    {code(line.strip())}")
        else:
            found += [""] * inside + [code(line)]
        inside = bool(match) or (inside and line.startswith(" "))
    return found


def code(line: str) -> str:
    """Single backticks doubled, and nothing that looks like an address."""
    return CODE.sub(r"``\1``", line).replace('"file:line"', "``file:line``")


def process(_app: Any, _what: str, _name: str, _obj: Any, _options: Any, lines: list[str]) -> None:
    """Called by autodoc for each docstring."""
    lines[:] = as_rest(lines)


def signature(_app: Any, what: str, name: str, _obj: Any, _options: Any, given: str, returned: str) -> Any:
    """Called by autodoc for each signature."""
    return ("", None) if what == "class" and name.rpartition(".")[2] in MADE_FOR_YOU else (given, returned)


def without_overloads(_app: Any) -> None:
    """One signature for `Service.on`, which has four for type checkers."""
    from sphinx.pycode import ModuleAnalyzer

    analyzer = ModuleAnalyzer.for_module("evenflow.service")
    analyzer.analyze()
    del analyzer.overloads["Service.on"]


def setup(app: Any) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("builder-inited", without_overloads)
    app.connect("autodoc-process-docstring", process)
    app.connect("autodoc-process-signature", signature)
    return {"parallel_read_safe": True}
