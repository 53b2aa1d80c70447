"""The commands there are, as data: `evenflow --help` needs no more than this."""

from __future__ import annotations

from evenflow.cli.command import APP_HELP, Command
from evenflow.cli.commands_app import APP
from evenflow.cli.commands_letters import LETTERS
from evenflow.cli.commands_parked import PARKED
from evenflow.cli.commands_system import SYSTEM
from evenflow.cli.output import filled, paint

__all__ = ["APP_HELP", "COMMANDS", "Command", "overview"]


_NOUNS = ("groups", "parked", "operations", "audit", "schedules", "migrate", "move", "doctor", "conformance", "store")
_OPERATE = tuple(sorted((*PARKED, *LETTERS, *SYSTEM), key=lambda each: _NOUNS.index(each.name.split()[0])))
COMMANDS: tuple[Command, ...] = (*APP, *_OPERATE)
_PARTS = (("Write and run an app", APP), ("Operate a system", _OPERATE))


def overview(noun: str = "") -> str:
    """What `evenflow --help` shows; of one noun, if given."""
    lines = [] if noun else ["Event-driven applications: write them, run them, look at them, mend them.", ""]
    lines += [f"usage: evenflow {f'{noun} ' if noun else ''}COMMAND [APP] [options]", ""]
    chosen = [each for each in COMMANDS if each.name.startswith(f"{noun} ")] if noun else list(COMMANDS)
    width = max(len(each.name) for each in chosen)
    for title, part in _PARTS:
        named = [f"  {paint(each.name.ljust(width), 'bold')}  {each.line}" for each in part if each in chosen]
        lines += [paint(title, "dim"), *named, ""] if named else []
    first = chosen[0].name if noun else "help run"
    asked = f"evenflow {first} --help" if noun else f"evenflow {first}"
    more = f"`{asked}` tells more, with examples. With --debug an error shows its whole traceback."
    return "\n".join([*lines, filled(APP_HELP), "", filled(more)])
