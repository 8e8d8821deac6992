"""What each rank of a distributed test runs: several short unlearning jobs, one after the other, in one process group.

usage: worker_unlearn.py JOBS.json. A job: {"name", "out", "ds" (object) or null, "config" (UnlearnConfig fields)}.
Rank 0 leaves metrics.jsonl and adapter/ (or model/) in "out".
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from clear_dist.config import UnlearnConfig
from clear_dist.engine.world import close_world, init_world
from clear_dist.models import inspect_model, with_base_weights
from clear_dist.recipes.common import open_data
from clear_dist.recipes.unlearn import objective_of, unlearn


def main() -> None:
    jobs = json.loads(Path(sys.argv[1]).read_text())
    world = init_world(deterministic=any(job["config"].get("deterministic") for job in jobs))
    for job in jobs:
        out = Path(job["out"])
        out.mkdir(parents=True, exist_ok=True)
        values = dict(job["config"])
        if job["ds"] is not None:
            values["ds"] = out.parent / f"{out.name}.ds.json"
            if world.main:
                values["ds"].write_text(json.dumps(job["ds"]))
        config = UnlearnConfig(**values)
        data = open_data(config, world)
        info = with_base_weights(inspect_model(config.original or config.model), config.base_weights)
        unlearn(config, data, objective_of(config), info, out, world, resume=bool(job.get("resume")))
    close_world()


if __name__ == "__main__":
    main()
