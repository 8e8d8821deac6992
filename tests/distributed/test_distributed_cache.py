"""What the reference says, kept by one rank or by two at any ZeRO stage: the same numbers, and the same training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from .ranks import run_ranks

WORKER = Path(__file__).with_name("worker_cache.py")
ALONE = ["z0", "z0_full", "z0_full_copy", "z0_deep"]
PAIR = ["z0", "z1", "z2_full", "z3", "z3_full", "z3_full_offload", "z3_deep", "z3_sick"]
PLAIN = {"z2_full": "z0_full", "z3_full": "z0_full", "z3_full_offload": "z0_full", "z3_deep": "z0_deep"}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, model: Path, cache: Path) -> Path:
    """Folders ``1`` and ``2``: what so many ranks left."""
    folder = tmp_path_factory.mktemp("caches")
    for ranks, names in ((1, ALONE), (2, PAIR)):
        (folder / str(ranks)).mkdir()
        jobs = folder / f"{ranks}.json"
        jobs.write_text(json.dumps(names))
        run_ranks(ranks, WORKER, [str(model), str(jobs), str(folder / str(ranks))], cache)
    return folder


def close(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys() and wanted
    for name, want in wanted.items():
        torch.testing.assert_close(found[name], want, atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.distributed
@pytest.mark.parametrize("name", [n for n in PAIR if n != "z3_sick"])
def test_two_ranks_keep_and_learn_what_one_does(out: Path, name: str) -> None:
    plain = PLAIN.get(name, "z0")
    close(load_file(out / f"2/{name}.states.safetensors"), load_file(out / f"1/{plain}.states.safetensors"))
    shards = [f"reference-00000-0000{rank}-of-00002.safetensors" for rank in (0, 1)]
    assert sorted(f.name for f in (out / f"2/{name}.cache").iterdir()) == [".lock", "index.json", *shards]
    assert all(len(load_file(out / f"2/{name}.cache" / f)["retain.examples"]) > 0 for f in shards), "ranks share"
    assert losses(out / f"2/{name}") == pytest.approx(losses(out / f"1/{plain}"), rel=1e-6, abs=1e-5)
    close(load_file(out / f"2/{name}.safetensors"), load_file(out / f"1/{plain}.safetensors"))


@pytest.mark.distributed
def test_full_fine_tuning_on_a_cache_is_that_beside_a_frozen_copy(out: Path) -> None:
    assert losses(out / "1/z0_full") == pytest.approx(losses(out / "1/z0_full_copy"), rel=1e-6, abs=1e-5)
    close(load_file(out / "1/z0_full.safetensors"), load_file(out / "1/z0_full_copy.safetensors"))
    first, *_, last = losses(out / "1/z0_full")
    assert abs(first - last) > 1e-2, "nothing is learned, so nothing is shown"


@pytest.mark.distributed
def test_lora_and_full_have_one_original(out: Path) -> None:
    """With the adapter moved away from nothing, its cache is still the original's, as full fine-tuning's is."""
    lora, full = (load_file(out / f"1/{n}.states.safetensors") for n in ("z0", "z0_full"))
    assert full.pop("head").ndim == 2
    close(lora, full)


@pytest.mark.distributed
def test_a_picture_one_rank_cannot_read_stops_all(out: Path) -> None:
    messages = [(out / f"2/z3_sick.{rank}.txt").read_text() for rank in (0, 1)]
    assert messages[0] == messages[1] and "people[99].image" in messages[0]
    assert {f.name for f in (out / "2/z3_sick.cache").iterdir()} == {".lock"}
