"""DeepSpeed files: what is filled in and said, what is refused and how, and that all shipped ones resolve."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clear_dist.engine.ds_config import RunNumbers, check_ds_config, load_ds_config, resolve_ds_config
from clear_dist.types import UserError

SHIPPED = sorted((Path(__file__).resolve().parents[2] / "ds_configs").glob("*.json"))


def numbers(**changed: Any) -> RunNumbers:
    values: dict[str, Any] = {
        "world_size": 2,
        "global_batch": 13,
        "accumulation": 3,
        "bf16": False,
        "lr": 1e-4,
        "weight_decay": 0.01,
    }
    return RunNumbers(**{**values, **changed})


def zero(**entries: Any) -> dict[str, Any]:
    return {"zero_optimization": entries}


def test_auto_values_and_missing_keys_are_filled_and_listed() -> None:
    given = {
        "train_batch_size": "auto",
        "bf16": {"enabled": "auto"},
        "zero_optimization": {"stage": 3, "reduce_bucket_size": "auto", "stage3_prefetch_bucket_size": 7},
        "gradient_clipping": "auto",
    }
    kept = json.loads(json.dumps(given))
    config, filled = resolve_ds_config(given, numbers(bf16=True), "z.json")
    assert given == kept, "the caller's configuration must not change"
    assert config["train_micro_batch_size_per_gpu"] == 3  # ceil(13 / (2 * 3))
    assert config["gradient_accumulation_steps"] == 3
    assert config["train_batch_size"] == 3 * 3 * 2
    assert config["bf16"] == {"enabled": True}
    assert config["gradient_clipping"] == 1.0
    assert config["zero_optimization"] == {"stage": 3, "stage3_prefetch_bucket_size": 7}
    assert "auto" not in json.dumps(config)
    said = "\n".join(filled)
    for line in (
        "train_micro_batch_size_per_gpu = 3",
        "gradient_accumulation_steps = 3",
        "train_batch_size = 18",
        "bf16.enabled = True",
        "gradient_clipping = 1.0",
        "zero_optimization.reduce_bucket_size = DeepSpeed's default",
    ):
        assert line in said
    assert "stage3_prefetch_bucket_size" not in said


def test_an_empty_file_is_stage_0() -> None:
    config, filled = resolve_ds_config({}, numbers(), "z.json")
    assert config["zero_optimization"]["stage"] == 0
    assert config["bf16"] == {"enabled": False}
    assert any("gradient_clipping" in line for line in filled)


def test_what_is_given_stays() -> None:
    config, filled = resolve_ds_config(
        {"gradient_clipping": 0.0, "train_batch_size": 18, "bf16": {"enabled": False}}, numbers(), "z.json"
    )
    assert config["gradient_clipping"] == 0.0
    assert not [line for line in filled if line.startswith(("gradient_clipping", "train_batch_size", "bf16"))]


def test_the_optimizer_is_ours() -> None:
    """No entry that would make DeepSpeed compile an optimiser of its own is left."""
    given = {"optimizer": {"type": "AdamW", "params": {"lr": "auto", "weight_decay": 0.01, "betas": [0.9, 0.999]}}}
    config, _ = resolve_ds_config(given, numbers(), "z.json")
    assert "optimizer" not in config
    assert config["zero_allow_untested_optimizer"] is True
    assert config["zero_force_ds_cpu_optimizer"] is False


@pytest.mark.parametrize("nothing", [None, {"device": "none"}, {"device": None}])
def test_offloading_to_nowhere_is_none(nothing: Any) -> None:
    config, _ = resolve_ds_config(zero(stage=0, offload_optimizer=nothing, offload_param=nothing), numbers(), "z.json")
    assert config["zero_optimization"] == {"stage": 0}


def test_fp16_auto_is_off_and_comments_are_allowed() -> None:
    config, _ = resolve_ds_config({"fp16": {"enabled": "auto"}, "_comment": "mine"}, numbers(), "z.json")
    assert "fp16" not in config


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (zero(stage=4), r"zero_optimization\.stage is 4; expected 0, 1, 2 or 3"),
        (zero(stage=True), r"zero_optimization\.stage is True"),
        (zero(stage="3"), r"zero_optimization\.stage is '3'"),
        (zero(stage=2, offload_param={"device": "cpu"}), r"zero_optimization\.offload_param needs stage 3"),
        (zero(stage=1, stage3_prefetch_bucket_size=1), r"zero_optimization\.stage3_prefetch_bucket_size needs stage 3"),
        (zero(stage=2, zero_quantized_weights=True), r"zero_optimization\.zero_quantized_weights needs stage 3"),
        (zero(stage=2, zero_quantized_gradients=True), r"zero_optimization\.zero_quantized_gradients needs stage 3"),
        (zero(stage=0, offload_optimizer={"device": "cpu"}), r"zero_optimization\.offload_optimizer needs stage 1"),
        (zero(stage=3, offload_param={"device": "nvme"}), r"offload_param\.device is nvme but nvme_path is missing"),
        (zero(stage=3, offload_param="cpu"), r"zero_optimization\.offload_param must be an object"),
        ({"zero_optimization": 3}, "zero_optimization must be an object"),
        ({"bf16": True}, "bf16 must be an object"),
        ({"optimizer": "AdamW"}, "optimizer must be an object"),
        ({"fp16": {"enabled": True}}, r"fp16\.enabled is not supported"),
        ({"fp16": {"enabled": True}, "bf16": {"enabled": True}}, r"fp16\.enabled together with bf16"),
        ({"amp": {"enabled": True}}, "amp .* is not supported"),
        ({"scheduler": {"type": "WarmupLR"}}, "scheduler contradicts --schedule and --warmup"),
        ({"gradient_clipping": -1}, "gradient_clipping is -1"),
        ({"gradient_clipping": "1"}, "gradient_clipping is '1'"),
        ({"train_batch_sizes": 4}, "unknown key 'train_batch_sizes'; did you mean 'train_batch_size'"),
        (zero(stage=3, stage3_max_live_parameter=1), "did you mean zero_optimization.'stage3_max_live_parameters'"),
        ({"nonsense_altogether": 4}, r"unknown key 'nonsense_altogether'.*ds_configs/README\.md"),
    ],
)
def test_contradictions_are_refused_before_anything_is_known_of_the_run(config: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=rf"(?s)^my/z\.json: .*{said}"):
        check_ds_config(config, "my/z.json")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"train_batch_size": 13}, "train_batch_size is 13, but --global-batch on 2 rank.s. make it 18"),
        ({"gradient_accumulation_steps": 1}, "gradient_accumulation_steps is 1, but --micro-batch"),
        ({"train_micro_batch_size_per_gpu": 9}, "train_micro_batch_size_per_gpu is 9"),
        ({"bf16": {"enabled": True}}, r"bf16\.enabled is True, but --dtype resolves to fp32"),
        ({"optimizer": {"type": "Lion"}}, "only AdamW is supported"),
        ({"optimizer": {"params": {"lr": 1e-3}}}, r"optimizer\.params\.lr is 0\.001, but --lr is 0\.0001"),
        ({"optimizer": {"params": {"weight_decay": 1}}}, r"params\.weight_decay is 1, but --weight-decay is 0\.01"),
        ({"optimizer": {"params": {"betas": [0.9, 0.95]}}}, r"optimizer\.params\.betas"),
        ({"optimizer": {"params": [1]}}, r"optimizer\.params must be an object"),
    ],
)
def test_contradictions_with_the_run_are_refused(config: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=rf"^my/z\.json: .*{said}"):
        resolve_ds_config(config, numbers(), "my/z.json")


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file.*ds_configs/z3\.json"):
        load_ds_config(tmp_path / "none.json")
    for text, said in (("{", "not valid JSON"), ("[1]", "expected an object"), ("\xff", "not valid JSON")):
        (tmp_path / "bad.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(UserError, match=rf"bad\.json: {said}"):
            load_ds_config(tmp_path / "bad.json")
    assert check_ds_config(load_ds_config(None), "default") == 0


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_files_resolve(path: Path, ranks: int, bf16: bool) -> None:
    given = load_ds_config(path)
    stage = check_ds_config(given, path.name)
    assert path.stem.startswith(f"z{stage}") or (path.stem, stage) == ("zpp", 3)
    assert "gradient_clipping" in given, "DeepSpeed's own default clips"
    machines = {"device": "cuda", "ranks_per_node": 1} if path.stem == "zpp" else {}
    if machines and ranks == 1:
        pytest.skip("ZeRO++ is for several nodes")
    config, _ = resolve_ds_config(given, numbers(world_size=ranks, bf16=bf16, **machines), path.name)
    assert "auto" not in json.dumps(config)
    assert config["bf16"]["enabled"] is bf16
    batch = config["train_micro_batch_size_per_gpu"] * config["gradient_accumulation_steps"] * ranks
    assert batch == config["train_batch_size"] >= 13


def test_there_are_shipped_files() -> None:
    assert {p.stem for p in SHIPPED} >= {"z0", "z1", "z2", "z3", "z3_offload", "z3_nvme"}
