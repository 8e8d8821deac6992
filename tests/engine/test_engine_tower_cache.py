"""The vision tower's output kept: the same losses and gradients as with the tower in every step, and refused where it
would not be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_support import FORGET, MAX_LENGTH, RETAIN, metrics, picture, run, stir
from torch import Tensor, nn

from clear_dist.data.augment import augmented
from clear_dist.data.encode import encode
from clear_dist.data.packing import PixelCache, pack
from clear_dist.engine import tower_cache
from clear_dist.engine.monitor import Monitor
from clear_dist.engine.step import StepModule, Totals, loss_of
from clear_dist.engine.stream import Stream, StreamSettings
from clear_dist.engine.tower_cache import TowerCache, build_tower_cache, parked, pictures_of, why_not
from clear_dist.engine.world import World
from clear_dist.methods import FORGET as F
from clear_dist.methods import RETAIN as R
from clear_dist.methods import kl, match, nll, npo
from clear_dist.models import Model, add_lora, freeze_tower, load_model
from clear_dist.models.llava import Llava
from clear_dist.types import Example, Picture, UserError, View

OBJECTIVE = npo(F) + kl(R) + nll(R)
ALONE = World(0, 1, 0, torch.device("cpu"))
PICTURES = {e.picture.digest: e.picture for e in (*FORGET, *RETAIN) if e.picture is not None}
MIXES: dict[str, dict[str, Sequence[Example]]] = {
    "mixed": {"forget": FORGET, "retain": RETAIN},
    "two": {"forget": FORGET[:1], "retain": RETAIN[4:5]},
    "text": {"forget": FORGET[3:4], "retain": RETAIN[3:4]},
    "nothing": {"forget": [], "retain": []},
}


def student(base_dir: Path, kind: str) -> StepModule:
    """lora; full (the projector trains); copy: full, beside a frozen second model."""
    model = load_model(base_dir, dtype="fp32", device="cpu")
    if kind == "lora":
        model.module = add_lora(model.module, 4, 8.0, model.family, seed=1)
        stir(model.module, 0.1)
        return StepModule(model.module, model.family).train()
    freeze_tower(model.family, model.module)
    copy = load_model(base_dir, dtype="fp32", device="cpu").module.requires_grad_(False)
    stir(model.module, 0.01)
    return StepModule(model.module, model.family, copy).train()


def forbid_tower(module: StepModule, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in (module.student, module.reference):
        tower = None if part is None else module.family.tower(part)
        if tower is not None:
            monkeypatch.setattr(tower, "forward", lambda *_, **__: pytest.fail("the tower runs"))


def gradients(module: StepModule, batch: Any, views: dict[str, Sequence[Example]]) -> tuple[float, dict[str, Tensor]]:
    module.zero_grad()
    totals = {View(v): Totals(len(rows), len(batch.targets[batch.view_tokens[v]])) for v, rows in views.items()}
    loss, _ = loss_of(OBJECTIVE, module(batch, OBJECTIVE.needs), batch, totals, 0.0)
    loss.backward()
    return float(loss.detach()), {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_losses_and_gradients_are_those_of_the_tower(base: Model, base_dir: Path, kind: str) -> None:
    module = student(base_dir, kind)
    cache = build_tower_cache(module, PICTURES, base.processor, ALONE)
    assert cache is not None and len(cache) == 6 and module.training
    found: dict[str, Tensor] = {}
    for name, views in MIXES.items():
        encoded = {v: [encode(e, base.processor, MAX_LENGTH) for e in rows] for v, rows in views.items()}
        common: dict[str, Any] = {"row_length": 128, "pixels": PixelCache(base.processor)}
        live = pack(encoded, base.processor, **common)
        kept = pack(encoded, base.processor, **common, features=cache)
        assert kept.pixel_values is None and kept.tower_features is not None
        assert kept.tower_features.shape[0] == {"mixed": 6, "two": 2}.get(name, 1)
        wanted_loss, wanted = gradients(module, live, views)
        with pytest.MonkeyPatch.context() as patch:
            forbid_tower(module, patch)
            loss, found = gradients(module, kept, views)
        assert loss == pytest.approx(wanted_loss, abs=1e-6), name
        assert found.keys() == wanted.keys()
        assert any("multi_modal_projector" in n for n in found) == (kind == "full")
        for n, want in wanted.items():
            torch.testing.assert_close(found[n], want, atol=1e-6, rtol=1e-5, msg=lambda m, n=n: f"{n}: {m}")
    assert found and max(float(g.abs().max()) for g in found.values()) == 0, "the last mix is nothing"


def test_passes_are_of_one_shape_and_give_what_the_tower_gives(
    base: Model, base_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = student(base_dir, "lora")
    monkeypatch.setattr(tower_cache, "PICTURES", {"cpu": 4, "cuda": 4})
    shapes: list[torch.Size] = []
    tower = module.family.tower(module.student)
    assert tower is not None
    handle = tower.register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(kwargs_of(args, kwargs)), with_kwargs=True
    )
    done: list[tuple[int, int]] = []
    cache = build_tower_cache(module, PICTURES, base.processor, ALONE, progress=lambda *n: done.append(n))
    handle.remove()
    assert cache is not None and done == [(4, 6), (6, 6)]
    assert len(shapes) == 2 and shapes[0] == shapes[1] and shapes[0][0] == 4
    last = list(PICTURES.values())[-2:]
    pixels = torch.stack([PixelCache(base.processor)(p) for p in last])
    with torch.no_grad():
        wanted = module.family.tower_features(module.student, pixels)
    torch.testing.assert_close(cache(last), wanted, atol=1e-6, rtol=1e-6)
    assert not torch.equal(cache(last)[0], cache(last)[1])
    assert cache(()).shape == (1, *wanted.shape[1:]) and not cache(()).any()
    assert cache.bytes == 6 * wanted[0].numel() * 4 and cache.seconds > 0


def kwargs_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Size:
    return (args[0] if args else kwargs["pixel_values"]).shape


def test_a_picture_that_cannot_be_read_is_named(base: Model, base_dir: Path) -> None:
    bad = Picture("0" * 64, "people[99].image", lambda: b"no picture")
    with pytest.raises(UserError, match=r"people\[99\].image"):
        build_tower_cache(student(base_dir, "lora"), {**PICTURES, bad.digest: bad}, base.processor, ALONE)


def test_memory_that_does_not_suffice(base: Model, base_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = student(base_dir, "lora")
    room = build_tower_cache(module, PICTURES, base.processor, ALONE)
    assert room is not None
    for free, fits in ((4 * room.bytes, True), (4 * room.bytes - 1, False)):
        monkeypatch.setattr(tower_cache.psutil, "virtual_memory", lambda free=free: type("M", (), {"available": free}))
        assert (build_tower_cache(module, PICTURES, base.processor, ALONE) is not None) == fits, "a quarter of it"


def test_why_not(base_dir: Path) -> None:
    assert why_not(student(base_dir, "lora")) is None and why_not(student(base_dir, "copy")) is None

    trained = student(base_dir, "full")
    tower = trained.family.tower(trained.student)
    assert tower is not None
    next(tower.parameters()).requires_grad_(True)
    assert "is trained" in (why_not(trained) or "")

    noisy = student(base_dir, "lora")
    settings: Any = noisy.family.tower(noisy.student)
    settings.config.attention_dropout = 0.1
    assert "dropout" in (why_not(noisy) or "")

    other = student(base_dir, "copy")
    assert other.reference is not None
    theirs = other.family.tower(other.reference)
    assert theirs is not None
    with torch.no_grad():
        next(theirs.parameters()).add_(1e-3)
    assert "another vision tower" in (why_not(other) or "")

    class Uncut(Llava):
        name, cached_tower = "uncut", False

        def tower(self, module: nn.Module) -> nn.Module:
            return nn.Linear(1, 1)

    assert "uncut models" in (why_not(StepModule(noisy.student, Uncut())) or "")

    class Blind(Llava):
        def tower(self, module: nn.Module) -> Any:
            return None

    assert "no vision tower" in (why_not(StepModule(noisy.student, Blind())) or "")


def stream_of(base: Model, objective: Any, reference: Any = None) -> Stream:
    settings = StreamSettings({F: 3, R: 4}, 0, 2, MAX_LENGTH, 96, 1)
    return Stream({F: FORGET, R: RETAIN}, base.processor, settings, 0, 1, needs=objective.needs, reference=reference)


def test_pictures_of_steps(base: Model) -> None:
    stream = stream_of(base, OBJECTIVE)
    pictures, uses = pictures_of(stream, range(2))
    seen = [stream.pictures(step) for step in range(2)]
    assert pictures.keys() == seen[0].keys() | seen[1].keys() and list(pictures)[: len(seen[0])] == list(seen[0])
    assert uses == len(seen[0]) + len(seen[1]) and uses > len(pictures)
    assert pictures_of(stream, range(50))[0].keys() == PICTURES.keys()
    assert pictures_of(stream, range(0)) == ({}, 0)


def test_transformed_pictures_of_the_reference_count_unless_they_are_not_read(base: Model) -> None:
    told = {F: [replace(e, picture=None if e.picture is None else augmented(e.picture, 7)) for e in FORGET]}
    stream = stream_of(base, OBJECTIVE, told)
    everything = pictures_of(stream, range(50))[0]
    changed = {e.picture.digest for e in told[F] if e.picture is not None}
    assert len(changed) == 2 and everything.keys() == PICTURES.keys() | changed
    stream.cache = object()  # type: ignore[assignment]
    assert pictures_of(stream, range(50))[0].keys() == PICTURES.keys()


def test_the_transformed_picture_is_read_where_it_was(base: Model, base_dir: Path) -> None:
    """The reference's batch carries the features of its own pictures, the student's of the plain ones."""
    told = {F: [replace(e, picture=None if e.picture is None else augmented(e.picture, 7)) for e in FORGET]}
    objective = kl(F) + nll(R)
    stream, module = stream_of(base, objective, told), student(base_dir, "lora")
    (live,) = stream.micro_batches(0)
    stream.features = build_tower_cache(module, pictures_of(stream, range(1))[0], base.processor, ALONE)
    (kept,) = stream.micro_batches(0)
    assert live.reference is not None and kept.reference is not None and kept.reference.pixel_values is None
    with torch.no_grad():
        wanted, found = module(live, objective.needs), module(kept, objective.needs)
    for view in (F, R):
        for name, want in wanted[view].items():
            torch.testing.assert_close(found[view][name], want, atol=1e-6, rtol=1e-5)


def test_hidden_states_and_shortened_decoders(base: Model, base_dir: Path) -> None:
    objective = match(F, layer=0, images=True)
    stream, module = stream_of(base, objective), student(base_dir, "lora")
    (live,) = stream.micro_batches(0)
    stream.features = build_tower_cache(module, PICTURES, base.processor, ALONE)
    (kept,) = stream.micro_batches(0)
    with torch.no_grad():
        wanted, found = module(live, objective.needs)[F], module(kept, objective.needs)[F]
    (want,) = wanted.values()
    torch.testing.assert_close(next(iter(found.values())), want, atol=1e-6, rtol=1e-5)


def test_the_monitor_measures_the_same(base: Model, base_dir: Path) -> None:
    module = student(base_dir, "lora")
    monitors = [Monitor({"forget": FORGET}, base.processor, 96, MAX_LENGTH, ALONE) for _ in range(2)]
    cache = build_tower_cache(module, monitors[1].pictures, base.processor, ALONE)
    assert cache is not None and len(cache) == 2
    monitors[1].features = cache
    wanted = monitors[0].measure(module, 0)
    with pytest.MonkeyPatch.context() as patch:
        forbid_tower(module, patch)
        assert monitors[1].measure(module, 0) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_training_is_the_same_with_batches_made_ahead(
    base_dir: Path, world: World, tmp_path: Path, prefetch: int
) -> None:
    """Two micro-batches a step, two steps; ``prefetch`` 0 against what the loop does by itself is a fixed point."""
    lines: list[list[dict[str, Any]]] = []
    for depth in (0, prefetch):
        model = load_model(base_dir, dtype="fp32", device="cpu")
        model.module = add_lora(model.module, 4, 8.0, model.family, seed=1)
        folder = tmp_path / str(len(lines))
        run(
            StepModule(model.module, model.family),
            model,
            OBJECTIVE,
            world,
            folder,
            steps=2,
            accumulation=2,
            prefetch=depth,
        )
        lines.append(metrics(folder))
    keys = ("step", "loss", "parts", "grad_norm", "real_tokens")
    assert [[line[k] for k in keys] for line in lines[0]] == [[line[k] for k in keys] for line in lines[1]]


def test_a_parked_tower_comes_back(base_dir: Path) -> None:
    module = student(base_dir, "copy")
    towers = [module.family.tower(m) for m in (module.student, module.reference) if m is not None]
    with pytest.raises(RuntimeError, match="stop"), parked(module, torch.device("meta")):
        assert all(p.device.type == "cpu" for t in towers if t is not None for p in t.parameters())
        raise RuntimeError("stop")
    assert all(p.device.type == "meta" for t in towers if t is not None for p in t.parameters())


def test_the_cache_knows_its_pictures_only() -> None:
    cache = TowerCache({"a": 0}, torch.ones(1, 2, 3), 0.0)
    with pytest.raises(KeyError):
        cache([picture(0)])
