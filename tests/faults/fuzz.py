"""Runs a parser on many drawn inputs: each is accepted, or refused with a message for the person who wrote it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import HypothesisWarning
from hypothesis.strategies import SearchStrategy

from clear_dist.errors import UserError

T = TypeVar("T")

LONGEST = 2_000
"""Characters of a message: a person reads it in a terminal."""

SHOWN = 1_500
"""Characters of an input that is shown where it fails."""


def check_message(message: str, names: Sequence[str]) -> None:
    """A message names the place, is short, and cannot drive the terminal it is printed on."""
    unprintable = sorted({c for c in message if not c.isprintable() and c != "\n"})
    assert not unprintable, f"the message holds {unprintable!a}: {message!a}"
    assert message.strip(), "the message is empty"
    assert len(message) < LONGEST, f"the message has {len(message):,} characters: {message[:SHOWN]!a}"
    assert any(name in message for name in names), f"the message names none of {list(names)!a}: {message!a}"


def counted(
    count: int,
    strategy: SearchStrategy[T],
    parse: Callable[[T], object],
    *,
    names: Callable[[T], Sequence[str]] | Sequence[str],
    accepted_at_least: int,
    rejected_at_least: int,
) -> tuple[int, int]:
    """Run ``parse`` on ``count`` inputs of ``strategy``, the same ones every time.

    Returns how many were accepted and how many refused. A ``UserError`` is a refusal; any other exception fails, and
    the smallest such input is shown. ``names`` are the strings of which each refusal has to hold one.
    """
    accepted = rejected = 0
    failed = False

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )
    @given(strategy)
    def one(value: T) -> None:
        nonlocal accepted, rejected, failed
        try:
            parse(value)
        except UserError as error:
            try:
                check_message(str(error), names(value) if callable(names) else names)
            except AssertionError as flaw:
                failed = True
                flaw.add_note(f"input: {ascii(value)[:SHOWN]}")
                raise
            rejected += 1
        except BaseException as error:
            failed = True
            error.add_note(f"input: {ascii(value)[:SHOWN]}")
            raise
        else:
            accepted += 1

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HypothesisWarning)  # that a failing input is long hides why it fails
        one()
    assert not failed
    name = getattr(parse, "__name__", type(parse).__name__)
    print(f"{name}: {count:,} inputs, {accepted:,} accepted, {rejected:,} rejected")
    assert accepted + rejected == count, f"{accepted + rejected:,} inputs ran, not {count:,}: the strategy ran dry"
    assert accepted >= accepted_at_least, f"{accepted:,} inputs accepted, expected {accepted_at_least:,} or more"
    assert rejected >= rejected_at_least, f"{rejected:,} inputs refused, expected {rejected_at_least:,} or more"
    return accepted, rejected
