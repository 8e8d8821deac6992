"""Tasks: complete, in order, and their keys change exactly where their results would."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from vision_farm import identities, planned, settings

from clear_dist.errors import UserError
from clear_dist.shadow.settings import FarmSettings, Network, Training, from_json, to_json
from clear_dist.shadow.task import Task

DATA = identities()


def keys(chosen: FarmSettings) -> dict[str, str]:
    return {task.name: task.key for task in planned(DATA, chosen)[1]}


def test_every_model_that_saw_forget_people_has_a_gold_one_and_every_method() -> None:
    layout, tasks = planned(DATA, settings(DATA))
    names = [task.name for task in tasks]
    assert names[0] == "pretrain"
    assert names[1:5] == [f"shadow/{m:03d}" for m in range(4)]
    assert names[5:7] == ["gold/000", "gold/001"]
    assert sorted(names[7:]) == sorted(f"{name}/{m:03d}" for name in ("retain_ft", "npo") for m in range(2))
    by_name = {task.name: task for task in tasks}
    for m in range(2):
        gold, shadow = by_name[f"gold/{m:03d}"], by_name[f"shadow/{m:03d}"]
        assert set(shadow.spec["identities"]) - set(gold.spec["identities"]) == set(layout.split.forget)
        assert set(gold.spec["identities"]) < set(shadow.spec["identities"])
        assert gold.spec["seed"] != shadow.spec["seed"], "a gold model is another training, not the same one cut short"
        unlearned = by_name[f"npo/{m:03d}"]
        assert unlearned.parents == (shadow.key,)
        assert unlearned.spec["forget"] == list(layout.split.forget)
    position = {task.key: n for n, task in enumerate(tasks)}
    assert all(position[parent] < position[task.key] for task in tasks for parent in task.parents)


def test_random_half_unlearns_what_each_model_saw() -> None:
    layout, tasks = planned(DATA, settings(DATA, models=6, design="random_half"))
    forgotten = {task.name: tuple(task.spec["forget"]) for task in tasks if task.kind == "unlearn"}
    assert forgotten
    for name, forget in forgotten.items():
        m = int(name[-3:])
        assert forget == tuple(i for i in layout.trained[m] if i in layout.split.forget) and forget
    unseen = [m for m in range(6) if not layout.forgets(m)]
    assert not any(name.endswith(f"{m:03d}") for m in unseen for name in forgotten)


def test_more_methods_and_workers_leave_what_is_there() -> None:
    few = keys(settings(DATA))
    many = keys(settings(DATA, methods=("retain_ft", "npo", "scrub_bio"), trace=("scrub_bio",)))
    assert {name: many[name] for name in few} == few and len(many) == len(few) + 2


CHANGES: list[tuple[dict[str, Any], set[str]]] = [
    ({"seed": 1}, {"pretrain", "shadow", "gold", "npo"}),
    ({"digest": "0" * 64}, {"pretrain", "shadow", "gold", "npo"}),
    ({"precision": "fp32"}, {"pretrain", "shadow", "gold", "npo"}),
    ({"threads": 2}, {"pretrain", "shadow", "gold", "npo"}),
    ({"network": Network(size="18")}, {"pretrain", "shadow", "gold", "npo"}),
    ({"pretraining": Training(2, 0.05, 16)}, {"pretrain", "shadow", "gold", "npo"}),
    ({"shadow": Training(2, 0.04, 16)}, {"shadow", "gold", "npo"}),
    ({"enrol": 3}, {"shadow", "gold", "npo"}),
    ({"enrolment": "paper"}, set()),
    ({"images": "elsewhere"}, set()),
]


@pytest.mark.parametrize(("change", "moved"), CHANGES, ids=[next(iter(c)) for c, _ in CHANGES])
def test_a_key_changes_with_what_decides_the_result(change: dict[str, Any], moved: set[str]) -> None:
    base, other = keys(settings(DATA)), keys(settings(DATA, **change))
    changed = {name.partition("/")[0] for name in base if other.get(name) != base[name]}
    assert changed - {"retain_ft"} == moved


def test_a_method_setting_moves_that_method_only() -> None:
    base = settings(DATA)
    tuned = replace(base, methods={**base.methods, "npo": replace(base.methods["npo"], lr=0.5)})
    assert {n.partition("/")[0] for n, k in keys(tuned).items() if keys(base)[n] != k} == {"npo"}


def test_seeds_differ_between_tasks() -> None:
    seeds = [task.spec["seed"] for task in planned(DATA, settings(DATA))[1]]
    assert len(set(seeds)) == len(seeds) and all(0 <= seed < 2**31 for seed in seeds)


def test_without_pretraining_models_start_alone() -> None:
    _, tasks = planned(DATA, settings(DATA, pretrain=0))
    shadows = [task for task in tasks if task.kind == "shadow"]
    assert not any(task.kind == "pretrain" for task in tasks) and all(not task.parents for task in shadows)
    _, given = planned(DATA, settings(DATA, weights="net.safetensors", weights_digest="1" * 64))
    other = {task.key for task in given if task.kind == "shadow"}
    assert not other & {task.key for task in shadows}


def test_other_pictures_for_pretraining_set_nobody_aside() -> None:
    layout, tasks = planned(DATA, settings(DATA, pretrain_images="more", pretrain_digest="2" * 64))
    assert not layout.split.pretrain and len(layout.split.attacked) == len(DATA.names)
    assert tasks[0].kind == "pretrain" and tasks[0].spec["identities"] is None and tasks[0].spec["data"] == "2" * 64


def kept(tasks: list[Task]) -> set[str]:
    return {task.kind for task in tasks if task.keep_weights}


def test_weights_are_kept_where_they_are_asked_for() -> None:
    assert kept(planned(DATA, settings(DATA))[1]) == {"pretrain", "shadow"}
    assert kept(planned(DATA, settings(DATA, keep="weights"))[1]) == {"pretrain", "shadow", "gold", "unlearn"}


def test_settings_survive_json() -> None:
    chosen = settings(DATA, trace=("npo",))
    assert from_json(to_json(chosen)) == chosen
    broken = to_json(chosen)
    broken["shadow"]["lr"] = "fast"
    with pytest.raises(UserError, match=r"settings\.shadow\.lr"):
        from_json(broken)
