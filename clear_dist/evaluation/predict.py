"""One prediction pass that feeds every metric: score all candidate answers, generate once per question.

An example becomes one scoring request holding all its answers (true, paraphrased, wrong, options), so that a
predictor can compute the shared picture and question once; questions that repeat are generated once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from clear_dist.metrics.accuracy import attribute_hits, hit
from clear_dist.metrics.probability import answer_probability, choice_probability, mean_logp
from clear_dist.metrics.record import LogProbs, Record, Score
from clear_dist.metrics.rouge import rouge_l_recall
from clear_dist.metrics.truth_ratio import Mean, truth_ratio
from clear_dist.types import Example, Predictor, Request, SetName, UserError

MAX_NEW_TOKENS = 48
NAME_KINDS = frozenset({"name", "caption", "choice"})  # answers in which the person's name is expected
SHORT_KINDS = frozenset({"attribute", "choice"})  # the whole answer is the fact where none is given
DIGITS = 6  # decimals of stored log-probabilities; the scores are computed from what is stored

Progress = Callable[[int, int], None]
Tick = Callable[[int], None]
T = TypeVar("T")


def _candidates(example: Example) -> tuple[str, ...]:
    """The distinct answers to score, the true one first."""
    paraphrase = () if example.paraphrase is None else (example.paraphrase,)
    return tuple(dict.fromkeys((example.answer, *paraphrase, *example.perturbed, *example.options)))


def _logprobs(example: Example, scored: Sequence[Sequence[float]]) -> LogProbs:
    by_answer = dict(zip(_candidates(example), scored, strict=True))
    rounded = {answer: tuple(round(float(v), DIGITS) for v in logp) for answer, logp in by_answer.items()}
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


def scores_of(example: Example, logp: LogProbs, generated: str | None) -> dict[str, Score]:
    """All per-example scores; None where a score does not apply."""
    text = generated
    fact = example.fact or (example.answer if example.kind in SHORT_KINDS else None)
    ratio = ratio_of(logp)
    return {
        "rouge_l": None if text is None else rouge_l_recall(text, example.answer),
        "probability": probability_of(logp),
        "truth_ratio": ratio,
        "fact": None if text is None else hit(text, fact),
        "name": hit(text, example.person) if text is not None and example.kind in NAME_KINDS else None,
        "attributes": attribute_hits(text, example.attributes) if text is not None and _describes(example) else None,
    }


def _describes(example: Example) -> bool:
    return example.kind in ("describe", "caption")


def ratio_of(logp: LogProbs, mean: Mean = "geometric") -> float | None:
    """Truth ratio R of stored log-probabilities; None where there are no wrong answers.

    Wrong answers are the perturbed ones, else the wrong options; the right one is the paraphrase, else the answer
    (as TOFU does on its real-world sets).
    """
    wrong = logp.perturbed or logp.options[1:]
    right = logp.paraphrase or (logp.answer if logp.perturbed else (logp.options or (None,))[0])
    if not wrong or right is None:
        return None
    return truth_ratio(mean_logp(right), [mean_logp(w) for w in wrong], mean)


def _in_chunks(
    call: Callable[[Sequence[Request]], list[T]],
    requests: Sequence[Request],
    chunk: int | None,
    tick: Tick,
) -> list[T]:
    """``call`` over all requests, ``chunk`` at a time (None: all at once)."""
    results: list[T] = []
    size = chunk or max(len(requests), 1)
    for start in range(0, len(requests), size):
        part = requests[start : start + size]
        answers = call(part)
        assert len(answers) == len(part), f"predictor answered {len(answers)} of {len(part)} requests"
        results.extend(answers)
        tick(len(part))
    return results


def evaluate(
    predictor: Predictor,
    examples: Mapping[SetName, Sequence[Example]],
    *,
    model: str,
    max_new_tokens: int = MAX_NEW_TOKENS,
    chunk: int | None = None,
    on_progress: Progress | None = None,
) -> list[Record]:
    """Asks the predictor everything once and scores it: one Record per example, in the order given.

    Args:
        predictor: answers ``score`` and ``generate`` (greedy; it sees the picture).
        examples: set -> its examples; ids unique within a set.
        model: the records' model name (original, gold, unlearned, or a run's name).
        max_new_tokens: of a generation; CLEAR-mini's longest answer needs 34.
        chunk: requests per call of the predictor. None hands over everything in two calls, which is what several
            ranks need: with chunks, ranks holding unequal shares would make unequal numbers of collective calls.
        on_progress: called with (requests done, requests in all).

    Raises UserError on ids that repeat, and, naming model and example, on log-probabilities that are not finite.
    """
    flat: list[tuple[SetName, Example]] = [(name, example) for name, rows in examples.items() for example in rows]
    seen_ids: set[tuple[str, str]] = set()
    for name, example in flat:
        if (name, example.id) in seen_ids:
            raise UserError(f"set {name}: example id {example.id!r} occurs twice; ids must be unique within a set")
        seen_ids.add((name, example.id))

    to_score = [Request(e.question, e.picture, _candidates(e)) for _, e in flat]
    questions: dict[tuple[str, str | None], Request] = {}  # the same question on the same picture is asked once
    for _, e in flat:
        questions.setdefault(_question_key(e), Request(e.question, e.picture))

    done, total = 0, len(to_score) + len(questions)

    def tick(count: int) -> None:
        nonlocal done
        done += count
        if on_progress is not None:
            on_progress(done, total)

    scored = _in_chunks(predictor.score, to_score, chunk, tick)
    asked = list(questions.values())
    texts = _in_chunks(lambda part: predictor.generate(part, max_new_tokens), asked, chunk, tick)
    generated = dict(zip(questions, texts, strict=True))

    records = []
    for (name, example), request, logps in zip(flat, to_score, scored, strict=True):
        assert len(logps) == len(request.answers), "predictor scored another number of answers than were asked"
        logp = _logprobs(example, logps)
        text = generated[_question_key(example)]
        try:
            scores = scores_of(example, logp, text)
        except UserError as error:
            raise UserError(f"model {model!r}, set {name}, example {example.id!r}: {error}") from error
        records.append(
            Record(
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
                generated=text,
                scores=scores,
                logp=logp,
            )
        )
    return records


def _question_key(example: Example) -> tuple[str, str | None]:
    return example.question, None if example.picture is None else example.picture.digest
