"""Which dead letters of one group a person means."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import replace

from evenflow.cli.parked_options import chosen, filters, given
from evenflow.operate.parked_filter import Filter


def letters(parser: ArgumentParser) -> None:
    """Add the options; all that are given have to hold."""
    parser.add_argument("--lane", metavar="L", help="of this key, or of the lane that the list shows")
    filters(parser)


def meant(options: Namespace) -> Filter:
    """The filter that they make."""
    return replace(chosen(options), lane=options.lane)


def narrowed(options: Namespace) -> bool:
    """Whether they leave anything out."""
    return options.lane is not None or given(options)
