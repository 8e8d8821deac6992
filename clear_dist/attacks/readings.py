"""Figures that compare attacked models, read off a summary: what came back beyond gold, and the average prefix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

RECOVERED: Final = ("fact_accuracy", "name_accuracy", "rouge_l")
SMALLEST_GAP: Final = 0.05  # original minus gold below which no share of it is taken


def recovery(
    summary: Mapping[str, Any], model: str, *, original: str = "original", gold: str = "gold"
) -> dict[str, Any]:
    """{ATTACK: {STEP: {METRIC: share | None}}}: how much of what gold lacks came back, on the forget set.

        share = (model after STEP - gold after STEP) / (original before - gold before)

    all on the same rows, those of the attack. 0: no more than gold learns from the same rows; 1: as far above gold as
    the original was; not clipped. None: something was not measured, or original and gold lie less than SMALLEST_GAP
    apart, so that there is nothing to come back.

    Args:
        summary: of ``evaluation.summary``, which has attacks under models[MODEL]["robustness"]["relearn_...@STEP"].
    """
    attacks = summary["models"].get(model, {}).get("robustness") or {}
    out: dict[str, Any] = {}
    for name in attacks:
        attack, _, step = name.partition("@")
        if step.isdecimal() and attack.startswith("relearn"):
            out.setdefault(attack, {})[step] = {
                metric: _share(
                    _value(summary, model, name, metric),
                    _value(summary, gold, name, metric),
                    _value(summary, original, f"{attack}@0", metric),
                    _value(summary, gold, f"{attack}@0", metric),
                )
                for metric in RECOVERED
            }
    return {attack: dict(sorted(steps.items(), key=lambda item: int(item[0]))) for attack, steps in out.items()}


def prefix_mean(summary: Mapping[str, Any], model: str) -> dict[str, float | None] | None:
    """{METRIC: mean over ``prefix_1``, ``prefix_2`` ... on the forget set}: what one prefix gets out, where
    ``prefix_worst`` says what somebody gets who tries them all. None for a metric that some prefix that was asked has
    no figure of; None altogether where no prefix was asked."""
    attacks = summary["models"].get(model, {}).get("robustness") or {}
    asked = [name for name in attacks if name.removeprefix("prefix_").isdecimal()]
    if not asked:
        return None
    values = {metric: [_value(summary, model, name, metric) for name in asked] for metric in RECOVERED}
    known = {metric: [v for v in found if v is not None] for metric, found in values.items()}
    return {m: sum(found) / len(found) if len(found) == len(asked) else None for m, found in known.items()}


def _share(now: float | None, control: float | None, ceiling: float | None, floor: float | None) -> float | None:
    if now is None or control is None or ceiling is None or floor is None or ceiling - floor < SMALLEST_GAP:
        return None
    return (now - control) / (ceiling - floor)


def _value(summary: Mapping[str, Any], model: str, attack: str, metric: str) -> float | None:
    sets = (summary["models"].get(model, {}).get("robustness") or {}).get(attack) or {}
    estimate = ((sets.get("forget") or {}).get("all") or {}).get(metric)
    return None if estimate is None else float(estimate["value"])
