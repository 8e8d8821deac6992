"""Checkpoints of two ranks: damage to any file is found, and any number of ranks, at any stage, goes on from them."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed.ranks import ROOT, run_ranks
from safetensors.torch import load_file
from torch import Tensor

from clear_dist.engine.checkpoint import Checkpoints
from clear_dist.engine.checkpoint_files import MANIFEST, file_name, problems, published, read_manifest
from clear_dist.engine.export import release, trainable_tensors
from clear_dist.engine.step import StepModule
from clear_dist.engine.world import World
from clear_dist.methods import FORGET, nll
from clear_dist.models import add_lora, load_model
from clear_dist.types import UserError

sys.path.insert(0, str(ROOT / "tests" / "engine"))
from engine_support import run, write_model  # pyright: ignore[reportMissingImports]

WORKER = Path(__file__).with_name("worker_checkpoint.py")
STEPS, STOPPED, EVERY = 6, 4, 2
STAGES = (0, 1, 2, 3)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("base"), seed=5)


@pytest.fixture(scope="module")
def saved(base: Path, tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """``lora0`` .. ``full3``: runs of two ranks that stopped with checkpoints; ``whole`` ones did not stop."""
    folder = tmp_path_factory.mktemp("saved")
    jobs = [job(base, folder / f"lora{stage}", stage, stop_after=STOPPED) for stage in STAGES]
    jobs += [job(base, folder / f"full{stage}", stage, full=True, stop_after=STOPPED) for stage in (1, 3)]
    jobs += [job(base, folder / f"whole-lora{stage}", stage, checkpoint_every=0) for stage in STAGES]
    jobs += [job(base, folder / f"whole-full{stage}", stage, full=True, checkpoint_every=0) for stage in (1, 3)]
    go(2, jobs, folder, cache)
    return folder


def job(base: Path, out: Path, stage: int, full: bool = False, **more: Any) -> dict[str, Any]:
    what = {"out": str(out), "base": str(base), "stage": stage, "full": full, "steps": STEPS}
    return {**what, "checkpoint_every": EVERY, **more}


def go(ranks: int, jobs: Sequence[dict[str, Any]], folder: Path, cache: Path) -> None:
    file = folder / f"jobs{ranks}.json"
    file.write_text(json.dumps(jobs))
    run_ranks(ranks, WORKER, [str(file)], cache)


def worst(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys() and a
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.mark.distributed
def test_two_ranks_go_on_bit_for_bit_and_others_to_rounding(
    saved: Path, base: Path, tmp_path: Path, cache: Path
) -> None:
    """From two ranks to two, one and four, from each stage to each."""
    for ranks, pairs in {2: [(s, s) for s in STAGES], 4: [(3, 3), (1, 2), (2, 0), (0, 3)]}.items():
        jobs = [job(base, tmp_path / f"{ranks}-{a}{b}", b, resume=True) for a, b in pairs]
        for (a, _), made in zip(pairs, jobs, strict=True):
            shutil.copytree(saved / f"lora{a}", made["out"])
        go(ranks, jobs, tmp_path, cache)
        for a, b in pairs:
            out, whole = tmp_path / f"{ranks}-{a}{b}", saved / f"whole-lora{b}"
            found, wanted = (load_file(run / "weights.safetensors") for run in (out, whole))
            assert worst(found, wanted) <= (0.0 if ranks == 2 else 2e-6), (ranks, a, b)
            lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
            assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
            assert read_manifest(published(out / "checkpoints")[0]).world_size == ranks
    wanted = load_file(saved / "whole-lora0" / "weights.safetensors")
    before = load_file(saved / "lora0" / "weights.safetensors")
    assert worst(wanted, before) > 1e-4, "the last two steps moved something, so the comparisons say something"


@pytest.mark.distributed
def test_one_rank_goes_on_from_two_at_any_stage(saved: Path, base: Path, tmp_path: Path, cache: Path) -> None:
    pairs = [("lora", a, b) for a in STAGES for b in STAGES] + [("full", 3, 0), ("full", 1, 3)]
    jobs = [job(base, tmp_path / f"{k}{a}{b}", b, full=k == "full", resume=True) for k, a, b in pairs]
    for (kind, a, _), made in zip(pairs, jobs, strict=True):
        shutil.copytree(saved / f"{kind}{a}", made["out"])
    go(1, jobs, tmp_path, cache)
    for kind, a, b in pairs:
        wanted = load_file(saved / f"whole-{kind}{a}" / "weights.safetensors")
        found = load_file(tmp_path / f"{kind}{a}{b}" / "weights.safetensors")
        # Adam makes of the rounding of a gradient that is nearly nothing a step of nearly any size below lr, 1e-3.
        assert worst(found, wanted) <= (2e-6 if kind == "lora" else 1e-4), (kind, a, b)
        assert max(float((found[n] - wanted[n]).abs().mean()) for n in wanted) <= 1e-7, (kind, a, b)


@pytest.mark.distributed
def test_one_ranks_file_is_damaged_and_both_take_the_one_before(
    saved: Path, base: Path, tmp_path: Path, cache: Path
) -> None:
    out = tmp_path / "cut"
    shutil.copytree(saved / "lora3", out)
    file = published(out / "checkpoints")[0] / file_name(1)
    damage(file, "flipped")
    go(2, [job(base, out, 3, resume=True)], tmp_path, cache)
    assert len(said := json.loads((out / "damages.json").read_text())) == 1 and said[0].startswith(f"{file}: ")
    found, wanted = (load_file(r / "weights.safetensors") for r in (out, saved / "whole-lora3"))
    assert worst(found, wanted) == 0
    assert [p.name[-1] for p in published(out / "checkpoints")] == ["6", "4"]
    assert not any(problems(p) for p in published(out / "checkpoints"))


def damage(file: Path, how: str) -> None:
    data = bytearray(file.read_bytes())
    if how == "deleted":
        file.unlink()
    elif how == "flipped":
        data[len(data) // 3] ^= 16
        file.write_bytes(data)
    else:
        file.write_bytes(data[: len(data) // 2 if how == "cut in half" else -1])


DAMAGES = ("cut in half", "last byte cut", "flipped", "deleted")


@pytest.fixture
def engine(base: Path, world: World, tmp_path: Path, stage: int) -> Iterator[Any]:
    model = load_model(base, dtype="fp32", device="cpu")
    model.module = add_lora(model.module, 4, 8.0, model.family, seed=1)
    module = StepModule(model.module, model.family)
    trained = run(module, model, nll(FORGET), world, tmp_path / "engine", steps=1, stage=stage)
    yield trained
    release(trained)


@pytest.mark.distributed
@pytest.mark.parametrize("stage", STAGES)
def test_every_file_of_a_checkpoint_damaged_in_turn(
    saved: Path, engine: Any, world: World, tmp_path: Path, stage: int
) -> None:
    """Detected, named, and the one before used; where that is damaged too, refused with both names."""
    whole = saved / f"lora{stage}" / "checkpoints"
    newest, before = published(whole)
    names = sorted(path.name for path in newest.iterdir())
    assert names == [MANIFEST, file_name(0), file_name(1)]
    assert Checkpoints(before.parent, world).load(engine.engine) == STOPPED
    state = {}
    for name in names:
        for how in DAMAGES:
            folder = tmp_path / f"{name}-{how}"
            shutil.copytree(whole, folder)
            file = folder / newest.name / name
            damage(file, how)
            assert [p.startswith(f"{file}: ") for p in problems(file.parent)] == [True], (name, how)
            checkpoints = Checkpoints(folder, world)
            assert checkpoints.load(engine.engine) == STOPPED - EVERY, (name, how)
            assert [text.startswith(f"{file}: ") for text in checkpoints.told()] == [True], (name, how)
            weights = trainable_tensors(engine, world)
            state = state or weights
            assert worst(state, weights) == 0
            other = folder / before.name / name
            damage(other, how)
            with pytest.raises(UserError) as refused:
                Checkpoints(folder, world).load(engine.engine)
            assert f"{file}: " in str(refused.value) and f"{other}: " in str(refused.value)
            assert worst(state, trainable_tensors(engine, world)) == 0, "nothing of what is damaged was loaded"
            shutil.rmtree(folder)
    assert any(bool(t.abs().max() > 0) for n, t in state.items() if "lora_B" in n)
    assert all(torch.isfinite(t).all() for t in state.values())
