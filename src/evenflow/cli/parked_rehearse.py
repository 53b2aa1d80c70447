"""parked rehearse."""

from __future__ import annotations

import sys
from argparse import Namespace
from dataclasses import asdict

from evenflow import operate
from evenflow.cli.failures import Code, relative
from evenflow.cli.letters_meant import meant, narrowed
from evenflow.cli.looking import looking
from evenflow.cli.output import fitted, out, out_json, paint, say
from evenflow.cli.remedies import runnable
from evenflow.operate import Rehearsal
from evenflow.running import Running


def rehearse(options: Namespace) -> int:
    """Which dead letters would pass now."""

    async def work(running: Running) -> Rehearsal:
        return await operate.rehearse(
            running, options.group, meant(options), limit=options.limit, depth=options.depth, trust=options.trust
        )

    found = looking(options, work)
    if options.json:
        out_json(_document(found))
    else:
        _tell(found, options)
    failed = found.stopped or any(each.outcome != "passes" for each in found.tried)
    return Code.FOUND if failed else Code.DONE


def _document(found: Rehearsal) -> dict[str, object]:
    return {
        "group": found.group,
        "lanes": found.lanes,
        "passes": found.count("passes", behind=False),
        "fails": found.count("fails", behind=False),
        "behind": {"passes": found.count("passes", behind=True), "fails": found.count("fails", behind=True)},
        "published": found.published,
        "cut": found.cut,
        "gone": found.gone,
        "stopped": found.stopped,
        "where": found.where,
        "errors": [asdict(each) for each in found.alike()],
        "tried": [asdict(each) for each in found.tried],
    }


def _tell(found: Rehearsal, options: Namespace) -> None:
    if not found.lanes:
        say("there is no dead letter" + (" that fits" if narrowed(options) else ""))
        return
    passes, fails = found.count("passes", behind=False), found.count("fails", behind=False)
    total = passes + fails
    if total or not found.stopped:
        out(f"{found.group}: {_letters(total)} tried, {passes:,} would pass now, {fails:,} would fail")
    behind = [found.count(each, behind=True) for each in ("passes", "fails")]
    if any(behind):
        out(f"behind them: {sum(behind):,} tried, {behind[0]:,} would pass, {behind[1]:,} would fail")
    if found.published:
        out(f"they would publish {found.published:,} event{'' if found.published == 1 else 's'}; nothing was sent")
    if found.cut:
        out(f"{found.cut:,} lane{'' if found.cut == 1 else 's'} left before the end; --depth N goes further")
    if found.gone:
        out(f"{found.gone:,} no dead letters any more")
    for each in found.alike():
        lanes = ", ".join(each.lanes) + (", …" if each.count > len(each.lanes) else "")
        out(f"\n{paint(f'{each.count:,} fail', 'red')} alike ({each.fingerprint}): {lanes}")
        for line in each.error.splitlines():
            out(f"  {line}")
    if found.stopped:
        say(paint(f"\nthe rehearsal was ended: {found.stopped}, {relative(found.where)}", "yellow", sys.stderr))
        hint = f"evenflow parked redrive {found.group} --all --canary 5"
        say(runnable(f"  → what it does there cannot be rolled back; redrive a few first: {hint}", options.app))
    passed = [each for each in found.tried if each.outcome == "passes" and not each.behind]
    if options.verbose and passed:
        out("\nwould pass:")
        fitted(("LANE", "TYPE", "ID"), [(each.lane, each.type, each.id) for each in passed])


def _letters(count: int) -> str:
    return "1 dead letter" if count == 1 else f"{count:,} dead letters"
