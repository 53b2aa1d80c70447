"""Options that say which of the parked are meant."""

from __future__ import annotations

import re
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace

from evenflow.operate.parked_filter import Filter

_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d|w)?")
_SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0, None: 1.0}
GIVEN = ("lane", "key", "type", "fingerprint", "error", "older", "newer")


def span(text: str) -> float:
    """Seconds of 90, 30s, 15min, 2h, 3d or 1w."""
    found = _SPAN.fullmatch(text.strip())
    if found is None:
        raise ArgumentTypeError(f"{text!r} is no span of time: use 90, 30s, 15min, 2h, 3d or 1w")
    return float(found[1]) * _SECONDS[found[2]]


def filters(parser: ArgumentParser) -> None:
    """Add the options; all that are given have to hold."""
    parser.add_argument("--type", metavar="T", help="of this type of event")
    parser.add_argument("--key", metavar="K", help="of this key")
    parser.add_argument("--fingerprint", metavar="F", help="of this kind of error, or one that begins so")
    parser.add_argument("--error", metavar="NAME", help="of this exception, such as ValueError")
    parser.add_argument("--older", type=span, metavar="SPAN", help="failed first longer ago than 90 (s), 15min, 2h, 3d")
    parser.add_argument("--newer", type=span, metavar="SPAN", help="failed first less long ago than that")


def given(options: Namespace) -> bool:
    """Whether any of them was given."""
    return any(getattr(options, name, None) is not None for name in GIVEN)


def chosen(options: Namespace) -> Filter:
    """The filter that they make."""
    now = time.time()
    return Filter(
        group=options.group or getattr(options, "named", None) or None,
        type=options.type,
        key=options.key,
        fingerprint=options.fingerprint,
        error_type=options.error,
        before=None if options.older is None else now - options.older,
        since=None if options.newer is None else now - options.newer,
        state=getattr(options, "state", None),
    )
