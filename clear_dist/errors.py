"""The one exception that is a user's mistake, and "did you mean", apart from everything heavy: a wrong flag is refused
without torch."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST = 2_000  # characters of a message, which may quote what it refuses
_HEAD, _TAIL = 1_400, 500  # what is kept of a longer one: where the mistake is, and what to do


class UserError(ValueError):
    """A mistake of the user's: names the field, file or row, says what was expected and what to do.

    The command line prints its message without a traceback and exits with status 2. What the message quotes comes from
    files and is not trusted: it is printable, whatever it quotes, and not longer than a person reads.
    """

    def __init__(self, message: object = "") -> None:
        text = printable(str(message))
        if len(text) >= LONGEST:
            left_out = len(text) - _HEAD - _TAIL
            text = f"{text[:_HEAD]} [... {left_out:,} characters left out ...] {text[-_TAIL:]}"
        super().__init__(text)


class ConfigError(UserError):
    """A mistake in what was asked for (method, objective, flag, file), found before anything is loaded."""


class Preempted(Exception):
    """The run was told to leave and has saved where it is: the same command goes on. Exit status 75."""


def printable(text: str) -> str:
    """``text`` with what would drive a terminal, or cannot be written to one, as an escape; line breaks stay."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode("ascii") for c in text)


def closest(name: str, choices: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The choice most like ``name``; None where none is close (difflib's ratio, at least ``cutoff``)."""
    return next(iter(difflib.get_close_matches(name, list(choices), n=1, cutoff=cutoff)), None)


def nearest(name: str, choices: Iterable[str], *, quoted: bool = False) -> str:
    """`` (did you mean X?)``, or nothing where no choice is close."""
    close = closest(name, choices, 0.5)  # short names: be generous
    return "" if close is None else f" (did you mean {close!r}?)" if quoted else f" (did you mean {close}?)"
