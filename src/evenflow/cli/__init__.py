"""The command line. Data goes to stdout, everything else to stderr; exit codes stand in docs/exit-codes.md."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _run(given)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has seen enough
        from evenflow.cli.output import let_stdout_go

        let_stdout_go()
        return 0
    except BaseException as error:
        from evenflow.cli.failures import report

        return report(error, debug="--debug" in given)
    return code


def _run(given: list[str]) -> int:
    if given[:1] in (["-h"], ["--help"], ["help"]):
        from evenflow.cli.commands import overview
        from evenflow.cli.output import out

        out(overview())
        return 0
    from evenflow.cli.arguments import parse

    return parse(given)
