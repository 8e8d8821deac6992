"""Results of farms that nobody trained: every logit is normal, moved up where the model knows the person."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clear_dist.shadow.results import FarmResults, Trace

GROUPS = ("forget",) * 3 + ("holdout",) * 3 + ("other",) * 6
PICTURES, ENROLLED = 4, 1  # of each identity
KNOWN = 4.0  # how far a learned picture's logit lies above one never seen
LEFT = {"original": KNOWN, "gold": 0.0, "npo": 0.0, "weak": 2.0}  # of that, what a row leaves on forgotten people


def training(models: int, design: str, rng: np.random.Generator) -> np.ndarray:
    """[M, I] who was learned."""
    people = len(GROUPS)
    if design == "random_half":
        first = np.argsort(rng.random((models // 2, people)), axis=1) < people // 2
        return np.stack([first, ~first], axis=1).reshape(models, people)
    group = np.array(GROUPS)
    learned = (group == "other") & (rng.random((models, people)) < 0.5)
    learned[: models // 2, group == "forget"] = True
    learned[models // 2 :, group == "holdout"] = True
    return learned


def make_results(
    models: int = 12,
    design: str = "fixed_block",
    rows: Sequence[str] = ("original", "npo", "weak", "gold"),
    names: Sequence[str] | None = None,
    traced: Sequence[str] = ("weak",),
    seed: int = 0,
) -> FarmResults:
    """A farm whose tasks are all done. Rows are in an order that no table should keep. A picture is taken for its own
    person where its logit is above 2."""
    rng = np.random.default_rng(seed)
    identity = np.repeat(np.arange(len(GROUPS)), PICTURES)
    forget = np.array(GROUPS)[identity] == "forget"
    trained = training(models, design, rng)
    centre = 0.3 * rng.normal(size=identity.size)
    saw = trained[:, : GROUPS.count("forget")].sum(axis=1) > 0
    logits, predicted, traces = {}, {}, {}

    def reading(m: int, left: float) -> tuple[np.ndarray, np.ndarray]:
        learned = trained[m][identity]
        found = centre + 0.3 * rng.normal(size=identity.size) + np.where(forget, left, KNOWN) * learned
        return found, np.where(found > 2, identity, (identity + 1) % len(GROUPS))

    for row in rows:
        mine = [m for m in range(models) if row == "original" or saw[m]]
        read = {m: reading(m, LEFT[row]) for m in mine}
        logits[row] = {m: r[0] for m, r in read.items()}
        predicted[row] = {m: r[1] for m, r in read.items()}
        if row in traced:
            moments = {m: [reading(m, KNOWN), reading(m, LEFT[row])] for m in mine}
            traces[row] = {
                m: Trace(np.array([0.0, 1.0]), np.stack([r[0] for r in two]), np.stack([r[1] for r in two]))
                for m, two in moments.items()
            }
    return FarmResults(
        settings={"enrolment": "held_out", "models": models, "design": design, "methods": {"npo": {}, "weak": {}}},
        ids=tuple(f"p{i}/{j}.png" for i in range(len(GROUPS)) for j in range(PICTURES)),
        names=tuple(names or (f"p{i}" for i in range(len(GROUPS)))),
        identity=identity,
        enrolled=np.tile(np.arange(PICTURES) < ENROLLED, len(GROUPS)),
        group=GROUPS,
        trained=trained,
        logits=logits,
        predicted=predicted,
        traces=traces,
        incomplete=(),
    )
