"""ROUGE-L recall with stemming, the papers' measure of a generated answer.

    recall = LCS(stems of the reference, stems of the answer) / number of stems of the reference

Tokens and stems are those of Google's ``rouge-score`` package, so the values equal its ``rougeL.recall``; only
the longest common subsequence is our own: bit-parallel (Hyyro 2004), linear in the answer for references of any
usual length, where the package fills a quadratic table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache

from rouge_score.tokenizers import DefaultTokenizer

_WORD = re.compile(r"\w+")


@cache
def _tokenizer() -> DefaultTokenizer:
    return DefaultTokenizer(use_stemmer=True)


@lru_cache(maxsize=65536)
def _stems(text: str) -> tuple[str, ...]:
    return tuple(_tokenizer().tokenize(text))


def _words(text: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(text.casefold()))


def lcs_length(a: Sequence[str], b: Iterable[str]) -> int:
    """Length of the longest common subsequence of two token sequences."""
    positions: dict[str, int] = {}
    for i, token in enumerate(a):
        positions[token] = positions.get(token, 0) | 1 << i
    full = (1 << len(a)) - 1
    row = full  # bit i is 0 where a[i] extends the common subsequence
    for token in b:
        match = row & positions.get(token, 0)
        row = ((row + match) | (row - match)) & full
    return len(a) - row.bit_count()


def rouge_l_recall(generated: str, reference: str) -> float:
    """ROUGE-L recall of ``generated`` against ``reference``, in [0, 1].

    An empty answer scores 0. The package's tokenizer keeps ASCII letters and digits only; a reference in which
    it finds nothing (another script) is compared word by word without stemming instead of scoring 0 always.
    A reference without any word (only punctuation) scores 0, as in the package.
    """
    expected, given = _stems(reference), _stems(generated)
    if not expected:
        expected, given = _words(reference), _words(generated)
    if not expected:
        return 0.0
    return lcs_length(expected, given) / len(expected)
