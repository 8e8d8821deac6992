"""What each rank of the bad-data test does: it opens its own copy of a dataset, and says what came of it.

usage: worker_bad_data.py JOBS.json. A job: [COPIES, fail|skip, OUT]. The copies are COPIES/0, COPIES/1; every rank
leaves OUT/RANK.json: {"digest", "skipped"} or {"refused"}.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from clear_dist.config import UnlearnConfig
from clear_dist.engine.world import close_world, init_world
from clear_dist.recipes.common import open_data
from clear_dist.types import UserError


def main() -> None:
    world = init_world()
    for copies, mode, to in json.loads(Path(sys.argv[1]).read_text()):
        out = Path(to)
        os.environ["CLEAR_DIST_CACHE"] = str(out / f"cache{world.rank}")  # two hosts share nothing
        values = {"data": f"{copies}/{world.rank}", "modality": "visual", "on_bad_data": mode, "out": out / "run"}
        try:
            data = open_data(UnlearnConfig(**values), world)
            found = {"digest": data.digest, "skipped": data.skipped}
        except UserError as error:
            found = {"refused": str(error)}
        (out / f"{world.rank}.json").write_text(json.dumps(found))
    close_world()


if __name__ == "__main__":
    main()
