"""From a command line to a command that runs. What a command needs is imported when it runs."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from evenflow.cli.commands import APP_HELP, COMMANDS, Command, overview
from evenflow.cli.failures import Code, UsageError
from evenflow.cli.output import out, say
from evenflow.settings_sources import suggestion


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message, remedy=f"{self.prog} --help")


def parse(arguments: Sequence[str]) -> int:
    """Find the command and run it; its exit code."""
    given = [each for each in arguments if each != "--debug"]
    if not given:
        say(overview())
        return Code.USAGE
    if given[0] in ("-V", "--version"):
        from evenflow import __version__

        out(f"evenflow {__version__}, Python {sys.version.split()[0]}")
        return Code.DONE
    command, rest = _command(given)
    if command is None:
        (out if rest else say)(overview(given[0]))
        return Code.DONE if rest else Code.USAGE
    options = _options(command, rest)
    module, _, function = command.run.partition(":")
    run = getattr(importlib.import_module(f"evenflow.cli.{module}"), function)
    return int(run(options))


def _command(given: Sequence[str]) -> tuple[Command | None, list[str]]:
    """The command and its arguments. For a noun alone None, and whether help was asked for as a list."""
    noun = given[0]
    for command in COMMANDS:
        words = command.name.split()
        if list(given[: len(words)]) == words:
            return command, list(given[len(words) :])
    verbs = [each.name.split()[1] for each in COMMANDS if each.name.startswith(f"{noun} ")]
    if not verbs:
        nouns = list(dict.fromkeys(each.name.split()[0] for each in COMMANDS))
        hint = suggestion(noun, nouns) or f"there are {', '.join(nouns)}"
        raise UsageError(f"there is no command {noun!r}", remedy=hint)
    if len(given) == 1:
        return None, []
    if given[1] in ("-h", "--help"):
        return None, ["help"]
    near = suggestion(given[1], verbs) or f"there are {', '.join(verbs)}"
    raise UsageError(
        f"there is no command '{noun} {given[1]}'", remedy=near.replace("did you mean ", f"did you mean {noun} ")
    )


def _options(command: Command, given: Sequence[str]) -> Any:
    usage = f"evenflow {command.name}{' [APP]' if command.app else ''}{''.join(f' {each}' for each in command.words)}"
    examples = "\n".join(f"  {line}" for line in command.examples.splitlines())
    parser = _Parser(
        prog=f"evenflow {command.name}", usage=f"{usage} [options]", description=command.text,
        epilog=f"{APP_HELP}\n\nexamples:\n{examples}", allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    command.options(parser)
    parser.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
    options, rest = parser.parse_known_args(list(given))
    wrong = [each for each in rest if each.startswith("-") and each != "-"]
    if wrong:
        known = [name for action in parser._actions for name in action.option_strings if name.startswith("--")]
        hint = suggestion(wrong[0].partition("=")[0], known) or f"evenflow {command.name} --help"
        raise UsageError(f"'evenflow {command.name}' has no option {wrong[0]!r}", remedy=hint)
    _name_words(command, options, [*options.words, *rest], usage)
    return options


def _name_words(command: Command, options: Any, words: list[str], usage: str) -> None:
    """APP may be left out: it is the first word if it holds a colon, as no other first word does."""
    options.app = None
    if words and (":" in words[0] or len(words) == len(command.words) + 1):
        options.app = words.pop(0)
    if len(words) < len(command.words):
        missing = command.words[len(words)]
        raise UsageError(f"{missing} is missing", remedy=f"usage: {usage}")
    if len(words) > len(command.words):
        raise UsageError(f"{words[-1]!r} is one word too many", remedy=f"usage: {usage}")
    for name, word in zip(command.words, words, strict=True):
        setattr(options, name.lower(), word)
