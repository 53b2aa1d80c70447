"""A moment, as a person writes it."""

from __future__ import annotations

from datetime import datetime

from evenflow.cli.failures import UsageError


def moment(text: str, option: str) -> float | None:
    """Unix time of an ISO 8601 time, None for what is none. Raises `UsageError` where it has no zone."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    if found.tzinfo is None:
        full = found.isoformat()
        raise UsageError(f"{option} {text!r} has no zone", remedy=f"add it: {full}Z, or {full}+01:00")
    return found.timestamp()
