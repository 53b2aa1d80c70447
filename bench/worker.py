"""One measurement in a process of its own, started by the cases: python -m bench.worker consume:ours '{"folder": …}'"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import sys


def main() -> None:
    module, _, name = sys.argv[1].partition(":")
    function = getattr(importlib.import_module(f"bench.{module}"), name)
    found = function(**json.loads(sys.argv[2]))
    if inspect.iscoroutine(found):
        found = asyncio.run(found)
    print(json.dumps(found), flush=True)


main()
