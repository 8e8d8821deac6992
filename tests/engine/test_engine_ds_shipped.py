"""Shipped DeepSpeed files: found without their folder, the same as the files; ZeRO++ only where it can work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from clear_dist.engine.ds_config import AUTO, RunNumbers, load_ds_config, resolve_ds_config
from clear_dist.engine.ds_shipped import SHIPPED, shipped, shipped_name
from clear_dist.engine.ds_zeropp import fill_zeropp
from clear_dist.engine.world import World, dry_world, ranks_per_node
from clear_dist.types import UserError

NODES = {"world_size": 16, "ranks_per_node": 8, "device": "cuda", "source": "z.json"}


def test_code_and_files_are_the_same(root: Path) -> None:
    files = {path.stem: json.loads(path.read_text()) for path in (root / "ds_configs").glob("*.json")}
    assert files == {name: shipped(name) for name in SHIPPED}
    readme = (root / "ds_configs" / "README.md").read_text()
    assert all(f"| `{name}.json` |" in readme for name in SHIPPED)
    assert all(config["gradient_clipping"] == 1.0 for config in files.values())


def test_a_copy_does_not_change_the_next() -> None:
    shipped("z3")["zero_optimization"]["stage"] = 1
    assert shipped("z3")["zero_optimization"]["stage"] == 3


@pytest.mark.parametrize("given", ["z3", "ds_configs/z3.json"])
def test_found_by_name_where_there_is_no_folder(given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_ds_config(Path(given)) == shipped("z3")


def test_a_file_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "z3").write_text('{"gradient_clipping": 0.5}')
    assert load_ds_config(Path("z3")) == {"gradient_clipping": 0.5}


@pytest.mark.parametrize("given", ["other/z3.json", "z3.json", "z3.yaml", "z4", "ds_configs/deep/z3.json"])
def test_other_paths_are_not_shipped_ones(given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shipped_name(Path(given)) is None
    with pytest.raises(UserError, match="no such file"):
        load_ds_config(Path(given))


def test_a_near_name_is_offered_and_auto_is_for_training() -> None:
    with pytest.raises(UserError, match=r"no such file \(did you mean z3_offload\?\)"):
        load_ds_config(Path("z3_ofload"))
    with pytest.raises(UserError, match="--ds auto is for finetune, unlearn, sweep and plan"):
        load_ds_config(AUTO)


def test_zeropp_is_filled_with_the_ranks_of_a_node() -> None:
    numbers = RunNumbers(16, 32, 1, True, 1e-4, 0.0, device="cuda", ranks_per_node=8)
    config, filled = resolve_ds_config(shipped("zpp"), numbers, "zpp.json")
    assert config["zero_optimization"]["zero_hpz_partition_size"] == 8
    assert "zero_optimization.zero_hpz_partition_size = 8, the ranks of a node" in filled
    assert "auto" not in json.dumps(config)


@pytest.mark.parametrize(
    ("zero", "machines", "said"),
    [
        (shipped("zpp")["zero_optimization"], {"device": "cpu"}, r"zero_quantized_weights needs GPUs.*z3\.json"),
        (shipped("zpp")["zero_optimization"], {"world_size": 8}, "zero_hpz_partition_size needs two nodes"),
        ({"zero_quantized_gradients": True}, {"world_size": 4}, "zero_quantized_gradients needs two nodes"),
        ({"zero_hpz_partition_size": 3}, {}, "zero_hpz_partition_size is 3, which does not divide 8 ranks"),
        ({"zero_hpz_partition_size": 16}, {}, "zero_hpz_partition_size is 16, which does not divide 8 ranks"),
        ({"zero_hpz_partition_size": "8"}, {}, "zero_hpz_partition_size is '8'; expected a number"),
        ({"zero_hpz_partition_size": True}, {}, "zero_hpz_partition_size is True; expected a number"),
        (
            {"zero_quantized_gradients": True},
            {"world_size": 20},
            "zero_quantized_gradients needs as many ranks on every",
        ),
    ],
)
def test_zeropp_is_refused_where_it_cannot_work(zero: dict[str, Any], machines: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=rf"^z\.json: zero_optimization\.{said}"):
        fill_zeropp(dict(zero), **{**NODES, **machines})


@pytest.mark.parametrize("zero", [{}, {"zero_hpz_partition_size": 1}, {"zero_quantized_weights": False}])
def test_without_zeropp_nothing_is_asked_of_the_machines(zero: dict[str, Any]) -> None:
    assert fill_zeropp(dict(zero), **{**NODES, "world_size": 1, "ranks_per_node": 1, "device": "cpu"}) == ()


def test_quantised_weights_alone_work_on_one_node() -> None:
    assert fill_zeropp({"zero_quantized_weights": True}, **{**NODES, "world_size": 8}) == ()


def test_ranks_of_a_node_come_from_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(0, 16, 0, torch.device("cpu"))
    for name in ("LOCAL_WORLD_SIZE", "LOCAL_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert ranks_per_node(world) == 16, "on CPUs without a launcher's word all ranks are here"
    monkeypatch.setenv("LOCAL_SIZE", "4")
    assert ranks_per_node(world) == 4
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert ranks_per_node(world) == 8
    assert ranks_per_node(World(0, 2, 0, torch.device("cpu"))) == 2


def test_a_dry_world_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    alone = dry_world()
    assert alone is not None and (alone.rank, alone.size) == (0, 1)
    monkeypatch.setenv("WORLD_SIZE", "16")
    planned = dry_world()
    assert planned is not None and planned.size == 16 and planned.main
    monkeypatch.setenv("RANK", "3")
    assert dry_world() is None
    assert not torch.distributed.is_initialized()
