"""ROUGE recall with stemming, the papers' measure of a generated answer.

    ROUGE-L  LCS(stems of the reference, stems of the answer) / number of stems of the reference
    ROUGE-1  sum over stems of min(count in the reference, count in the answer) / number of stems of the reference

ROUGE-1 does not ask for order, so it is never below ROUGE-L. Tokens and stems are those of Google's ``rouge-score``
package, so the values equal its ``rougeL.recall`` and ``rouge1.recall``; only the longest common subsequence is our
own: bit-parallel (Hyyro 2004), linear in the answer for references of any usual length, where the package fills a
quadratic table.
"""

from __future__ import annotations

import re
from collections import Counter
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


def _tokens(generated: str, reference: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(reference, answer) as stems; word by word where the package's tokenizer finds nothing in the reference."""
    expected = _stems(reference)
    if expected:
        return expected, _stems(generated)
    return _words(reference), _words(generated)


def rouge_l_recall(generated: str, reference: str) -> float:
    """ROUGE-L recall of ``generated`` against ``reference``, in [0, 1].

    An empty answer scores 0. The package's tokenizer keeps ASCII letters and digits only; a reference in which
    it finds nothing (another script) is compared word by word without stemming instead of scoring 0 always.
    A reference without any word (only punctuation) scores 0, as in the package.
    """
    expected, given = _tokens(generated, reference)
    return lcs_length(expected, given) / len(expected) if expected else 0.0


def rouge_1_recall(generated: str, reference: str) -> float:
    """ROUGE-1 recall of ``generated`` against ``reference``, in [0, 1]: the share of the reference's stems that the
    answer has, each counted as often as it occurs in both. Empty answers and other scripts as in ROUGE-L."""
    expected, given = _tokens(generated, reference)
    return (Counter(expected) & Counter(given)).total() / len(expected) if expected else 0.0
