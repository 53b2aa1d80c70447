"""First all is published, then all is handled: the rate over both, and of each."""

from __future__ import annotations

from typing import Any

from bench.measuring import Watch, memory
from bench.processes import Record


class Phases:
    """One measurement: `begin`, the work, `end`, twice or once."""

    def __init__(self, events: int) -> None:
        self._events = events
        self._wall = self._cpu = 0.0
        self._rates: dict[str, float] = {}

    def begin(self) -> None:
        self._watch = Watch()

    def end(self, name: str) -> None:
        wall, cpu = self._watch.read()
        self._wall += wall
        self._cpu += cpu
        self._rates[f"{name}_per_second"] = self._events / wall

    def record(self, **more: Any) -> Record:
        """Called when the effects were counted."""
        return {
            "events": self._events,
            "rate": self._events / self._wall,
            "cpu_us": self._cpu / self._events * 1e6,
            "memory": memory()[1],
            **self._rates,
            **more,
        }
