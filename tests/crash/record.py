"""What happens in a run, as facts in a file, and what is to happen later. Which kinds of faults there are."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

NAMED = ("kills", "freezes", "rebalances", "server kills", "server freezes", "cuts")
"""What the long run must have had 300 of, all together; others do not count among them."""
OTHERS = "others"
_KINDS = {
    "kill": "kills", "freeze": "freezes", "join": "rebalances", "leave": "rebalances", "reload": "rebalances",
    "fill": OTHERS, "lock": OTHERS, "jump": OTHERS, "back": OTHERS,
}  # fmt: skip
_SERVER = {
    "kill": "server kills", "freeze": "server freezes", "cut": "cuts", "reset": "cuts", "half-open": "cuts",
    "forget": "cuts", "delay": OTHERS, "fill": OTHERS, "lock": OTHERS,
}  # fmt: skip
"""The same of servers and links: the name of one follows the word."""


def by_kind(facts: Iterable[str]) -> Counter[str]:
    """How many faults there were of each kind. Ends of faults, starts and stalls are none."""
    found: Counter[str] = Counter()
    for fact in facts:
        word, _, of = fact.partition(" ")
        if (kind := (_SERVER if of else _KINDS).get(word)) is not None:
            found[kind] += 1
    return found


class Record:
    """`counts` of all facts, `complaints` about what nobody may do, and `plans` by their time."""

    def __init__(self, folder: Path) -> None:
        self.counts: Counter[str] = Counter()
        self.complaints: list[str] = []
        self.plans: list[tuple[float, str, str]] = []
        self._file = folder / "faults.jsonl"

    def note(self, what: str, pid: int = 0, at: float | None = None) -> None:
        self.counts[what] += 1
        fact = {"what": what, "pid": pid, "at": time.monotonic() if at is None else at}
        with self._file.open("a") as file:
            file.write(json.dumps(fact) + "\n")

    @property
    def faults(self) -> int:
        """How many there were by now of the kinds that are named."""
        found = by_kind(self.counts.elements())
        return sum(found[kind] for kind in NAMED)

    def later(self, seconds: float, what: str, name: str = "") -> None:
        self.plans.append((time.monotonic() + seconds, what, name))

    def planned(self, what: str, name: str) -> bool:
        return any(plan[1:] == (what, name) for plan in self.plans)

    def due(self) -> list[tuple[str, str]]:
        """What was planned for now; it is no plan any more."""
        now = time.monotonic()
        found = [plan for plan in self.plans if plan[0] <= now]
        self.plans = [plan for plan in self.plans if plan[0] > now]
        return [(what, name) for _, what, name in found]
