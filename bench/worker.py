"""One measurement in a process of its own, started by the cases: python -m bench.worker MODULE:NAME '{…}'"""

from __future__ import annotations

import json
import sys

from bench.processes import call


def main() -> None:
    print(json.dumps(call(sys.argv[1], json.loads(sys.argv[2]))), flush=True)


main()
