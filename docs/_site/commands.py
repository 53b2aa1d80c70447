"""The reference of the command line: what `evenflow NAME --help` prints, for each command of the table."""

from __future__ import annotations

import contextlib
import io
import os
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive

WIDTH = "88"


def printed(*words: str) -> str:
    """What the command line writes to a page of 88 columns, without colours."""
    from evenflow.cli import main

    before = dict(os.environ)
    os.environ |= {"COLUMNS": WIDTH, "NO_COLOR": "1"}
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            main(list(words))
    finally:
        os.environ.clear()
        os.environ |= before
    return out.getvalue().rstrip()


class Commands(Directive):
    """A section for each command, in the order of the table."""

    has_content = False

    def run(self) -> list[nodes.Node]:
        from evenflow.cli.commands import COMMANDS

        return [self.section(each.name, each.line) for each in COMMANDS]

    def section(self, name: str, line: str) -> nodes.section:
        title = f"evenflow {name}"
        section = nodes.section(ids=[title.replace(" ", "-")], names=[nodes.fully_normalize_name(title)])
        self.state.document.note_implicit_target(section, section)
        section += nodes.title("", "", nodes.literal(text=title))
        section += nodes.paragraph(text=f"{line[0].upper()}{line[1:]}.")
        section += nodes.literal_block(text=printed(*name.split(), "--help"), language="text")
        return section


class Overview(Directive):
    """What `evenflow --help` prints."""

    has_content = False

    def run(self) -> list[nodes.Node]:
        return [nodes.literal_block(text=printed("--help"), language="text")]


class ErrorCodes(Directive):
    """Which errors end a command with which exit code, as the command line itself decides it."""

    has_content = False

    def run(self) -> list[nodes.Node]:
        from evenflow import errors
        from evenflow.cli.failures import code_of

        classes = [each for each in vars(errors).values() if isinstance(each, type)]
        by_code: dict[int, list[str]] = {}
        for cls in classes:
            by_code.setdefault(int(code_of(cls.__new__(cls))), []).append(cls.__name__)
        return [nodes.bullet_list("", *(self.item(code, names) for code, names in sorted(by_code.items())))]

    def item(self, code: int, names: list[str]) -> nodes.list_item:
        text = nodes.paragraph("", "", nodes.strong(text=str(code)), nodes.Text(": "))
        for number, name in enumerate(names):
            text += [nodes.Text(", ")] * (number > 0) + [nodes.literal(text=name)]
        return nodes.list_item("", text)


def setup(app: Any) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_directive("evenflow-commands", Commands)
    app.add_directive("evenflow-overview", Overview)
    app.add_directive("evenflow-errorcodes", ErrorCodes)
    return {"parallel_read_safe": True}
