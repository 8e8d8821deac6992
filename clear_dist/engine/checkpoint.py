"""Checkpoints of a run: published by rename, loaded without running anybody's code.

Layout: ``checkpoints/step_00000120/`` with DeepSpeed's shards, and ``checkpoints/latest.json`` naming the newest.
Data order, schedule and sampling are functions of (seed, step), so the step is all that has to be remembered beside
weights and optimiser.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from clear_dist.types import UserError

from .world import World, agree, barrier, gather


@contextlib.contextmanager
def _weights_only() -> Iterator[None]:
    """``torch.load`` with ``weights_only=True``, whatever the caller asks for.

    DeepSpeed unpickles its shards with weights_only=False, which executes whatever a shard contains. The few
    harmless classes its own shards need are allowed by name.
    """
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    original = torch.load

    def load(*args: Any, **kwargs: Any) -> Any:
        kwargs["weights_only"] = True
        return original(*args, **kwargs)

    torch.load = load
    try:
        with torch.serialization.safe_globals([LossScaler, DynamicLossScaler, ZeroStageEnum, fragment_address, set]):
            yield
    finally:
        torch.load = original


def save_checkpoint(engine: Any, folder: Path, step: int, world: World, keep: int = 2) -> None:
    """Write the state after ``step`` optimiser steps; the previous ``keep - 1`` stay."""
    tag = f"step_{step:08d}"
    staging = folder / ".writing"
    if world.main:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
    barrier(world)
    engine.save_checkpoint(
        str(staging), tag=tag, client_state={"clear_dist_step": step}, save_latest=False, exclude_frozen_parameters=True
    )
    barrier(world)
    if world.main:
        final = folder / tag
        shutil.rmtree(final, ignore_errors=True)
        os.replace(staging / tag, final)
        shutil.rmtree(staging, ignore_errors=True)
        pointer = folder / ".latest.tmp"
        pointer.write_text(json.dumps({"v": 1, "tag": tag, "step": step, "world_size": world.size}), encoding="utf-8")
        os.replace(pointer, folder / "latest.json")
        for old in sorted(p for p in folder.glob("step_*") if p.is_dir())[:-keep]:
            shutil.rmtree(old, ignore_errors=True)
    barrier(world)


def latest_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The newest published checkpoint ({tag, step, world_size}), or None."""
    pointer = folder / "latest.json"
    if not pointer.is_file():
        return None
    try:
        found = json.loads(pointer.read_text(encoding="utf-8"))
        tag, step, size = str(found["tag"]), int(found["step"]), int(found["world_size"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{pointer}: not a checkpoint pointer; delete {folder} to start over.") from None
    if Path(tag).name != tag or not (folder / tag).is_dir():
        raise UserError(f"{pointer} names {tag!r}, which is not a folder of {folder}; delete {folder} to start over.")
    return {"tag": tag, "step": step, "world_size": size}


def load_checkpoint(engine: Any, folder: Path, world: World) -> int:
    """Restore the newest checkpoint of ``folder``; returns its step.

    Raises:
        UserError: none there, or one written by another number of ranks (a sharded optimiser does not fit).
    """
    found = agree(world, latest_checkpoint(folder))
    if found is None:
        raise UserError(
            f"{folder}: no checkpoint to resume from. Start without --resume, or name the run that has one."
        )
    if found["world_size"] != world.size:
        raise UserError(
            f"{folder}: the checkpoint was written by {found['world_size']} rank(s), this run has {world.size}. "
            f"Resume on {found['world_size']} rank(s), or start over with --resume never and another --out."
        )
    _inspect(folder / found["tag"], world)
    with _weights_only():
        path, state = engine.load_checkpoint(str(folder), tag=found["tag"], load_module_strict=False)
    if path is None or state.get("clear_dist_step") != found["step"]:
        raise UserError(f"{folder / found['tag']}: does not hold step {found['step']}; delete {folder} to start over.")
    return found["step"]


def _inspect(folder: Path, world: World) -> None:
    """Open every shard, without its tensors, before any rank loads one: what one rank finds stops all of them, where
    a rank that failed inside DeepSpeed's loading would leave the others waiting."""
    problem: str | None = None
    files = sorted(folder.rglob("*.pt"))
    with _weights_only():
        for file in files[world.rank :: world.size]:
            try:
                torch.load(file, map_location="cpu", mmap=True)
            except (pickle.UnpicklingError, RuntimeError, ValueError, OSError, EOFError) as error:
                what = "would run code, or is damaged" if isinstance(error, pickle.UnpicklingError) else "damaged"
                problem = f"{file}: {what} ({str(error).splitlines()[0]})"
    problems = [p for p in gather(world, problem) if p]
    if problems or not files:
        raise UserError(f"{problems[0] if problems else f'{folder}: empty'}. Delete {folder.parent} to start over.")
