"""One prediction pass that feeds every metric: all candidate answers scored, and the model's own answer.

An example becomes one request holding all its answers (true, paraphrased, wrong, options), so that a predictor computes
the shared picture and question once, and once for examples that ask the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from clear_dist.metrics.accuracy import attribute_hits, hit
from clear_dist.metrics.membership import min_k_plus
from clear_dist.metrics.memorisation import exact_memorisation, extraction_strength
from clear_dist.metrics.probability import answer_probability, choice_probability
from clear_dist.metrics.record import LogProbs, Record, Score
from clear_dist.metrics.rouge import rouge_1_recall, rouge_l_recall
from clear_dist.metrics.truth_ratio import ratio_of
from clear_dist.types import Example, Prediction, Predictor, Request, Scored, SetName, UserError

MAX_NEW_TOKENS = 48
NAME_KINDS = frozenset({"name", "caption", "choice"})  # answers in which the person's name is expected
SHORT_KINDS = frozenset({"attribute", "choice"})  # the whole answer is the fact where none is given
DIGITS = 6  # decimals of stored log-probabilities; the scores are computed from what is stored

Progress = Callable[[int, int], None]


def _candidates(example: Example) -> tuple[str, ...]:
    """The distinct answers to score, the true one first."""
    paraphrase = () if example.paraphrase is None else (example.paraphrase,)
    return tuple(dict.fromkeys((example.answer, *paraphrase, *example.perturbed, *example.options)))


def _logprobs(example: Example, scored: Sequence[Scored]) -> LogProbs:
    by_answer = dict(zip(_candidates(example), scored, strict=True))
    rounded = {answer: tuple(round(float(v), DIGITS) for v in s.logp) for answer, s in by_answer.items()}
    return LogProbs(
        answer=rounded[example.answer],
        paraphrase=None if example.paraphrase is None else rounded[example.paraphrase],
        perturbed=tuple(rounded[a] for a in example.perturbed),
        options=tuple(rounded[a] for a in example.options),
    )


def probability_of(logp: LogProbs) -> float | None:
    """Multiple-choice share where there are options, else p(y|x)^(1/|y|)."""
    if logp.options:
        return choice_probability(logp.options)
    return None if logp.answer is None else answer_probability(logp.answer)


def scores_of(example: Example, logp: LogProbs, answer: Scored | None, generated: str | None) -> dict[str, Score]:
    """All per-example scores; None where a score does not apply. answer: the true answer as it was scored."""
    text = generated
    fact = example.fact or (example.answer if example.kind in SHORT_KINDS else None)
    top1 = answer.top1 if answer is not None else []
    return {
        "rouge_1": None if text is None else rouge_1_recall(text, example.answer),
        "rouge_l": None if text is None else rouge_l_recall(text, example.answer),
        "probability": probability_of(logp),
        "truth_ratio": ratio_of(logp),
        "fact": None if text is None else hit(text, fact),
        "name": hit(text, example.person) if text is not None and example.kind in NAME_KINDS else None,
        "attributes": attribute_hits(text, example.attributes) if text is not None and _describes(example) else None,
        "exact_memorisation": exact_memorisation(top1) if top1 else None,
        "extraction_strength": extraction_strength(top1) if top1 else None,
        "min_k_plus": min_k_plus(answer.logp, answer.mean, answer.std) if answer is not None and answer.mean else None,
    }


def _describes(example: Example) -> bool:
    return example.kind in ("describe", "caption")


def evaluate(
    predictor: Predictor,
    examples: Mapping[SetName, Sequence[Example]],
    *,
    model: str,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> list[Record]:
    """Asks the predictor everything once and scores it: one Record per example, in the order given.

    Args:
        predictor: scores answers and continues questions greedily, the picture seen.
        examples: set -> its examples; ids unique within a set.
        model: the records' model name (original, gold, unlearned, or a run's name).
        max_new_tokens: of a generation; CLEAR-mini's longest answer needs 34.

    Raises UserError on ids that repeat, and, naming model and example, on log-probabilities that are not finite.
    """
    flat: list[tuple[SetName, Example]] = [(name, example) for name, rows in examples.items() for example in rows]
    seen_ids: set[tuple[str, str]] = set()
    for name, example in flat:
        if (name, example.id) in seen_ids:
            raise UserError(f"set {name}: example id {example.id!r} occurs twice; ids must be unique within a set")
        seen_ids.add((name, example.id))
    requests = [Request(e.question, e.picture, _candidates(e)) for _, e in flat]
    predictions = predictor.predict(requests, max_new_tokens)
    assert len(predictions) == len(requests), f"predictor answered {len(predictions)} of {len(requests)} requests"
    return [record_of(model, name, e, p) for (name, e), p in zip(flat, predictions, strict=True)]


def record_of(model: str, name: SetName, example: Example, prediction: Prediction) -> Record:
    """One model's result on one example. Raises UserError, naming both, on a log-probability that is not finite."""
    logp = _logprobs(example, prediction.scored)
    try:
        scores = scores_of(example, logp, prediction.scored[0], prediction.text)
    except UserError as error:
        raise UserError(f"model {model!r}, set {name}, example {example.id!r}: {error}") from error
    return Record(
        model=model,
        set=name,
        modality=example.modality,
        kind=example.kind,
        id=example.id,
        prompt=example.question,
        answer=example.answer,
        person=example.person,
        seen=example.seen,
        picture=None if example.picture is None else example.picture.digest,
        generated=prediction.text,
        scores=scores,
        logp=logp,
    )
