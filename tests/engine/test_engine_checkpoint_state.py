"""What is saved is all there is: resumed runs are the same bits, in every precision and wherever the optimiser lies."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_support import metrics, run
from safetensors import safe_open
from torch import nn

from clear_dist.engine.checkpoint_files import file_name, published, read_manifest
from clear_dist.engine.export import release, trainable_tensors
from clear_dist.engine.step import StepModule
from clear_dist.engine.world import World
from clear_dist.methods import FORGET, nll
from clear_dist.models import add_lora, freeze_tower, load_model

OFFLOAD = {"device": "cpu", "pin_memory": False}
FP32_SUMS = {"data_types": {"grad_accum_dtype": "fp32"}}


def go(base_dir: Path, world: World, out: Path, zero: dict[str, Any], **changed: Any) -> dict[str, torch.Tensor]:
    bf16, dropout = changed.get("bf16", False), changed.pop("dropout", 0.0)
    model = load_model(base_dir, dtype="bf16" if bf16 else "fp32", device="cpu")
    if changed.pop("full", False):
        freeze_tower(model.family, model.module)
    else:
        model.module = add_lora(model.module, 4, 8.0, model.family, seed=1)
    for module in model.module.modules():
        if isinstance(module, nn.ModuleDict) and "default" in module and dropout:
            for name, inner in module.items():
                if isinstance(inner, nn.Identity | nn.Dropout):  # LoRA's own, switched off as a rule
                    module[name] = nn.Dropout(dropout)
    ds = {"gradient_clipping": 0.5, "zero_optimization": zero, **changed.pop("ds", {})}
    step = StepModule(model.module.train(), model.family)
    values = {"steps": 4, "schedule": "cosine", "warmup": 0.3, "weight_decay": 0.1, **changed}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # DeepSpeed: bf16 sums of bf16 gradients
        trained = run(step, model, nll(FORGET), world, out, ds_config=ds, **values)
    state = trainable_tensors(trained, world)
    release(trained)
    return state


def assert_resumes(base_dir: Path, world: World, tmp_path: Path, zero: dict[str, Any], **changed: Any) -> Path:
    wanted = go(base_dir, world, tmp_path / "whole", zero, **changed)
    cut = tmp_path / "cut"
    before = go(base_dir, world, cut, zero, stop_after=2, checkpoint_every=1, **changed)
    found = go(base_dir, world, cut, zero, resume=True, checkpoint_every=1, **changed)
    assert found.keys() == wanted.keys() and all(torch.equal(found[n], wanted[n]) for n in wanted)
    assert any(not torch.equal(before[n], wanted[n]) for n in wanted), "nothing was learned after resuming"
    for key in ("loss", "lr", "grad_norm", "real_tokens"):
        assert [line[key] for line in metrics(cut)] == [line[key] for line in metrics(tmp_path / "whole")], key
    return cut


@pytest.mark.parametrize(
    ("zero", "more"),
    [
        ({"stage": 0}, {"bf16": True}),
        ({"stage": 1}, {"bf16": True}),
        ({"stage": 1}, {"bf16": True, "ds": FP32_SUMS}),
        ({"stage": 2, "offload_optimizer": OFFLOAD}, {"bf16": True}),
        ({"stage": 3, "offload_optimizer": OFFLOAD, "offload_param": OFFLOAD}, {"bf16": True}),
        pytest.param({"stage": 3, "sub_group_size": 500}, {"bf16": True}, marks=pytest.mark.slow),
        pytest.param({"stage": 2, "round_robin_gradients": True}, {}, marks=pytest.mark.slow),
        pytest.param({"stage": 0}, {"optimizer": "sgd"}, marks=pytest.mark.slow),
        pytest.param({"stage": 3}, {"optimizer": "sgd"}, marks=pytest.mark.slow),
        pytest.param({"stage": 2}, {"accumulation": 2}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_resuming_is_bit_for_bit(
    base_dir: Path, world: World, tmp_path: Path, zero: dict[str, Any], more: dict[str, Any]
) -> None:
    cut = assert_resumes(base_dir, world, tmp_path, zero, **more)
    with safe_open(published(cut / "checkpoints")[0] / file_name(0), framework="pt") as file:
        kinds = {name.split("/")[0]: file.get_tensor(name).dtype for name in list(file.keys())}
    assert kinds.pop("weight") == torch.float32, "masters, not what is rounded from them"
    assert set(kinds) == ({"step", "exp_avg", "exp_avg_sq"} if more.get("optimizer") != "sgd" else set())


@pytest.mark.slow
def test_an_optimiser_on_nvme(base_dir: Path, world: World, tmp_path: Path) -> None:
    """Flats come from disk one at a time; all weights, since what is small stays in memory."""
    from deepspeed.ops.op_builder import AsyncIOBuilder  # pyright: ignore[reportAttributeAccessIssue]

    if not AsyncIOBuilder().is_compatible(verbose=False):
        pytest.skip("DeepSpeed's async_io cannot be built here: libaio-dev is missing")
    swap = {"device": "nvme", "nvme_path": str(tmp_path), "pin_memory": False, "buffer_count": 5}
    zero = {"stage": 3, "offload_optimizer": swap, "offload_param": {**swap, "buffer_size": 10**6}}
    assert_resumes(base_dir, world, tmp_path, zero, full=True)
    assert list(tmp_path.rglob("*.swp")), "nothing was ever on disk"


@pytest.mark.parametrize("stage", [0, pytest.param(3, marks=pytest.mark.slow)])
def test_what_dropout_draws_is_a_function_of_the_step(base_dir: Path, world: World, tmp_path: Path, stage: int) -> None:
    torch.manual_seed(11)
    assert_resumes(base_dir, world, tmp_path, {"stage": stage}, dropout=0.3)
    plain = go(base_dir, world, tmp_path / "plain", {"stage": stage})
    with_dropout = go(base_dir, world, tmp_path / "again", {"stage": stage}, dropout=0.3)
    assert any(not torch.equal(plain[n], with_dropout[n]) for n in plain), "there was no dropout"


def test_steps_left_out_are_remembered(
    base_dir: Path, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cap counts over the whole run, not from where it was resumed."""
    bad: list[int] = []
    monkeypatch.setattr("clear_dist.engine.one_step.bad_loss", lambda sums: "not finite" if bad else None)

    def second(step: int, line: Any) -> None:
        bad[:] = [1] if step == 1 else []

    zero = {"stage": 2}
    more: dict[str, Any] = {"checkpoint_every": 1, "max_skipped": 1, "on_step": second}
    go(base_dir, world, tmp_path, zero, stop_after=3, **more)
    assert read_manifest(published(tmp_path / "checkpoints")[0]).skipped == 1
    bad[:] = [1]
    with pytest.raises(FloatingPointError, match=r"1 step.s. before it had to be left out"):
        go(base_dir, world, tmp_path, zero, resume=True, **more)
