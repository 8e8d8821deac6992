"""From settings to tasks: pretraining, N shadow models, a gold model and every method for each that saw forget people.

A task's spec holds everything that decides its result and nothing else, so its key (``task.make_task``) changes exactly
when its result may: adding a method to a farm leaves what is there valid. (Adding models does not: half of them see who
is forgotten, so each number of models is another farm.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from clear_dist.errors import UserError
from clear_dist.shadow.settings import FarmSettings, plain
from clear_dist.shadow.splits import Split, draw_split, training_sets
from clear_dist.shadow.task import Task, make_task

# Raised whenever the code of a kind of task changes its numbers: results of older code are then made again.
CODE = {"pretrain": 2, "shadow": 2, "gold": 2, "unlearn": 3}


@dataclass(frozen=True)
class Layout:
    """Who is what, and what each shadow model learns: identities by index into the data set."""

    split: Split
    trained: tuple[tuple[int, ...], ...]

    def forgets(self, model: int) -> tuple[int, ...]:
        """The forget identities a shadow model has learned, which is what is unlearned."""
        return tuple(i for i in self.trained[model] if i in self.split.forget)

    def keeps(self, model: int) -> tuple[int, ...]:
        """What a shadow model retains."""
        return tuple(i for i in self.trained[model] if i not in self.split.forget)


def layout_of(settings: FarmSettings, identities: int) -> Layout:
    """Raises UserError where the identities do not suffice; see ``splits``."""
    pretrain = 0 if settings.pretrain_images or settings.weights else settings.pretrain
    split = draw_split(identities, settings.forget, settings.holdout, pretrain, settings.seed)
    if len(split.pretrain) == 1:
        raise UserError("--pretrain-identities 1: expected 0, or at least 2: there is nothing to tell one from")
    sets = training_sets(split, settings.models, settings.design, settings.identities, settings.seed)
    layout = Layout(split, tuple(sets))
    for m in range(settings.models):
        if len(layout.keeps(m)) < 2:
            raise UserError(
                f"shadow model {m} would retain {len(layout.keeps(m))} identities beside {len(layout.forgets(m))} to "
                "forget; expected at least 2. Lower --forget, raise --identities, or give more identities."
            )
    return layout


def seed_of(settings: FarmSettings, *parts: object) -> int:
    """A seed of its own for every purpose: 31 bits of a SHA-256."""
    text = "/".join(map(str, (settings.seed, *parts)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little") >> 1


def tasks_of(settings: FarmSettings, layout: Layout) -> list[Task]:
    """All tasks, parents before children, in the order in which they are best done."""
    common: dict[str, Any] = {
        "data": settings.digest,
        "size": settings.size,
        "network": plain(settings.network),
        "precision": settings.precision,
        "threads": settings.threads,
    }
    # What a reading depends on: all attacked identities are recognised among each other.
    attacked = {"attacked": list(layout.split.attacked), "enrol": settings.enrol, "enrol_seed": settings.seed}
    weights = settings.keep == "weights"
    kept = {"embeddings": settings.keep == "embeddings"}
    tasks: list[Task] = []
    base: tuple[str, ...] = ()
    start: dict[str, Any] = {"weights": settings.weights_digest}
    if settings.pretrain_images or (layout.split.pretrain and not settings.weights):
        spec = {
            **common,
            "code": CODE["pretrain"],
            "data": settings.pretrain_digest or settings.digest,
            "identities": None if settings.pretrain_images else list(layout.split.pretrain),
            "training": plain(settings.pretraining),
            "seed": seed_of(settings, "pretrain"),
        }
        tasks.append(make_task("pretrain", "pretrain", spec, keep_weights=True))
        base, start = (tasks[0].key,), {}
    seeing = [m for m in range(settings.models) if layout.forgets(m)]
    shadows: dict[int, Task] = {}
    for m in range(settings.models):
        shadows[m] = _training("shadow", m, layout.trained[m], settings, {**common, **attacked, **kept, **start}, base)
    # Those that unlearning starts from keep their weights, also where no method is named yet.
    tasks += [replace(task, keep_weights=task.keep_weights or m in seeing) for m, task in shadows.items()]
    tasks += [
        _training("gold", m, layout.keeps(m), settings, {**common, **attacked, **kept, **start}, base) for m in seeing
    ]
    for m in seeing:
        for name, method in settings.methods.items():
            spec = {
                **common,
                **attacked,
                **kept,
                "code": CODE["unlearn"],
                "identities": list(layout.trained[m]),
                "forget": list(layout.forgets(m)),
                "method": plain(method),
                "trace": name in settings.trace,
                "seed": seed_of(settings, "unlearn", name, m),
            }
            tasks.append(make_task("unlearn", f"{name}/{m:03d}", spec, (shadows[m].key,), keep_weights=weights))
    return tasks


def _training(
    kind: str,
    model: int,
    identities: Sequence[int],
    settings: FarmSettings,
    common: dict[str, Any],
    base: tuple[str, ...],
) -> Task:
    spec = {
        **common,
        "code": CODE[kind],
        "identities": list(identities),
        "training": plain(settings.shadow),
        "seed": seed_of(settings, kind, model),
    }
    return make_task(kind, f"{kind}/{model:03d}", spec, base, keep_weights=settings.keep == "weights")
