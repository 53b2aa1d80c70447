"""The command line. Data goes to stdout, everything else to stderr; exit codes stand in docs/exit-codes.md."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evenflow.cli.arguments import Chosen

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    chosen: Chosen | None = None
    try:
        if _answered(given):
            code = 0
        else:
            from evenflow.cli.arguments import choose

            chosen = choose(given)
            code = chosen.work()
        from evenflow.cli.output import flush

        flush()
    except BrokenPipeError:  # whoever read our output has seen enough
        from evenflow.cli.output import let_stdout_go

        let_stdout_go()
        return 0
    except BaseException as error:
        from evenflow.cli.failures import report

        return report(error, debug="--debug" in given, app=chosen.app if chosen else None)
    return code


def _answered(given: list[str]) -> bool:
    """Whether it was a question that needs none of the rest: help and version come at once."""
    if given in (["-h"], ["--help"], ["help"]):
        from evenflow.cli.commands import overview
        from evenflow.cli.output import out

        out(overview())
    elif given in (["-V"], ["--version"]):
        from evenflow import __version__
        from evenflow.cli.output import out

        out(f"evenflow {__version__}, Python {sys.version.split()[0]}")
    else:
        return False
    return True
