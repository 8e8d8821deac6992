"""Which weights of a training run are kept, by a rule stated beforehand (``--keep best``).

    kept = the evaluated step, after the first, that maximises  min(1 - f/f0, r/r0);  the earliest of equals

f and r are ``exact/forget`` and ``exact/retain`` (see ``engine.monitor``) at that step, f0 and r0 at step 0. The rule
looks at both sides: more forgetting is worth nothing once retention is the smaller of the two. It reads training
questions only, never those of the final evaluation. A side of which nothing was known at step 0 (f0 or r0 is 0) is left
out; step 0 itself is the yardstick, never the choice.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from clear_dist.engine.export import trainable_tensors
from clear_dist.engine.loop import Trained
from clear_dist.engine.step import StepModule
from clear_dist.engine.world import World, agree, barrier
from clear_dist.types import UserError

FORGET, RETAIN = "exact/forget", "exact/retain"
FOLDER, NOTE = "best", "best.json"


def score(start: Mapping[str, float], now: Mapping[str, float]) -> float:
    """min(1 - f/f0, r/r0); a side with a zero at the start is left out, and 0 where both are.

    >>> score({"exact/forget": 0.8, "exact/retain": 0.5}, {"exact/forget": 0.2, "exact/retain": 0.45})
    0.75
    """
    sides = []
    if start[FORGET] > 0:
        sides.append(1 - now[FORGET] / start[FORGET])
    if start[RETAIN] > 0:
        sides.append(now[RETAIN] / start[RETAIN])
    return min(sides, default=0.0)


class KeepBest:
    """The best weights so far, on disk under ``RUN/best/``: they survive a resume and cost no memory.

    ``best.json`` says where the run began (``start``), which step is kept and why (``step``, ``score``), and in which
    file (``weights``).
    """

    def __init__(self, run_dir: Path, module: StepModule, world: World) -> None:
        self._folder = run_dir / FOLDER
        self._module, self._world = module, world
        self._note: dict[str, Any] | None = agree(world, self._read() if world.main else None)

    @property
    def step(self) -> int | None:
        """The step whose weights are kept; None before the first evaluation after step 0."""
        return None if self._note is None else self._note["step"]

    def on_eval(self, step: int, figures: Mapping[str, float]) -> None:
        """Judge the weights as they are now, after ``step`` optimiser steps. Step 0 begins anew.

        A collective: every rank calls it with the same figures.

        Raises:
            UserError: no figure for the forget or the retain set, or a run that goes on without its first one.
        """
        lacking = [name for name in (FORGET, RETAIN) if name not in figures]
        if lacking:
            raise UserError(f"--keep best: {' and '.join(lacking)} cannot be measured, the set being empty; use last.")
        if step == 0:
            start = {name: figures[name] for name in (FORGET, RETAIN)}
            self._write({"v": 1, "start": start, "step": None, "score": None, "weights": None})
            return
        if self._note is None:
            raise UserError(
                f"{self._folder / NOTE}: missing or damaged, so that step {step} has nothing to be compared with. "
                "Start over with --resume never and another --out."
            )
        value = score(self._note["start"], figures)
        if self.step is not None and value <= self._note["score"]:
            return
        # The loop has made no Trained yet; gathering needs nothing of it but the module.
        tensors = trainable_tensors(Trained(None, self._module, step, 0.0), self._world)
        self._write({**self._note, "step": step, "score": value, "weights": f"step_{step:08d}.safetensors"}, tensors)

    def tensors(self) -> dict[str, Tensor] | None:
        """name -> CPU tensor of the kept trainable parameters, as ``engine.export.trainable_tensors`` has them (empty
        on ranks other than 0); None where no step was judged."""
        if self._note is None or self.step is None:
            return None
        return load_file(self._folder / self._note["weights"]) if self._world.main else {}

    def _write(self, note: dict[str, Any], tensors: Mapping[str, Tensor] | None = None) -> None:
        """Weights first, then, by a rename, the note that names them: dying in between leaves the former choice."""
        self._note = note
        if self._world.main:
            self._folder.mkdir(parents=True, exist_ok=True)
            if tensors is not None:
                save_file(
                    {name: tensor.contiguous() for name, tensor in tensors.items()}, self._folder / note["weights"]
                )
            part = self._folder / f"{NOTE}.part"
            part.write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
            os.replace(part, self._folder / NOTE)
            for old in self._folder.glob("*.safetensors"):
                if old.name != note["weights"]:
                    old.unlink()
        barrier(self._world)

    def _read(self) -> dict[str, Any] | None:
        """The note of an earlier start; None where there is none, or it is damaged."""
        try:
            note = json.loads((self._folder / NOTE).read_text(encoding="utf-8"))
            start = {name: float(note["start"][name]) for name in (FORGET, RETAIN)}
            if note["step"] is None:
                return {"v": 1, "start": start, "step": None, "score": None, "weights": None}
            step, value = int(note["step"]), float(note["score"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        weights = f"step_{step:08d}.safetensors"
        there = (self._folder / weights).is_file()
        return {"v": 1, "start": start, "step": step, "score": value, "weights": weights} if there else None
