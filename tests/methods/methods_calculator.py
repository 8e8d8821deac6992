"""Unlearning equations with plain floats on whole probability tables: nothing of the package is called here.

Written from the printed equations, one function each. A table is a list of rows (tokens) of logits over the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Row = list[float]
Table = list[Row]


@dataclass
class Said:
    """One example. student, reference: [answer tokens][V] logits; answer: its tokens.

    whole_*: [tokens][V] logits of prompt, image and answer tokens; image: which are image tokens; states*: decoder
    block -> [tokens][D].
    """

    student: Table
    reference: Table
    answer: list[int]
    whole_student: Table
    whole_reference: Table
    image: list[bool]
    states: dict[int, Table] = field(default_factory=dict)
    states_reference: dict[int, Table] = field(default_factory=dict)


View = Sequence[Said]


def softmax(row: Row) -> Row:
    powers = [math.exp(z) for z in row]
    return [e / sum(powers) for e in powers]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def answer_probabilities(logits: Table, answer: list[int]) -> list[float]:
    return [softmax(row)[y] for row, y in zip(logits, answer, strict=True)]


def over_examples(view: View, per_token: Callable[[Row, Row, int], float]) -> float:
    """E 1/|y| sum_t f(p_t, q_t, y_t): p the student's probabilities, q the reference's."""
    return mean([mean(tokens(said, per_token)) for said in view])


def over_tokens(view: View, per_token: Callable[[Row, Row, int], float]) -> float:
    """One mean over all answer tokens of the view."""
    return mean([x for said in view for x in tokens(said, per_token)])


def tokens(said: Said, per_token: Callable[[Row, Row, int], float]) -> list[float]:
    return [
        per_token(softmax(z), softmax(o), y) for z, o, y in zip(said.student, said.reference, said.answer, strict=True)
    ]


def surprise(p: Row, q: Row, y: int) -> float:
    return -math.log(p[y])


def uncertainty(p: Row, q: Row, y: int) -> float:
    return -sum(x * math.log(x) for x in p)


def divergence(a: Row, b: Row) -> float:
    """KL(a || b)."""
    return sum(x * math.log(x / z) for x, z in zip(a, b, strict=True))


def forward(p: Row, q: Row, y: int) -> float:
    return divergence(q, p)


def reverse(p: Row, q: Row, y: int) -> float:
    return divergence(p, q)


def nll(view: View) -> float:
    return over_examples(view, surprise)


def nll_tokens(view: View) -> float:
    return over_tokens(view, surprise)


def bounded_nll(view: View, ceiling: float) -> float:
    return over_examples(view, lambda p, q, y: min(-math.log(p[y]), ceiling))


def entropy(view: View) -> float:
    return over_examples(view, uncertainty)


def kl_forward(view: View) -> float:
    return over_examples(view, forward)


def kl_reverse(view: View) -> float:
    return over_examples(view, reverse)


def whole(said: Said, per_token: Callable[[Row, Row], float]) -> list[float]:
    """A value for every token of the sequence: prompt, image and answer."""
    return [per_token(softmax(z), softmax(o)) for z, o in zip(said.whole_student, said.whole_reference, strict=True)]


def kl_everywhere(view: View, direction: str) -> float:
    return mean([mean(whole(s, divergence if direction == "reverse" else lambda p, q: divergence(q, p))) for s in view])


def kl_everywhere_tokens(view: View, direction: str) -> float:
    by = divergence if direction == "reverse" else lambda p, q: divergence(q, p)
    return mean([x for said in view for x in whole(said, by)])


def vocabulary_npo(view: View, beta: float) -> float:
    def one(p: Row, q: Row) -> float:
        return mean([2 / beta * math.log(1 + (a / b) ** beta) for a, b in zip(p, q, strict=True)])

    return mean([mean(whole(said, one)) for said in view])


def ratio(said: Said) -> float:
    """pi(y|x) / pi_o(y|x): the product over the answer's tokens."""
    p = math.prod(answer_probabilities(said.student, said.answer))
    return p / math.prod(answer_probabilities(said.reference, said.answer))


def npo(view: View, beta: float) -> float:
    return mean([2 / beta * math.log(1 + ratio(said) ** beta) for said in view])


def dpo(win: View, lose: View, beta: float) -> float:
    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    pairs = zip(win, lose, strict=True)
    return -mean([math.log(sigmoid(beta * (math.log(ratio(w)) - math.log(ratio(s))))) for w, s in pairs])


def simnpo(view: View, beta: float, gamma: float) -> float:
    def one(said: Said) -> float:
        p = math.prod(answer_probabilities(said.student, said.answer))
        x = -beta / len(said.answer) * math.log(p) - gamma
        return -2 / beta * math.log(1 / (1 + math.exp(-x)))

    return mean([one(said) for said in view])


def undial(view: View, strength: float) -> float:
    """Cross-entropy to the reference's softmax with the true token's logit lowered."""

    def one(said: Said) -> float:
        total = 0.0
        for z, o, y in zip(said.student, said.reference, said.answer, strict=True):
            target = softmax([x - strength * (v == y) for v, x in enumerate(o)])
            total -= sum(t * math.log(p) for t, p in zip(target, softmax(z), strict=True))
        return total / len(said.answer)

    return mean([one(said) for said in view])


def wga(view: View, alpha: float) -> float:
    return over_examples(view, lambda p, q, y: p[y] ** alpha * math.log(p[y]))


def satimp(view: View, beta1: float, beta2: float) -> float:
    return over_examples(view, lambda p, q, y: p[y] ** beta1 * (1 - p[y]) ** beta2 * math.log(p[y]))


def without(p: Row, y: int) -> Row:
    """p with the token y taken out, normalised."""
    return [0.0 if v == y else x / (1 - p[y]) for v, x in enumerate(p)]


def ce_u(view: View, skip: int) -> float:
    """Cross-entropy to one's own prediction without the true token, over the tokens after the first ``skip``."""

    def one(p: Row, y: int) -> float:
        return -sum(t * math.log(x) for t, x in zip(without(p, y), p, strict=True) if t > 0)

    values = []
    for said in view:
        kept = [one(softmax(z), y) for z, y in zip(said.student, said.answer, strict=True)][skip:]
        values.append(mean(kept) if kept else 0.0)
    return mean(values)


def squared_distance(a: Row, b: Row) -> float:
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def cosine_similarity(a: Row, b: Row) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


def l2(view: View) -> float:
    """Of final states; in these tests the head is the identity, so a token's logits are its state."""
    return mean([mean([squared_distance(*pair) for pair in zip(s.student, s.reference, strict=True)]) for s in view])


def similarity(view: View) -> float:
    return mean([mean([cosine_similarity(*pair) for pair in zip(s.student, s.reference, strict=True)]) for s in view])


def cosine(view: View) -> float:
    """1 - cosine similarity, averaged."""
    return 1 - similarity(view)


def misdirect(view: View, layer: int, target: Callable[[int, int], Row], *, images: bool, average: bool) -> float:
    """E mean_t |h_l(t) - target|^2 over the example's tokens; target: (example, token) -> [D]."""
    values = []
    for n, said in enumerate(view):
        rows = enumerate(said.states[layer])
        kept = [squared_distance(h, target(n, t)) for t, h in rows if images or not said.image[t]]
        values.append(mean(kept) / (len(said.states[layer][0]) if average else 1))
    return mean(values)


def match(view: View, layer: int, *, images: bool, average: bool) -> float:
    return misdirect(view, layer, lambda n, t: view[n].states_reference[layer][t], images=images, average=average)
