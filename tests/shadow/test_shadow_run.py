"""The farm's runner: models are what training and unlearning on their own people give, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from vision_farm import finished, hashes, identities, make_farm, planned, run_farm, settings

from clear_dist.data.identity_cache import write_identities
from clear_dist.errors import UserError
from clear_dist.models.resnet import ResNetSettings, VisionModel, initialised
from clear_dist.models.resnet_files import model_from, save_resnet, state_of
from clear_dist.shadow.objects import get
from clear_dist.shadow.plan import layout_of
from clear_dist.shadow.results import read_results
from clear_dist.shadow.run import make_runner, objective_of
from clear_dist.shadow.settings import FarmSettings, Training
from clear_dist.shadow.task import Task
from clear_dist.shadow.train import train_classifier
from clear_dist.shadow.unlearn import Pictures, unlearn

DATA = identities()
CHOSEN = settings(DATA, ("retain_ft", "npo"), keep="weights", precision="fp32")


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished farm that kept all weights."""
    folder = make_farm(tmp_path_factory.mktemp("run") / "farm", DATA, CHOSEN)
    assert run_farm(folder) == 11
    return folder


def tasks_of(chosen: FarmSettings = CHOSEN) -> dict[str, Task]:
    return {task.name: task for task in planned(DATA, chosen)[1]}


def weights_of(farm: Path, name: str) -> dict[str, Tensor]:
    kept = finished(farm)[name].weights
    assert kept is not None
    return get(farm, kept.sha256)


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def pictures_of(people: list[int]) -> Pictures:
    """Pictures of these people in their order, labelled 0, 1, .. in it."""
    rows = [(DATA.labels == person).nonzero().flatten() for person in people]
    labels = torch.cat([torch.full_like(at, n) for n, at in enumerate(rows)])
    return Pictures(DATA.pixels[torch.cat(rows)], labels)


def network(people: int, seed: int) -> VisionModel:
    return initialised(ResNetSettings(size="tiny", classes=people, head="am_softmax"), seed)


def made_again(
    people: list[int],
    training: Training,
    seed: int,
    trunk: Mapping[str, Tensor] | None,
    autocast: torch.dtype | None = None,
) -> VisionModel:
    """What a training task should come to: a new head on the trunk, its people's pictures."""
    model = network(len(people), seed)
    if trunk is not None:
        own = {name: t for name, t in state_of(model).items() if name.startswith("fc.")}
        model = model_from(model.settings, {**trunk, **own})
    model.autocast = autocast
    mine = pictures_of(people)
    train_classifier(model, mine.pixels, mine.labels, training, seed=seed)
    return model


@pytest.mark.parametrize("name", ["pretrain", "shadow/000", "shadow/003", "gold/001"])
def test_a_model_is_trained_on_its_people(farm: Path, name: str) -> None:
    layout, _ = planned(DATA, CHOSEN)
    people = {
        "pretrain": layout.split.pretrain,
        "shadow/000": layout.trained[0],
        "shadow/003": layout.trained[3],
        "gold/001": [i for i in layout.trained[1] if i not in layout.split.forget],
    }[name]
    pretraining = name == "pretrain"
    trunk = None if pretraining else weights_of(farm, "pretrain")
    training = CHOSEN.pretraining if pretraining else CHOSEN.shadow
    model = made_again(sorted(people), training, tasks_of()[name].spec["seed"], trunk)
    assert same(state_of(model), weights_of(farm, name))
    assert finished(farm)[name].metrics["pictures"] == 7 * len(people)


def unlearned_again(farm: Path, chosen: FarmSettings, name: str, autocast: torch.dtype | None) -> VisionModel:
    """What an unlearning task should come to: from the kept weights of the shadow model of its number."""
    layout, _ = planned(DATA, chosen)
    method, _, number = name.partition("/")
    trained = list(layout.trained[int(number)])
    settings = ResNetSettings(size="tiny", classes=len(trained), head="am_softmax")
    original = model_from(settings, weights_of(farm, f"shadow/{number}"))
    original.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    original.autocast = autocast
    mine = pictures_of(trained)
    out = torch.isin(mine.labels, torch.tensor([trained.index(i) for i in layout.split.forget]))
    return unlearn(
        original,
        Pictures(mine.pixels[out], mine.labels[out]),
        Pictures(mine.pixels[~out], mine.labels[~out]),
        chosen.methods[method],
        objective_of(chosen.methods[method]),
        seed=tasks_of(chosen)[name].spec["seed"],
    )


