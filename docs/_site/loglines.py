"""The reference of the log: every line that the package can write, read from its code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive

PACKAGE = Path(__file__).parents[2] / "src" / "evenflow"
LEVELS = {"error": "error", "exception": "error", "warning": "warning", "info": "info"}
FIELD = re.compile(r"%(?:\.\d+)?[sdrgf]")


def lines(source: str) -> Iterator[tuple[str, str]]:
    """Level and text of each call of `log`, with … for what is filled in."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="log"), attr=level), args=[ast.Constant(value=str(text)), *_]
            ) if level in LEVELS:
                yield LEVELS[level], FIELD.sub("…", text)


def all_lines() -> list[tuple[str, str]]:
    """Those of the whole package, by level."""
    found = {line for file in PACKAGE.rglob("*.py") for line in lines(file.read_text("utf-8"))}
    return sorted(
        (line for line in found if re.search("[a-z]{3}", line[1])),
        key=lambda each: (list(LEVELS).index(each[0]), each[1]),
    )


class LogLines(Directive):
    """A list of lines for each level."""

    has_content = False

    def run(self) -> list[nodes.Node]:
        found = []
        for level in dict.fromkeys(LEVELS.values()):
            items = [text for kind, text in all_lines() if kind == level]
            found += [
                nodes.paragraph("", "", nodes.strong(text=level)),
                nodes.bullet_list("", *(nodes.list_item("", nodes.paragraph("", "", _text(each))) for each in items)),
            ]
        return found


def _text(line: str) -> nodes.literal:
    return nodes.literal(text=line.replace("\n", " "))


def setup(app: Any) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_directive("evenflow-loglines", LogLines)
    return {"parallel_read_safe": True}
