"""store adopt."""

from __future__ import annotations

import sys
from argparse import Namespace

from evenflow import operate
from evenflow.cli.failures import Code
from evenflow.cli.looking import looking, who
from evenflow.cli.output import confirm, paint, say
from evenflow.operate.finding import store_of
from evenflow.running import Running


def adopt(options: Namespace) -> int:
    """Go on with a store as it is now."""

    async def work(running: Running) -> list[str]:
        store_of(running, options.service)
        confirm(f"go on with the store of {options.service!r} as it is now, as a new producer?", yes=options.yes)
        return list(await operate.adopt(running, options.service, who()))

    groups = looking(options, work)
    also = f", and its groups ({', '.join(groups)}) go on from where they stand in it" if groups else ""
    said = f"the store of {options.service!r} is adopted{also}; start its processes"
    say(paint(said, "green", sys.stderr))
    return Code.DONE
