"""How the provider of payments decides: by the number of the order alone, so that a test can know it beforehand."""

from __future__ import annotations

from typing import Literal, NamedTuple
from zlib import crc32

Outcome = Literal["taken", "declined", "pending"]


class Verdict(NamedTuple):
    """outcome  "pending" is never confirmed by the customer
    slow     the first answer comes only after the caller has given up
    """

    outcome: Outcome
    slow: bool


def verdict(order_id: int) -> Verdict:
    """Of 1000 orders about 30 are declined and 5 stay pending; about 10 are slow, whatever their outcome."""
    dice = crc32(b"order %d" % order_id)
    dice, thousandth = divmod(dice, 1000)
    outcome: Outcome = "declined" if thousandth < 30 else "pending" if thousandth < 35 else "taken"
    return Verdict(outcome, slow=dice % 100 == 0)
