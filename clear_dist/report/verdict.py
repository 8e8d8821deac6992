"""Was it forgotten, and was the rest kept? A judgement by stated thresholds, from a summary alone.

    forgotten  accuracy on the forget set  <= gold's + 0.15       (names on unseen pictures; facts in text)
    kept       accuracy on the retain set  >= the original's - 0.10

Gold never saw the forget people, so its accuracy is what guessing gives; the original says what there was to keep.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from clear_dist.metrics.interval import Estimate
from clear_dist.report.run import estimate

FORGET_MARGIN = 0.15
RETAIN_MARGIN = 0.10
State = Literal["met", "missed", "unknown"]
Whole = Literal["met", "partly", "missed", "unknown"]
_ROUNDING = 1e-9  # .25 + .15 must not fall below .4


@dataclass(frozen=True)
class Check:
    """One headline figure of the three models and the limit it is judged by."""

    title: str
    aim: Literal["forget", "retain"]
    original: Estimate | None
    unlearned: Estimate | None
    gold: Estimate | None
    limit: float | None
    state: State

    @property
    def unsure(self) -> bool:
        """Whether the unlearned model's interval reaches past the limit: the judgement could be chance."""
        if self.unlearned is None or self.limit is None:
            return False
        low, high = self.unlearned.low, self.unlearned.high
        return low <= self.limit < high if self.aim == "forget" else low < self.limit <= high

    @property
    def overdone(self) -> bool:
        """Below gold by more than the margin: stranger than never having known, which itself can be noticed."""
        if self.aim != "forget" or self.unlearned is None or self.gold is None:
            return False
        return self.unlearned.value < self.gold.value - FORGET_MARGIN - _ROUNDING


@dataclass(frozen=True)
class Verdict:
    """The checks, what they say together, and a sentence on each."""

    checks: tuple[Check, ...]
    forgotten: Whole
    kept: Whole
    headline: str
    details: tuple[str, ...]


def _check(
    summary: Mapping[str, Any], candidate: str | None, title: str, aim: Literal["forget", "retain"], at: tuple[str, str]
) -> Check:
    original, unlearned, gold = (estimate(summary, m, aim, *at) for m in ("original", candidate, "gold"))
    if aim == "forget":
        limit = None if gold is None else min(1.0, gold.value + FORGET_MARGIN)
        good = unlearned is not None and limit is not None and unlearned.value <= limit + _ROUNDING
    else:
        limit = None if original is None else max(0.0, original.value - RETAIN_MARGIN)
        good = unlearned is not None and limit is not None and unlearned.value >= limit - _ROUNDING
    known = unlearned is not None and limit is not None
    state: State = "unknown" if not known else "met" if good else "missed"
    return Check(title, aim, original, unlearned, gold, limit, state)


def _together(checks: list[Check]) -> Whole:
    states = {c.state for c in checks}
    if {"met", "missed"} <= states:
        return "partly"
    return "missed" if "missed" in states else "met" if "met" in states else "unknown"


def percent(estimate: Estimate | None) -> str:
    """A proportion for running text; "unknown" where it was not measured."""
    return "unknown" if estimate is None else f"{100 * estimate.value:.0f}%"


def _headline(forgotten: Whole, kept: Whole, checks: tuple[Check, ...]) -> str:
    """The verdict in one or two sentences, for people who read nothing else."""
    names, facts, kept_names, _ = checks
    if forgotten == kept == "unknown":
        return "Not enough was measured to judge this run."
    if forgotten == "met" and kept == "met":
        return "Forgotten, and the rest is kept."
    first = {
        "met": "Forgotten.",
        "missed": "Not forgotten.",
        "unknown": "Whether they are forgotten was not measured.",
        "partly": "Names are forgotten, facts are not."
        if names.state == "met" and facts.state == "missed"
        else "Facts are forgotten, names are not.",
    }[forgotten]
    second = {
        "met": "The rest is kept.",
        "missed": "Other knowledge was lost.",
        "unknown": "Whether the rest is kept was not measured.",
        "partly": f"Of everybody else, {'facts' if kept_names.state == 'met' else 'names'} were lost.",
    }[kept]
    return f"{first} {second}"


def _sentences(checks: tuple[Check, ...]) -> tuple[str, ...]:
    names, facts, kept_names, kept_facts = checks
    out = []
    if names.unlearned is not None:
        out.append(
            f"Shown pictures of the people to forget, the unlearned model names {percent(names.unlearned)} of them "
            f"rightly; before unlearning it was {percent(names.original)}, and a model that never met them reaches "
            f"{percent(names.gold)}."
        )
    if facts.unlearned is not None:
        out.append(
            f"Asked about their lives, it still gets {percent(facts.unlearned)} of the facts right "
            f"(before: {percent(facts.original)}; never told: {percent(facts.gold)})."
        )
    kept = [
        f"{percent(c.unlearned)} of {what} (before: {percent(c.original)})"
        for c, what in ((kept_names, "names"), (kept_facts, "facts"))
        if c.unlearned is not None
    ]
    if kept:
        out.append(f"Of everybody else it still knows {' and '.join(kept)}.")
    return tuple(out)


def judge(summary: Mapping[str, Any], candidate: str | None = "unlearned") -> Verdict:
    """The verdict on a summary's candidate model. Figures that were not measured do not count, and are named."""
    checks = (
        _check(summary, candidate, "Names of the people to forget", "forget", ("visual", "name_accuracy")),
        _check(summary, candidate, "Facts about the people to forget", "forget", ("text", "fact_accuracy")),
        _check(summary, candidate, "Names of everybody else", "retain", ("visual", "name_accuracy")),
        _check(summary, candidate, "Facts about everybody else", "retain", ("text", "fact_accuracy")),
    )
    forgotten = _together([c for c in checks if c.aim == "forget"])
    kept = _together([c for c in checks if c.aim == "retain"])
    return Verdict(checks, forgotten, kept, _headline(forgotten, kept, checks), _sentences(checks))


def cautions(summary: Mapping[str, Any], verdict: Verdict) -> list[str]:
    """What a careful reader should know before relying on the verdict, in words."""
    out = []
    for check in verdict.checks:
        if check.unlearned is None:
            out.append(f"{check.title}: not measured, so the verdict says nothing about it.")
            continue
        if check.state == "unknown":
            other = "gold" if check.aim == "forget" else "original"
            out.append(f"{check.title}: not judged, because the {other} model was not evaluated on it.")
        if check.overdone:
            out.append(f"{check.title}: the unlearned model does worse than one that never knew, which can be noticed.")
        if check.unlearned.note:
            out.append(f"{check.title}: {check.unlearned.note}.")
    unsure = [c for c in verdict.checks if c.state != "unknown" and c.unsure]
    if unsure:
        of = "; ".join(f"{c.title.lower()} ({c.unlearned.n} answers)" for c in unsure if c.unlearned is not None)
        out.append(
            f"Could be chance, because the interval of the unlearned model reaches past the limit: {of}. More "
            "questions, pictures or seeds would tell."
        )
    for model in summary["models"]:
        control = estimate(summary, f"{model}/shuffled", "forget", "visual", "name_accuracy")
        if control is not None:
            word = "as it should" if control.value <= 0.1 else "although it should not: names may be read off the text"
            out.append(
                f"Control: given pictures of other people, the {model} model names {percent(control)} of the people "
                f"asked about, {word}."
            )
    return out
