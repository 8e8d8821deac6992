"""What each rank of the test of models that cut pictures by their size runs: whole models, trained.

usage: worker_sized.py OUT FAMILY... Rank 0 leaves OUT/FAMILY.pt, the weights after training under ZeRO-3 on all ranks;
every rank OUT/FAMILY.RANK.json, which of its micro-batches had a picture.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "models"))
from sized_training import ZERO_3, after_training, with_pictures  # type: ignore[import-not-found]

from clear_dist.engine.world import close_world, init_world


def main() -> None:
    out = Path(sys.argv[1])
    world = init_world()
    for family in sys.argv[2:]:
        seen = with_pictures(out / family, world)
        (out / f"{family}.{world.rank}.json").write_text(json.dumps(seen))
        tensors = after_training(out / family, world, out / f"{family}.run", ZERO_3)
        if world.main:
            torch.save(tensors, out / f"{family}.pt")
    close_world()


if __name__ == "__main__":
    main()
