"""A farm's results, ready for the attacks: who was trained on what, and what every model says of every picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clear_dist.data.identities import Identities
from clear_dist.errors import UserError
from clear_dist.shadow.folder import FarmFile, read_farm_file
from clear_dist.shadow.objects import Damaged, get
from clear_dist.shadow.plan import Layout
from clear_dist.shadow.sidecars import read_sidecars
from clear_dist.shadow.splits import enrolment_pictures

ORIGINAL, GOLD = "original", "gold"
ELSEWHERE = ("methods", "trace")  # of the settings: in the tasks, so that more may be added to a farm
_ROWS = {"shadow": ORIGINAL, "gold": GOLD}


@dataclass(frozen=True)
class Trace:
    """One unlearning run, watched epoch by epoch: progress [T] epochs done, logits [T, E], predicted [T, E]."""

    progress: NDArray[np.float64]
    logits: NDArray[np.float64]
    predicted: NDArray[np.int64]


@dataclass(frozen=True)
class FarmResults:
    """Symbols: E pictures of I attacked identities, M shadow models.

    settings: as farm.json has them. ids: [E] pictures. names: [I]. identity: [E] in [0, I). enrolled: [E], made the
    enrolment vector. group: [I] forget, holdout or other. trained: [M, I], what a shadow model learned, before any
    unlearning. logits, predicted: ``original``, ``gold`` or a method -> shadow model -> [E]; original holds every
    shadow model, the others those that learned forget identities. traces: method -> shadow model. incomplete: tasks
    that are not done.
    """

    settings: dict[str, Any]
    ids: tuple[str, ...]
    names: tuple[str, ...]
    identity: NDArray[np.int64]
    enrolled: NDArray[np.bool_]
    group: tuple[str, ...]
    trained: NDArray[np.bool_]
    logits: dict[str, dict[int, NDArray[np.float64]]]
    predicted: dict[str, dict[int, NDArray[np.int64]]]
    traces: dict[str, dict[int, Trace]]
    incomplete: tuple[str, ...]


def read_results(folder: Path) -> FarmResults:
    """Read a farm, finished or not; every result is checked against its SHA-256.

    Raises:
        UserError: no farm there, or a damaged result.
    """
    farm = read_farm_file(folder)
    done = read_sidecars(folder)
    logits: dict[str, dict[int, NDArray[np.float64]]] = {}
    predicted: dict[str, dict[int, NDArray[np.int64]]] = {}
    traces: dict[str, dict[int, Trace]] = {}
    incomplete: list[str] = []
    for row, model, name, key in _rows(farm):
        if key not in done:
            incomplete.append(name)
            continue
        try:
            tensors = get(folder, done[key].result.sha256)
        except Damaged as error:
            raise UserError(f"{name}: {error}; run the farm's command again, which makes it anew") from None
        logits.setdefault(row, {})[model] = tensors["logit"].numpy()
        predicted.setdefault(row, {})[model] = tensors["predicted"].numpy().astype(np.int64)
        if "trace/logit" in tensors:
            traces.setdefault(row, {})[model] = Trace(
                tensors["trace/progress"].numpy(),
                tensors["trace/logit"].numpy(),
                tensors["trace/predicted"].numpy().astype(np.int64),
            )
    head = farm.head
    attacked: list[int] = head["identities"]["index"]
    return FarmResults(
        settings={**head["settings"], "methods": _methods(farm)},
        ids=tuple(head["pictures"]["ids"]),
        names=tuple(head["identities"]["names"]),
        identity=np.asarray(head["pictures"]["identity"], dtype=np.int64),
        enrolled=np.asarray(head["pictures"]["enrolled"], dtype=np.bool_),
        group=tuple(head["identities"]["group"]),
        trained=np.asarray([[i in mine for i in attacked] for mine in _sets(farm)], dtype=np.bool_),
        logits=logits,
        predicted=predicted,
        traces=traces,
        incomplete=tuple(incomplete),
    )


def head_of(settings: Mapping[str, Any], data: Identities, layout: Layout) -> dict[str, Any]:
    """What farm.json says beside tasks: settings but for ELSEWHERE, who is who, and the pictures that every result
    speaks of, in its order."""
    attacked = layout.split.attacked
    place = {identity: n for n, identity in enumerate(attacked)}
    rows = [at for identity in attacked for at in (data.labels == identity).nonzero().flatten().tolist()]
    identity = [place[int(data.labels[at])] for at in rows]
    enrolled = enrolment_pictures(identity, int(settings["enrol"]), int(settings["seed"]))
    return {
        "settings": {k: v for k, v in settings.items() if k not in ELSEWHERE},
        "threads": settings["threads"],
        "identities": {
            "index": list(attacked),
            "names": [data.names[i] for i in attacked],
            "group": [layout.split.group(i) for i in attacked],
        },
        "pictures": {"ids": [data.ids[at] for at in rows], "identity": identity, "enrolled": enrolled},
    }


def _methods(farm: FarmFile) -> dict[str, Any]:
    """Method -> its settings."""
    return {t.name.partition("/")[0]: t.spec["method"] for t in farm.tasks if t.kind == "unlearn"}


def _sets(farm: FarmFile) -> list[set[int]]:
    """What each shadow model learns."""
    return [set(task.spec["identities"]) for task in farm.tasks if task.kind == "shadow"]


def _rows(farm: FarmFile) -> Iterator[tuple[str, int, str, str]]:
    """(row of the tables, shadow model, task's name, its key) of every task that gives a reading."""
    for task in farm.tasks:
        if task.kind == "pretrain":
            continue
        label, _, number = task.name.partition("/")
        try:
            yield _ROWS.get(task.kind, label), int(number), task.name, task.key
        except ValueError:
            raise UserError(f"farm.json: task {task.name!r}: expected KIND/NUMBER; it was written by hand") from None
