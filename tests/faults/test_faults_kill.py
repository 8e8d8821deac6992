"""``kill -9`` at every phase of a run of two ranks: what is resumed ends with the same bits as what never stopped."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from clear_dist.engine.checkpoint_files import problems, published

ROOT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("worker_faults.py")
STEPS, EVERY = 20, 2
CONFIG: dict[str, Any] = {
    "method": "npo",
    "set": {"beta": 0.5, "retain_weight": 1.0, "kl_weight": 1.0},
    "global_batch": 4,
    "retain_ratio": 1.0,
    "epochs": 20,
    "max_steps": STEPS,
    "lr": 1e-3,
    "warmup": 0.05,
    "schedule": "cosine",
    "checkpoint_every": EVERY,
    "eval_limit": 1,
}
# (phase, which rank, at which call); a call of "write" is a header or a block of a tensor, a moment is in seconds.
PHASES = (
    ("forward", 1, 5),
    ("write", 1, 9),
    ("backward", 0, 6),
    ("files", 0, 2),
    ("rereading", 1, 1),
    ("step", 1, 3),
    ("manifest", 0, 1),
    ("pruning", 0, 4),
    ("loading", 1, 1),
    ("renamed", 0, 1),
    ("moment", 1, 1.7),
    ("moment", 0, 3.1),
)


def ds(stage: int) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": stage}
    if stage == 3:
        zero["stage3_param_persistence_threshold"] = 0  # even the smallest parameter is cut
    return {"gradient_clipping": 0.5, "zero_optimization": zero}


class Attempts:
    """Runs attempts, two ranks each, in one process that forks them; remembers how many ranks were killed."""

    def __init__(self, model: Path, cache: Path, folder: Path) -> None:
        self.killed, self._folder, self._number = 0, folder, 0
        self._config = {**CONFIG, "original": str(model), "model": str(model)}
        self._environment = {
            **os.environ,
            **{"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CLEAR_DIST_CACHE": str(cache)},
        }

    def attempt(self, out: Path, stage: int, resume: bool, kill: Sequence[Any] | None, **more: Any) -> dict[str, Any]:
        armed = None if kill is None else dict(zip(("phase", "rank", "at"), kill, strict=True))
        config = {**self._config, **more}
        return {"out": str(out), "ds": ds(stage), "config": config, "resume": resume, "ranks": 2, "kill": armed}

    def run(self, attempts: Sequence[Mapping[str, Any]]) -> str:
        """What the ranks had to say. Raises AssertionError where one ended otherwise than it was to; a kill that is
        ``drawn`` may find the run done."""
        self._number += 1
        file = self._folder / f"attempts{self._number}.json"
        file.write_text(json.dumps(attempts))
        done = subprocess.run(
            [sys.executable, str(WORKER), str(file)], env=self._environment, check=False, capture_output=True, text=True
        )
        said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        assert len(said) == len(attempts), f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        for attempt, line in zip(attempts, said, strict=True):
            kill = attempt["kill"]
            if kill is None:
                assert not any(line["statuses"]), f"{line}\n{done.stderr[-6000:]}"
            elif (kill["phase"] == "moment" or attempt.get("drawn")) and line["statuses"] == [0, 0]:
                pass
            elif kill["phase"] == "full disk":
                assert line["statuses"] == [1, 1], f"{line}\n{done.stderr[-6000:]}"
            else:
                assert line["statuses"][kill["rank"]] == -9, f"{done.stdout}\n{done.stderr[-3000:]}"
                self.killed += 1
        return done.stderr


@pytest.fixture
def attempts(
    model: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory, count_kills: Callable[[str, int], None]
) -> Iterator[Attempts]:
    made = Attempts(model, cache, tmp_path_factory.mktemp("attempts"))
    yield made
    count_kills("ranks that trained or saved", made.killed)


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_same(cut: Path, whole: Path) -> None:
    """Every step's numbers and every weight, bit for bit, and nothing half done left behind."""
    assert [line["step"] for line in lines(cut)] == list(range(1, len(lines(whole)) + 1)), "each step once"
    for key in ("loss", "parts", "lr", "grad_norm", "real_tokens"):
        assert [line[key] for line in lines(cut)] == [line[key] for line in lines(whole)], key
    name = "adapter/adapter_model.safetensors" if (whole / "adapter").is_dir() else "model/model.safetensors"
    found, wanted = load_file(cut / name), load_file(whole / name)
    assert found.keys() == wanted.keys() and all(torch.equal(found[n], wanted[n]) for n in wanted)
    assert len(published(cut / "checkpoints")) == len(list((cut / "checkpoints").iterdir())) == 2
    assert not any(problems(checkpoint) for checkpoint in published(cut / "checkpoints"))