@pytest.mark.parametrize("name", ["npo/001", "retain_ft/000"])
def test_a_model_unlearns_its_forget_people_from_its_own_original(farm: Path, name: str) -> None:
    found = state_of(unlearned_again(farm, CHOSEN, name, None))
    assert same(found, weights_of(farm, name))
    assert not same(found, weights_of(farm, f"shadow/{name[-3:]}"))


def test_precision_is_that_of_training_and_of_unlearning(tmp_path: Path) -> None:
    chosen = settings(DATA, ("npo",), keep="weights", precision="bf16", pretrain=0)
    farm = make_farm(tmp_path / "farm", DATA, chosen)
    run_farm(farm)
    assert same(state_of(unlearned_again(farm, chosen, "npo/001", torch.bfloat16)), weights_of(farm, "npo/001"))
    assert not same(state_of(unlearned_again(farm, chosen, "npo/001", None)), weights_of(farm, "npo/001"))
    people, spec = list(planned(DATA, chosen)[0].trained[0]), tasks_of(chosen)["shadow/000"].spec
    fp32 = made_again(people, chosen.shadow, spec["seed"], None)
    assert not same(state_of(fp32), weights_of(farm, "shadow/000"))
    assert same(
        state_of(made_again(people, chosen.shadow, spec["seed"], None, torch.bfloat16)), weights_of(farm, "shadow/000")
    )


def test_a_farm_made_again_is_the_same_to_the_bit(farm: Path, tmp_path: Path) -> None:
    again = make_farm(tmp_path / "elsewhere", DATA, CHOSEN)
    assert run_farm(again, limit=4) == 4
    assert run_farm(again) == 7, "in two goes"
    assert hashes(again) == hashes(farm)
    assert len({result for result, _ in hashes(farm).values()}) == 11, "and no two tasks come to the same"
    for precision, keep in (("bf16", "weights"), ("fp32", "logits")):
        other = make_farm(
            tmp_path / precision, DATA, replace(CHOSEN, precision=precision, keep=keep, shadow=Training(1, 0.05, 64))
        )
        assert run_farm(other, limit=2) == 2
        assert (hashes(other)["pretrain"] == hashes(farm)["pretrain"]) == (precision == "fp32")


def test_embeddings_are_kept_and_are_what_logits_are_of(farm: Path, tmp_path: Path) -> None:
    chosen = replace(CHOSEN, keep="embeddings", methods={})
    other = make_farm(tmp_path / "farm", DATA, chosen)
    run_farm(other, limit=2)
    found = get(other, finished(other)["shadow/000"].result.sha256)
    kept = get(farm, finished(farm)["shadow/000"].result.sha256)
    assert set(kept) == {"logit", "predicted"} and set(found) == {"logit", "predicted", "embedding"}
    assert torch.equal(found["logit"], kept["logit"]) and torch.equal(found["predicted"], kept["predicted"])
    results = read_results(other)
    e = found["embedding"].double()
    for person in range(len(results.names)):
        mine = torch.from_numpy(results.identity == person)
        centre = e[mine & torch.from_numpy(results.enrolled)].mean(0)
        cosine = torch.cosine_similarity(e[mine], centre[None])
        torch.testing.assert_close(found["logit"][mine], torch.logit(cosine.clamp(1e-6, 1 - 1e-6)))


