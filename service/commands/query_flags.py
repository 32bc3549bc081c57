"""Flags for what is wanted of sound, shared by `classify` and `listen`. They are the parameters of REST and the stream."""

from __future__ import annotations

import argparse

GIVEN_AS_THEY_ARE = ("top_k", "threshold", "window", "hop", "channel", "labels", "exclude")


def add_query_flags(parser: argparse.ArgumentParser, *, top_k: int, threshold: float) -> None:
    """Add the flags.

    Args:
        parser: Where to.
        top_k: The default, to show.
        threshold: The default, to show.
    """
    group = parser.add_argument_group("what is wanted")
    group.add_argument("--top-k", type=int, metavar="N", help=f"how many tags. Default: {top_k}")
    group.add_argument("--threshold", type=float, metavar="SCORE", help=f"keep score >= threshold. Default: {threshold:g}")
    group.add_argument(
        "--label", dest="labels", action="append", metavar="LABEL", help="only this label, by name or id; repeat for more"
    )
    group.add_argument("--exclude", action="append", metavar="LABEL", help="not this label, by name or id; repeat for more")
    group.add_argument("--window", type=float, metavar="SECONDS", help="the model's own by default")
    group.add_argument("--hop", type=float, metavar="SECONDS", help="from one window's end to the next one's")
    group.add_argument("--channel", type=int, metavar="N", help="one channel, from 0; else the mean of all")


def query_items(args: argparse.Namespace) -> list[tuple[str, str]]:
    """Return what was given as the names and values of a query string."""
    items: list[tuple[str, str]] = []
    for name in GIVEN_AS_THEY_ARE:
        value = getattr(args, name)
        values = value if isinstance(value, list) else [] if value is None else [value]
        items += [(name, str(item)) for item in values]
    return items
