"""What each rank of the sharded-evaluation test runs: the same requests on a whole model and on one cut into shards.

usage: worker_predict.py OUT. Every rank leaves OUT/RANK.json: {case: {"whole": [..], "sharded": [..], "shards": [..]}}.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clear_dist.data.load import load_dataset
from clear_dist.engine.predict import ModelPredictor
from clear_dist.engine.shard import shard_model
from clear_dist.engine.world import close_world, init_world
from clear_dist.models import load_model
from clear_dist.types import Example, Prediction, Request

LONGEST = 20


def shares(forget: Sequence[Example]) -> dict[str, list[list[Example]]]:
    """Who asks what: pictures against text, many against one, everything against nothing."""
    seen = [e for e in forget if e.picture is not None][:9]
    text = [e for e in forget if e.picture is None][:5]
    return {"pictures and text": [seen, text], "one": [text[:1], [*seen, *text]], "nothing": [[*text, *seen], []]}


def plain(predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    return [{"text": p.text, "logp": [s.logp for s in p.scored], "top1": p.scored[0].top1} for p in predictions]


def main() -> None:
    out = Path(sys.argv[1])
    world = init_world()
    forget = load_dataset("clear-mini", forget="forget10", seed=0).sets["forget"]
    whole = ModelPredictor(load_model("tiny", dtype="fp32", device=world.device))
    model = load_model("tiny", dtype="fp32")
    # No persistence: small parameters would otherwise never be cut, and the test would prove nothing.
    settings = {"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0}}
    inside = shard_model(model, world, settings)
    sharded = ModelPredictor(model, inside=inside, world=world, token_budget=300)
    found: dict[str, Any] = {"sizes": [p.numel() for p in model.module.parameters()]}
    for case, parts in shares(forget).items():
        mine = [Request(e.question, e.picture, (e.answer, *e.perturbed)) for e in parts[world.rank]]
        found[case] = {
            "whole": plain(whole.predict(mine, LONGEST)),
            "sharded": plain(sharded.predict(mine, LONGEST)),
            "scored": plain(sharded.predict(mine, 0)),
        }
    (out / f"{world.rank}.json").write_text(json.dumps(found))
    close_world()


if __name__ == "__main__":
    main()
