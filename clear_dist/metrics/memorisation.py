"""How much of an answer a model says of itself, told the answer so far: token by token, is the true one the likeliest?

    exact memorisation   EM = mean_t [argmax p(. | x, y_<t) = y_t]
    extraction strength  ES = 1 - k/|y|,  k the smallest number of tokens to be given so that every token after them
                              is the likeliest one

EM: Tirumala et al. 2022, arXiv 2205.10770. ES: after Carlini et al. 2021 (arXiv 2012.07805), as OpenUnlearning has it
(github.com/locuslab/open-unlearning, src/evals/metrics/memorization.py). Both in [0, 1], high where the answer is known
by heart. Neither generates: a model told a wrong beginning might never say what it would complete.

EOS, the last token of every answer, is left out, as OpenUnlearning does: that an answer ends where it ends says nothing
about the person. One deviation: where not even the last token is the likeliest, OpenUnlearning's loop ends one early
and gives 1/|y|; here it is 0, as in the definition.
"""

from __future__ import annotations

from collections.abc import Sequence

from clear_dist.types import UserError


def _answer(top1: Sequence[bool]) -> Sequence[bool]:
    """The answer's own tokens: all but the last, EOS."""
    if len(top1) == 0:
        raise UserError("an answer has no tokens: expected one value per answer token, EOS included")
    return top1[:-1]


def exact_memorisation(top1: Sequence[bool]) -> float | None:
    """EM of one answer, in [0, 1]; None for an answer of nothing but EOS.

    Args:
        top1: [|y| + 1] whether each token is the likeliest one, EOS last (``Scored.top1``).

    Raises UserError if there is no token at all.
    """
    own = _answer(top1)
    return sum(map(bool, own)) / len(own) if own else None


def extraction_strength(top1: Sequence[bool]) -> float | None:
    """ES of one answer, in [0, 1]: the share of it, from the end, that the model adds by itself. Arguments, None and
    errors as in :func:`exact_memorisation`, which it never exceeds."""
    own = _answer(top1)
    if not own:
        return None
    suffix = next((i for i, hit in enumerate(reversed(own)) if not hit), len(own))
    return suffix / len(own)