def test_models_start_from_weights_that_are_given(tmp_path: Path) -> None:
    given = network(5, 9)
    save_resnet(given, tmp_path / "net")
    still = Training(1, 1e-12, 49, weight_decay=0.0, schedule="constant", warmup=0.0)
    chosen = replace(
        CHOSEN, weights=str(tmp_path / "net"), weights_digest="1" * 64, methods={}, shadow=still, pretrain=0
    )
    farm = make_farm(tmp_path / "farm", DATA, chosen)
    assert run_farm(farm, limit=2) == 2
    one, two = weights_of(farm, "shadow/000"), weights_of(farm, "shadow/001")
    named = dict(given.named_parameters())
    for name, weight in named.items():
        if not name.startswith("fc."):
            torch.testing.assert_close(one[name], weight, rtol=0, atol=1e-8)
    assert one["fc.weight"].shape[0] == len(planned(DATA, chosen)[0].trained[0]) == 7
    assert not torch.allclose(one["fc.weight"], two["fc.weight"]), "every model has a head of its own"


def test_pretraining_on_other_pictures_takes_all_of_them(tmp_path: Path) -> None:
    more = identities(people=4, pictures=3, seed=5)
    chosen = replace(CHOSEN, pretrain_images="more", pretrain_digest=more.digest, methods={})
    farm = make_farm(tmp_path / "farm", DATA, chosen, pretrain=more)
    run_farm(farm, limit=1)
    model = network(4, tasks_of(chosen)["pretrain"].spec["seed"])
    train_classifier(
        model, more.pixels, more.labels, chosen.pretraining, seed=tasks_of(chosen)["pretrain"].spec["seed"]
    )
    assert same(state_of(model), weights_of(farm, "pretrain"))


def test_random_halves_are_run_too(tmp_path: Path) -> None:
    chosen = settings(DATA, ("retain_ft",), design="random_half", pretrain=0, models=4)
    farm = make_farm(tmp_path / "farm", DATA, chosen)
    assert run_farm(farm) == len(tasks_of(chosen))
    results = read_results(farm)
    assert (results.trained.sum(0) == 2).all() and not results.incomplete
    saw = {m for m in range(4) if any(results.trained[m, i] for i, g in enumerate(results.group) if g == "forget")}
    assert set(results.logits["retain_ft"]) == set(results.logits["gold"]) == saw


def test_a_model_that_would_know_forget_people_alone_is_refused() -> None:
    """Two of five people are to be forgotten, and random halves are of two: by this seed one model learns just them."""
    with pytest.raises(UserError, match="retain"):
        layout_of(settings(DATA, design="random_half", pretrain=0, forget=2, holdout=1, models=4, seed=1), 5)


def test_other_pictures_than_were_planned_on_are_refused(farm: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache.safetensors"
    write_identities(identities(seed=1), cache)
    with pytest.raises(UserError, match=r"cache\.safetensors: holds other pictures than the farm was planned on"):
        make_runner(str(cache), DATA.digest)
    with pytest.raises(UserError, match=r"gone\.safetensors: this cache cannot be read"):
        make_runner(str(tmp_path / "gone.safetensors"), DATA.digest)
    write_identities(identities(seed=1), farm.with_name("farm.cache.safetensors"))
    try:
        with pytest.raises(UserError, match="other pictures"):
            run_farm(farm)
    finally:
        write_identities(DATA, farm.with_name("farm.cache.safetensors"))


@pytest.mark.filterwarnings("ignore:overflow")
def test_a_model_that_diverges_fails_alone(tmp_path: Path) -> None:
    base = settings(DATA, ("gd", "retain_ft"), precision="fp32")
    wild: dict[str, Any] = {**base.methods, "gd": replace(base.methods["gd"], lr=1e30, epochs=4.0)}
    farm = make_farm(tmp_path / "farm", DATA, replace(base, methods=wild))
    run_farm(farm)
    from clear_dist.shadow.status import read_status

    status = read_status(farm)
    assert {f.name for f in status.quarantined} == {"gd/000", "gd/001"} and not status.blocked
    assert all("lower the learning rate (1e+30)" in f.error for f in status.quarantined)
    assert set(read_results(farm).incomplete) == {"gd/000", "gd/001"}
