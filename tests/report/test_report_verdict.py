"""The verdict's thresholds, and what is said around them."""

import pytest

from clear_dist.report.verdict import cautions, judge


def _figure(value: float, half: float = 0.01, n: int = 200, note: str | None = None) -> dict:
    out = {"value": value, "ci": [max(0.0, value - half), min(1.0, value + half)], "n": n}
    return out if note is None else {**out, "note": note}


def _model(forget: tuple[float, float], retain: tuple[float, float], **kwargs) -> dict:
    def groups(name: float, fact: float) -> dict:
        return {
            "visual": {"name_accuracy": _figure(name, **kwargs)},
            "text": {"fact_accuracy": _figure(fact, **kwargs)},
        }

    return {"sets": {"forget": groups(*forget), "retain": groups(*retain)}}


def _summary(forget: tuple[float, float], retain: tuple[float, float], **kwargs) -> dict:
    return {
        "models": {
            "original": _model((1.0, 0.98), (0.9, 0.95)),
            "unlearned": _model(forget, retain, **kwargs),
            "gold": _model((0.05, 0.25), (0.9, 0.95)),
        }
    }


@pytest.mark.parametrize(
    ("forget", "retain", "forgotten", "kept", "headline"),
    [
        ((0.0, 0.3), (0.85, 0.9), "met", "met", "Forgotten, and the rest is kept."),
        ((0.2, 0.4), (0.8, 0.85), "met", "met", "Forgotten, and the rest is kept."),  # exactly at every limit
        ((0.21, 0.41), (0.9, 0.9), "missed", "met", "Not forgotten. The rest is kept."),
        ((0.1, 0.41), (0.9, 0.9), "partly", "met", "Names are forgotten, facts are not. The rest is kept."),
        ((0.3, 0.3), (0.9, 0.9), "partly", "met", "Facts are forgotten, names are not. The rest is kept."),
        ((0.0, 0.3), (0.1, 0.2), "met", "missed", "Forgotten. Other knowledge was lost."),
        ((0.0, 0.3), (0.79, 0.9), "met", "partly", "Forgotten. Of everybody else, names were lost."),
        ((0.0, 0.3), (0.85, 0.84), "met", "partly", "Forgotten. Of everybody else, facts were lost."),
        ((0.9, 0.9), (0.1, 0.2), "missed", "missed", "Not forgotten. Other knowledge was lost."),
    ],
)
def test_thresholds(forget, retain, forgotten: str, kept: str, headline: str) -> None:
    verdict = judge(_summary(forget, retain))
    assert (verdict.forgotten, verdict.kept, verdict.headline) == (forgotten, kept, headline)
    assert len(verdict.details) == 3


def test_what_is_not_there_is_not_judged() -> None:
    summary = _summary((0.0, 0.3), (0.9, 0.9))
    del summary["models"]["gold"]
    verdict = judge(summary)
    assert (verdict.forgotten, verdict.kept) == ("unknown", "met")
    assert verdict.headline == "Whether they are forgotten was not measured. The rest is kept."

    del summary["models"]["unlearned"]
    verdict = judge(summary, None)
    assert verdict.headline == "Not enough was measured to judge this run." and verdict.details == ()


def test_one_modality_is_enough_and_the_other_is_named() -> None:
    summary = _summary((0.0, 0.9), (0.9, 0.1))
    for model in summary["models"].values():
        for part in model["sets"].values():
            part["text"]["fact_accuracy"] = None
    verdict = judge(summary)
    assert verdict.headline == "Forgotten, and the rest is kept."
    said = "\n".join(cautions(summary, verdict))
    assert "Facts about the people to forget: not measured" in said
    assert "unknown" not in " ".join(verdict.details)


def test_cautions_name_chance_overdoing_and_seen_pictures() -> None:
    sure = _summary((0.0, 0.3), (0.88, 0.93))
    assert cautions(sure, judge(sure)) == []

    wide = _summary((0.1, 0.3), (0.9, 0.95), half=0.2, n=12)
    assert "Could be chance" in cautions(wide, judge(wide))[0] and "(12 answers)" in cautions(wide, judge(wide))[0]

    below = _summary((0.0, 0.0), (0.9, 0.95))
    assert any("worse than one that never knew" in c for c in cautions(below, judge(below)))

    seen = _summary((0.0, 0.3), (0.9, 0.95), note="no unseen pictures: measured on seen ones")
    assert any("no unseen pictures" in c for c in cautions(seen, judge(seen)))


@pytest.mark.parametrize(("value", "said"), [(0.05, "as it should"), (0.6, "although it should not")])
def test_the_control_is_read(value: float, said: str) -> None:
    summary = _summary((0.0, 0.3), (0.9, 0.95))
    summary["models"]["original/shuffled"] = _model((value, 0.0), (0.0, 0.0))
    assert said in cautions(summary, judge(summary))[-1]
