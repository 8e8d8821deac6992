"""What each rank of a test of checkpoints runs: short jobs, one after the other, in one process group.

usage: worker_checkpoint.py JOBS.json. A job: {"out", "base", "stage", "full", and more fields of TrainSettings}.
Rank 0 leaves weights.safetensors in "out", whole, and damages.json: what was found damaged.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engine"))

from engine_support import run  # pyright: ignore[reportMissingImports]

from clear_dist.engine.export import release, trainable_tensors
from clear_dist.engine.step import StepModule
from clear_dist.engine.world import close_world, init_world
from clear_dist.methods import FORGET, RETAIN, nll
from clear_dist.models import add_lora, freeze_tower, load_model


def main() -> None:
    jobs = json.loads(Path(sys.argv[1]).read_text())
    world = init_world()
    for job in jobs:
        out, stage = Path(job.pop("out")), job.pop("stage")
        model = load_model(Path(job.pop("base")), dtype="fp32", device="cpu")
        if job.pop("full"):
            freeze_tower(model.family, model.module)
        else:
            model.module = add_lora(model.module, 4, 8.0, model.family, seed=1)
        # 0: even the smallest parameter is cut.
        zero = {"stage": stage} | ({"stage3_param_persistence_threshold": 0} if stage == 3 else {})
        said: list[str] = []
        trained = run(
            StepModule(model.module, model.family),
            model,
            nll(RETAIN) - 0.2 * nll(FORGET),
            world,
            out,
            ds_config={"gradient_clipping": 0.5, "zero_optimization": zero},
            schedule="cosine",
            weight_decay=0.1,
            on_damage=said.append,
            **job,
        )
        weights = trainable_tensors(trained, world)
        release(trained)
        if world.main:
            save_file(weights, out / "weights.safetensors")
            (out / "damages.json").write_text(json.dumps(said))
    close_world()


if __name__ == "__main__":
    main()
