"""completions: scripts for shells, made from the table of commands."""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections.abc import Sequence
from typing import NamedTuple

from evenflow.cli.commands import COMMANDS, Command
from evenflow.cli.failures import Code, UsageError
from evenflow.cli.output import out
from evenflow.settings_sources import suggestion

SHELLS = ("bash", "zsh", "fish")


class Option(NamedTuple):
    """An option by its long name. `choices` are the values that it takes, where they are known."""

    name: str
    help: str
    choices: tuple[str, ...]
    takes: bool


def completions(options: Namespace) -> int:
    """The script of one shell."""
    made = {"bash": bash, "zsh": zsh, "fish": fish}.get(options.shell)
    if made is None:
        raise UsageError(
            f"there are no completions for {options.shell!r}",
            remedy=suggestion(options.shell, SHELLS) or f"there are {', '.join(SHELLS)}",
        )
    out(made(COMMANDS))
    return Code.DONE


def options_of(command: Command) -> list[Option]:
    """Its options, as its own parser has them."""
    parser = argparse.ArgumentParser(add_help=True)
    command.options(parser)
    parser.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
    return [
        Option(
            action.option_strings[-1 if action.option_strings[-1].startswith("--") else 0],
            (action.help or "").replace("%(choices)s", ", ".join(map(str, action.choices or ()))),
            tuple(map(str, action.choices or ())),
            action.nargs != 0,
        )
        for action in parser._actions
    ]


def _words(command: Command) -> tuple[str, ...]:
    """What its one argument may be, where that is known."""
    return SHELLS if command.words == ("SHELL",) else ()


def _nouns(commands: Sequence[Command]) -> dict[str, list[Command]]:
    found: dict[str, list[Command]] = {}
    for each in commands:
        found.setdefault(each.name.split()[0], []).append(each)
    return found


def _line(commands: list[Command]) -> str:
    """What a noun is about: its own line, or its verbs."""
    own = [each.line for each in commands if " " not in each.name]
    return own[0] if own else ", ".join(_verbs(commands))


def _verbs(commands: list[Command]) -> list[str]:
    return [each.name.partition(" ")[2] for each in commands if " " in each.name]


def bash(commands: Sequence[Command]) -> str:
    """Words come from what stands first; all else is a file."""
    nouns = _nouns(commands)
    verbs = []
    for noun, found in nouns.items():
        if _verbs(found):
            known = " ".join(_verbs(found))
            verbs += [
                f'        {noun}) [[ " {known} " == *" $second "* ]] && name="$first $second"',
                f'            [[ $COMP_CWORD -eq 2 ]] && words="{known}" ;;',
            ]
    options, values = [], []
    for command in commands:
        given = options_of(command)
        plain = f'; [[ $now != -* ]] && words="{" ".join(_words(command))}"' if _words(command) else ""
        options.append(f'        "{command.name}") options="{" ".join(each.name for each in given)}"{plain} ;;')
        values += [
            f'        "{command.name} {each.name}") options=""; words="{" ".join(each.choices)}" ;;'
            for each in given
            if each.takes
        ]
    return "\n".join(
        [
            '# eval "$(evenflow completions bash)"',
            "_evenflow() {",
            '    local first="${COMP_WORDS[1]}" second="${COMP_WORDS[2]}" now="${COMP_WORDS[COMP_CWORD]}"',
            '    local before="${COMP_WORDS[COMP_CWORD-1]}" name="${COMP_WORDS[1]}" options="" words=""',
            f'    if [[ $COMP_CWORD -eq 1 ]]; then words="{" ".join(nouns)} help"; options="--help --version"; fi',
            f'    if [[ $first == help && $COMP_CWORD -eq 2 ]]; then words="{" ".join(nouns)}"; fi',
            '    case "$first" in',
            *verbs,
            "    esac",
            '    if [[ $COMP_CWORD -gt 1 ]]; then case "$name" in',
            *options,
            "    esac; fi",
            '    case "$name $before" in',
            *values,
            "    esac",
            '    [[ $now == -* ]] && words="$options"',
            '    COMPREPLY=($(compgen -W "$words" -- "$now"))',
            "}",
            "complete -o default -o bashdefault -F _evenflow evenflow",
        ]
    )


def zsh(commands: Sequence[Command]) -> str:
    """The same with a line for each word."""
    nouns = _nouns(commands)
    lines = ['# eval "$(evenflow completions zsh)"', "_evenflow() {", "    local -a found", "    local name=$words[2]"]
    first = " ".join(_quoted(f"{noun}:{_line(found)}") for noun, found in nouns.items())
    lines += ["    if (( CURRENT == 2 )); then", f"        found=({first} 'help:tell about a command')"]
    lines += ["        _describe command found; return", "    fi", "    case $name in"]
    for noun, found in nouns.items():
        if _verbs(found):
            pairs = [(each.name.partition(" ")[2], each.line) for each in found]
            verbs = " ".join(_quoted(f"{verb}:{line}") for verb, line in pairs if verb)
            first = f"found=({verbs}); _describe command found; return"
            lines += [f"        {noun}) if (( CURRENT == 3 )); then {first}; fi"]
            lines += [f'            [[ \' {" ".join(_verbs(found))} \' == *" $words[3] "* ]] && name+=" $words[3]" ;;']
    lines += ["    esac", '    case "$name ${words[CURRENT-1]}" in']
    for command in commands:
        for each in options_of(command):
            if each.choices:
                lines.append(f"        '{command.name} {each.name}') compadd -- {' '.join(each.choices)}; return ;;")
    lines += ["    esac", '    case "$name" in']
    for command in commands:
        named = " ".join(_quoted(f"{each.name}:{each.help}") for each in options_of(command))
        words = f" compadd -- {' '.join(_words(command))};" if _words(command) else ""
        lines.append(f"        '{command.name}') found=({named});{words} ;;")
    lines += ["    esac", "    if [[ $PREFIX == -* ]]; then _describe option found; else _files; fi", "}"]
    return "\n".join([*lines, "compdef _evenflow evenflow"])


def fish(commands: Sequence[Command]) -> str:
    """One line per word and option."""
    nouns = _nouns(commands)
    lines = ["# evenflow completions fish > ~/.config/fish/completions/evenflow.fish"]
    for noun, found in nouns.items():
        about = _quoted(_line(found))
        lines.append(f"complete -c evenflow -f -n __fish_use_subcommand -a {noun} -d {about}")
        verbs = " ".join(_verbs(found))
        for command in found:
            seen = f"__fish_seen_subcommand_from {noun}"
            verb = command.name.partition(" ")[2]
            if verb:
                lines.append(
                    f"complete -c evenflow -f -n '{seen}; and not __fish_seen_subcommand_from {verbs}'"
                    f" -a {verb} -d {_quoted(command.line)}"
                )
                seen += f"; and __fish_seen_subcommand_from {verb}"
            lines += [_fish_option(seen, each) for each in options_of(command)]
            if _words(command):
                lines.append(f"complete -c evenflow -f -n '{seen}' -a '{' '.join(_words(command))}'")
    return "\n".join(lines)


def _fish_option(seen: str, option: Option) -> str:
    takes = f" -x -a '{' '.join(option.choices)}'" if option.choices else " -r" if option.takes else ""
    return f"complete -c evenflow -n '{seen}' -l {option.name.lstrip('-')}{takes} -d {_quoted(option.help)}"


def _quoted(text: str) -> str:
    """For all three shells: in single quotes, with none inside."""
    return "'" + text.replace("\\", "").replace("'", "") + "'"
