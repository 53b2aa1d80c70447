"""move, move status."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence

import msgspec

from evenflow import operate
from evenflow.cli.failures import Code, UsageError
from evenflow.cli.looking import looking, who
from evenflow.cli.output import confirm, duration, out, out_json, paint, say, table
from evenflow.cli.remedies import runnable
from evenflow.running import Running
from evenflow.settings_sources import masked, suggestion

_HEAD = ("TOPIC", "STATE", "KEPT", "GENERATIONS")
_WORDS = {"here": "to move", "begun": "broken off", "moved": "moved"}


def move(options: Namespace) -> int:
    """Show what would move; ask; move topic by topic."""
    if options.app and ":" not in options.app:
        near = suggestion(options.app, ("status",)) or "topics are named by --topic"
        raise UsageError(f"'evenflow move' has no {options.app!r}", remedy=near.replace("mean ", "mean move "))

    async def work(running: Running) -> tuple[operate.MovePlan, list[tuple[str, float]]]:
        source = options.source or running.settings.engine
        plan = await operate.plan_move(running, source, options.target, options.topic or ())
        done: list[tuple[str, float]] = []
        if not options.json:
            _show(plan)
        if options.dry_run or not plan.left:
            return plan, done
        count = len(plan.left)
        wanted = f"{count} topic{'' if count == 1 else 's'}"
        confirm(f"move {wanted}? Every process that publishes or handles them knows both engines?", yes=options.yes)
        async for topic, seconds in operate.carry_out_move(running, plan, who()):
            done.append((topic, seconds))
            say(f"{topic} has moved; its publishers waited {duration(seconds)} at most" if seconds >= 0.05
                else f"{topic} has moved")  # fmt: skip
        return plan, done

    plan, done = looking(options, work)
    if options.json:
        out_json(_document(plan, done))
    elif options.dry_run:
        say("nothing was changed")
    else:
        said = "all have moved; groups finish the old engine first: evenflow move status"
        say(paint(runnable(said, options.app), "green", sys.stderr))
    return Code.DONE


def _show(plan: operate.MovePlan) -> None:
    out(f"from {masked(plan.source)}\n  to {masked(plan.target)}")
    rows = [
        (each.topic.name, _WORDS[each.state], f"{each.kept:,}", str(each.log.generations[-1].number))
        for each in plan.topics
    ]
    table(_HEAD, rows)


def _document(plan: operate.MovePlan, done: Sequence[tuple[str, float]]) -> dict[str, object]:
    waited = dict(done)
    return {
        "from": masked(plan.source),
        "to": masked(plan.target),
        "topics": [
            {"topic": each.topic.name, "state": "moved" if each.topic.name in waited else each.state,
             "kept": each.kept, "waited": waited.get(each.topic.name)} for each in plan.topics
        ],
    }  # fmt: skip


def status(options: Namespace) -> int:
    """Where topics are, and what is left to do."""

    async def work(running: Running) -> list[operate.Placed]:
        return await operate.placed(running)

    found = looking(options, work)
    if options.json:
        out_json(msgspec.to_builtins(found))
        return Code.DONE
    rows = [
        (
            each.topic if not place else "",
            part.engine,
            _counted(part.generations),
            f"{part.kept:,}",
            _state(each, place),
        )
        for each in found
        for place, part in enumerate(each.parts)
    ]
    table(("TOPIC", "ENGINE", "GENERATION", "KEPT", "STATE"), rows)
    for line in _left(found):
        out(line)
    return Code.DONE


def _counted(generations: Sequence[int]) -> str:
    first, last = generations[0], generations[-1]
    return f"{first}" if first == last else f"{first} to {last}"


def _state(placed: operate.Placed, place: int) -> str:
    part = placed.parts[place]
    if place == len(placed.parts) - 1:
        if not part.sealed:
            return "open"
        return f"sealed, goes on in {part.goes_on}, which is unknown here" if part.goes_on else "sealed: broken off"
    groups = [f"{group} ({left:,})" for group, left in part.behind.items() if left]
    return f"sealed; to be finished by {', '.join(groups)}" if groups else "sealed; all groups have finished it"


def _left(found: Sequence[operate.Placed]) -> list[str]:
    """What a person has to do next."""
    lines = []
    broken = [each.topic for each in found if each.parts[-1].sealed and not each.parts[-1].goes_on]
    if broken:
        lines.append(f"\nbroken off: {', '.join(broken)}\n  → give the same evenflow move once more")
    unknown = sorted({each.parts[-1].goes_on for each in found if not each.complete and each.parts[-1].goes_on})
    lines += [f"\nthese settings do not name {each}\n  → EVENFLOW_ENGINES__NEW={each}" for each in unknown]
    last = {each.parts[-1].engine for each in found}
    for engine in sorted({each.parts[-1].engine for each in found if each.complete} - {each.home for each in found}):
        lines.append(
            f"\nno topic is made in {engine} yet, where some are\n  → when all have moved: EVENFLOW_ENGINE={engine} in "
            "every process; and EVENFLOW_ENGINES__OLD for the old one, while groups have to finish it"
        )
    for engine in sorted({part.engine for each in found for part in each.parts[:-1]} - last):
        parts = [part for each in found for part in each.parts[:-1] if part.engine == engine]
        if any(left for part in parts for left in part.behind.values()):
            lines.append(f"\n{engine} is still needed: groups have to finish it")
        else:
            lines.append(f"\n{engine} is read to its end\n  → take it out of the settings, start the processes again, "
                         "then stop it; what it keeps is needed only to seek back into it")  # fmt: skip
    return lines
