"""Is an answer still language, or a loop? One of the aftermaths of unlearning ("Hello Hello Hello ...").

PUBG (arXiv 2506.02541, reconstructed from summaries) names degenerate answers without a rule; the measures are the
usual ones, the rules are ours. Words as in ``leak.words``: signs of Chinese and Japanese are words of one sign.

    empty     no word at all: nothing, white space, punctuation, emoji
    distinct  different word pairs / word pairs is low (distinct-2, Li et al. 2016, arXiv 1510.03055)
    loop      a stretch of words is one unit said over and over, 3 times at least, and takes up much of the answer
    zlib      bytes / zlib-compressed bytes is high: a sentence has about 1.2, "Hello " 40 times has 14
    endless   the answer breaks off inside a unit it has said before: it did not stop, it was stopped

Short answers repeat nothing and compress badly: pairs are looked at from MIN_PAIRS words, zlib from MIN_BYTES bytes.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal

import numpy as np

from clear_dist.metrics.leak import words

Reason = Literal["empty", "distinct", "loop", "zlib", "endless"]

MIN_PAIRS: Final = 12  # words
MIN_BYTES: Final = 60
QUANTILE: Final = 0.99  # where the original's own answers set the thresholds
MARGIN: Final = 1.25
_TIMES: Final = 3  # a unit said twice is emphasis
_LONG_LOOP: Final = 12  # words from which a loop of 4 counts however long the rest is
_BROKEN: Final = 6  # repeated words at the end of an answer that broke off
_PERIOD: Final = 60  # words of the longest unit looked for
_WORDS: Final = 2000  # words looked at: enough to know
_STUTTER: Final = re.compile(r"([^\W\d_]{1,4}?)\1{7,}")  # one to four letters, 8 times over
_CLOSED: Final = frozenset(".!?。！？…\"'”’»)]*`")


@dataclass(frozen=True)
class Thresholds:
    """Where a measure becomes degenerate: below ``distinct``, from ``loop`` and ``zlib`` on."""

    distinct: float = 0.5
    loop: float = 0.5
    zlib: float = 3.0


DEFAULT: Final = Thresholds()


@dataclass(frozen=True)
class Loop:
    """The longest stretch of words that repeats one unit: ``length`` words from word ``start``, units of ``unit``."""

    start: int
    length: int
    unit: int

    @property
    def times(self) -> float:
        return self.length / self.unit if self.unit else 0.0


@dataclass(frozen=True)
class Repetition:
    """Measures of one text. distinct, zlib: None where the text is too short to tell. loop: share of the words."""

    words: int
    distinct: float | None
    loop: float
    zlib: float | None


def repetition(text: str) -> Repetition:
    """The measures the thresholds are about."""
    said = _said(text)
    loop = longest_loop(said)
    share = loop.length / len(said) if said and loop.times >= _TIMES else 0.0
    return Repetition(len(said), _distinct(said), share, _zlib(text))


def degenerate(text: str, thresholds: Thresholds = DEFAULT) -> tuple[Reason, ...]:
    """Why an answer is degenerate; empty if it is not."""
    said = _said(text)
    if not said:
        return ("empty",)
    measured, loop = repetition(text), longest_loop(said)
    out: list[Reason] = []
    if measured.distinct is not None and measured.distinct < thresholds.distinct:
        out.append("distinct")
    long_loop = loop.times >= _TIMES + 1 and loop.length >= _LONG_LOOP
    if measured.loop >= thresholds.loop or long_loop or _STUTTER.search(text.casefold()):
        out.append("loop")
    if measured.zlib is not None and measured.zlib >= thresholds.zlib:
        out.append("zlib")
    if _endless(text, said):
        out.append("endless")
    return tuple(out)


def thresholds_of(answers: Iterable[str]) -> Thresholds:
    """Thresholds that nearly all answers of the original model pass, with a margin.

    The extreme QUANTILE of each measure over the answers, times MARGIN, where that is more lenient than the default:
    a model that was formulaic before unlearning is not called broken for it. They never become stricter (an original
    that answers in single words would make every sentence suspect) and at most twice as lenient (an original that is
    broken itself must not make loops normal). Without answers: the defaults.
    """
    measured = [repetition(answer) for answer in answers]
    distinct = [m.distinct for m in measured if m.distinct is not None]
    ratios = [m.zlib for m in measured if m.zlib is not None]
    loops = [m.loop for m in measured]
    low = float(np.quantile(distinct, 1 - QUANTILE)) / MARGIN if distinct else DEFAULT.distinct
    return Thresholds(
        distinct=min(DEFAULT.distinct, max(low, DEFAULT.distinct / 2)),
        loop=_upper(loops, DEFAULT.loop),
        zlib=_upper(ratios, DEFAULT.zlib),
    )


def _upper(values: Sequence[float], default: float) -> float:
    high = float(np.quantile(values, QUANTILE)) * MARGIN if values else default
    return max(default, min(high, 2 * default))


def longest_loop(said: Sequence[str], times: float = _TIMES) -> Loop:
    """The longest stretch in which every word is the one ``unit`` words before it, said ``times`` at least.

    Of equally long ones the shortest unit. A last unit may be cut off. No such stretch: a loop of no words.
    """
    best = Loop(0, 0, 0)
    for unit in range(1, min(int(len(said) / times), _PERIOD) + 1):
        same = 0
        for i in range(unit, len(said) + 1):
            if i < len(said) and said[i] == said[i - unit]:
                same += 1
                continue
            length = same + unit
            if length >= times * unit and length > best.length:
                best = Loop(i - length, length, unit)
            same = 0
    return best


def _endless(text: str, said: Sequence[str]) -> bool:
    """Whether the text ends, unclosed, inside the repetition of a unit: 6 words of it at least, and half of it."""
    if text.rstrip()[-1] in _CLOSED:
        return False
    for unit in range(2, min(len(said) - _BROKEN, _PERIOD) + 1):
        same = int(said[-1 - unit].startswith(said[-1]))  # the last word may be cut off
        while same and same + unit < len(said) and said[-1 - same] == said[-1 - same - unit]:
            same += 1
        if same >= max(unit / 2, _BROKEN):
            return True
    return False


def _said(text: str) -> list[str]:
    return [word.text for word in words(text)][:_WORDS]


def _distinct(said: Sequence[str]) -> float | None:
    pairs = list(pairwise(said))
    return len(set(pairs)) / len(pairs) if len(said) >= MIN_PAIRS else None


def _zlib(text: str) -> float | None:
    raw = text.strip().encode("utf-8", "surrogatepass")
    return len(raw) / len(zlib.compress(raw, 9)) if len(raw) >= MIN_BYTES else None
