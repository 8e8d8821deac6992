"""Numbers as objectives print them."""

from __future__ import annotations


def number(value: float) -> str:
    """The short form where it says everything, else all digits: what is printed reads back as the same number."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)
