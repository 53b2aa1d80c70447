"""From a command line to a command that runs. What a command needs is imported when it runs."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

from evenflow.cli.commands import APP_HELP, COMMANDS, Command, overview
from evenflow.cli.failures import Code, UsageError
from evenflow.cli.output import filled, out, say
from evenflow.settings_sources import suggestion

ELSEWHERE = {
    "start": "run", "serve": "run", "worker": "run", "up": "run", "watch": "dev", "reload": "dev", "init": "new",
    "create": "new", "startproject": "new", "logs": "tail", "events": "tail", "send": "publish", "emit": "publish",
    "status": "groups list", "lag": "groups list", "consumers": "groups list", "replay": "groups seek",
    "dlq": "parked list", "failed": "parked list", "retry": "parked redrive", "requeue": "parked redrive",
    "purge": "parked discard", "lint": "check", "validate": "check", "settings": "config", "env": "config",
}  # fmt: skip
"""What other tools call it."""


class Chosen(NamedTuple):
    """A command that is ready to run, and the app that it was given by name."""

    work: Callable[[], int]
    app: str | None = None


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message, remedy=f"{self.prog} --help")


def choose(arguments: Sequence[str]) -> Chosen:
    """Find the command and read its options."""
    given = [each for each in arguments if each != "--debug"]
    if given and given[0] == "help":
        given = [*given[1:], "--help"]
    if not given:
        return Chosen(lambda: _show(overview(), Code.USAGE))
    command, rest = _command(given)
    if command is None:
        return Chosen(lambda: _show(overview(given[0]), Code.DONE if rest else Code.USAGE))
    options = _options(command, rest)
    options.debug = "--debug" in arguments  # it may stand anywhere
    module, _, function = command.run.partition(":")
    run = getattr(importlib.import_module(f"evenflow.cli.{module}"), function)
    return Chosen(lambda: int(run(options)), options.app)


def _show(text: str, code: Code) -> int:
    (out if code is Code.DONE else say)(text)
    return code


def _command(given: Sequence[str]) -> tuple[Command | None, list[str]]:
    """The command and its arguments. For a noun alone None, and whether help was asked for as a list."""
    noun = given[0]
    for command in COMMANDS:
        words = command.name.split()
        if list(given[: len(words)]) == words:
            return command, list(given[len(words) :])
    verbs = [each.name.split()[1] for each in COMMANDS if each.name.startswith(f"{noun} ")]
    if not verbs:
        raise UsageError(f"there is no command {noun!r}", remedy=_near(noun))
    if len(given) == 1:
        return None, []
    if given[1] in ("-h", "--help"):
        return None, ["help"]
    near = suggestion(given[1], verbs) or f"there are {', '.join(verbs)}"
    raise UsageError(
        f"there is no command '{noun} {given[1]}'", remedy=near.replace("did you mean ", f"did you mean {noun} ")
    )


def _near(word: str) -> str:
    """The command that was meant: a noun, a verb without its noun, or what other tools call it."""
    if word in ELSEWHERE:
        return f"did you mean {ELSEWHERE[word]}?"
    nouns = list(dict.fromkeys(each.name.split()[0] for each in COMMANDS))
    for known in (nouns, [each.name.split()[1] for each in COMMANDS if " " in each.name]):
        hint = suggestion(word, known)
        if hint and known is nouns:
            return hint
        whole = [each.name for each in COMMANDS if hint == f"did you mean {each.name.rpartition(' ')[2]}?"]
        if whole:
            return f"did you mean {' or '.join(whole)}?"
    return f"there are {', '.join(nouns)}; `evenflow --help` says what they do"


def _options(command: Command, given: Sequence[str]) -> Any:
    words = "".join(f" [{each[:-1]}]" if each.endswith("?") else f" {each}" for each in command.words)
    usage = f"evenflow {command.name}{' [APP]' if command.app else ''}{words}"
    examples = "\n".join(f"  {line}" for line in command.examples.splitlines())
    parser = _Parser(
        prog=f"evenflow {command.name}", usage=f"{usage} [options]", description=filled(command.text),
        epilog="\n\n".join([filled(APP_HELP)] * command.app + [f"examples:\n{examples}"]), allow_abbrev=False,
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
    needed = [each for each in command.words if not each.endswith("?")]
    options.app = None
    if command.app and words and (":" in words[0] or len(words) == len(command.words) + 1):
        options.app = words.pop(0)
    if len(words) < len(needed):
        raise UsageError(f"{needed[len(words)]} is missing", remedy=f"usage: {usage}")
    if len(words) > len(command.words):
        raise UsageError(f"{words[-1]!r} is one word too many", remedy=f"usage: {usage}")
    words += [""] * (len(command.words) - len(words))
    for name, word in zip(command.words, words, strict=True):
        setattr(options, name.rstrip("?").lower(), word)