@pytest.mark.distributed
def test_killed_in_every_phase(attempts: Attempts, tmp_path: Path) -> None:
    """One ZeRO-3 run, begun once and killed twelve times."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    going = [attempts.attempt(whole, 3, False, None)]
    going += [attempts.attempt(cut, 3, number > 0, kill) for number, kill in enumerate(PHASES)]
    attempts.run([*going, attempts.attempt(cut, 3, True, None)])
    assert_same(cut, whole)


@pytest.mark.distributed
@pytest.mark.parametrize("full", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["lora", "full"])
def test_killed_at_every_stage(attempts: Attempts, tmp_path: Path, full: bool) -> None:
    """LoRA, whose reference is the adapter switched off, and all weights, whose reference is on disk."""
    more = {"full": full, "max_steps": 6}
    going = []
    for stage in (0, 1, 2, 3):
        cut = tmp_path / f"cut{stage}"
        kill = (("backward", "step")[stage % 2], 1, 6)
        going += [
            attempts.attempt(tmp_path / f"whole{stage}", stage, False, None, **more),
            attempts.attempt(cut, stage, False, kill, **more),
            attempts.attempt(cut, stage, True, None, **more),
        ]
    attempts.run(going)
    for stage in (0, 1, 2, 3):
        assert_same(tmp_path / f"cut{stage}", tmp_path / f"whole{stage}")


@pytest.mark.distributed
def test_one_ranks_disk_is_full_and_all_stop(attempts: Attempts, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    said = attempts.run(
        [
            attempts.attempt(whole, 2, False, None, max_steps=6),
            attempts.attempt(cut, 2, False, ("full disk", 1, 2), max_steps=6),
        ]
    )
    assert said.count("step 4 could not be saved (rank 1: No space left on device)") == 2, "both ranks say it"
    assert [p.name for p in (cut / "checkpoints").iterdir()] == ["step_00000002"], "nothing half published"
    attempts.run([attempts.attempt(cut, 2, True, None, max_steps=6)])
    assert_same(cut, whole)


@pytest.mark.soak
@pytest.mark.distributed
def test_killed_fifty_times(attempts: Attempts, tmp_path: Path) -> None:
    """Up to ten kills a run: at phases that are drawn, and at moments of the clock, wherever the run then is."""
    draw = random.Random(0)
    only = {"files": 0, "manifest": 0, "renamed": 0, "pruning": 0}
    whole, begun = tmp_path / "whole", 0
    attempts.run([attempts.attempt(whole, 3, False, None, max_steps=2 * STEPS)])
    while attempts.killed < 50:
        cut = tmp_path / f"cut{begun}"
        going: list[dict[str, Any]] = []
        for number in range(10):
            rank = draw.randrange(2)
            if number % 2:
                kill = ("moment", rank, draw.uniform(0.5, 5.0))
            else:
                phase, _, _ = draw.choice([p for p in PHASES[:10] if number or p[0] != "loading"])
                at = {"write": 9, "loading": 1, "forward": 3, "backward": 3, "step": 3}.get(phase, 1)
                kill = (phase, only.get(phase, rank), at)
            going.append({**attempts.attempt(cut, 3, number > 0, kill, max_steps=2 * STEPS), "drawn": True})
        attempts.run([*going, attempts.attempt(cut, 3, True, None, max_steps=2 * STEPS)])
        assert_same(cut, whole)
        begun += 1
    assert begun <= 10, "most kills came too late"
