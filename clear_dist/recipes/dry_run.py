"""What ``--dry-run`` prints: the command, every option, the DeepSpeed configuration as resolved, and the plan."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import yaml

from clear_dist.config import TrainFields
from clear_dist.engine.stream import Stream
from clear_dist.engine.world import World, ranks_per_node
from clear_dist.models import ModelInfo
from clear_dist.services.progress import console

from .plan_outlook import outlook, with_ds
from .plan_run import job_of_run, resolved_ds, this_gpu
from .plan_table import dry_lines
from .training import Plan


def print_dry_run(config: TrainFields, info: ModelInfo, plan: Plan, stream: Stream, world: World) -> None:
    """Everything that is known before the first weight is loaded. ``world`` as it is to be; nobody has joined it."""
    ds, filled = resolved_ds(plan.ds, plan.numbers(config, world))
    per_node = ranks_per_node(world)
    packed = replace(job_of_run(config, info, plan.objective, stream, world), checkpointing=plan.ds.recompute)
    job = with_ds(packed, plan.ds.config, plan.ds.source, world.device.type)
    found = outlook(job, this_gpu(world), plan.ds.name, plan.ds.why)
    options = yaml.safe_dump(config.model_dump(mode="json", exclude={"dry_run"}), sort_keys=False, allow_unicode=True)
    blocks = {
        "command": [shlex.join(command_of(config, world.size, per_node))],
        "configuration, as a file for --config": options.splitlines(),
        "DeepSpeed configuration, resolved": json.dumps(ds, indent=2).splitlines(),
        "filled in": filled,
        "run": plan.lines(config, world),
        "plan": dry_lines(found),
    }
    for name, lines in blocks.items():
        text = "\n".join(f"  {line}" for line in lines)
        console.print(f"{name}:\n{text}", soft_wrap=True, markup=False)


def command_of(config: TrainFields, ranks: int, per_node: int) -> list[str]:
    """The words of a command that starts this very run: only what differs from the preset is named."""
    if ranks == 1:
        words = ["clear-dist", config.recipe]
    else:
        hosts = ["--hostfile", "hostfile"] if ranks > per_node else []
        words = ["deepspeed", *hosts, "--num_gpus", str(per_node), f"launchers/{config.recipe}.py"]
    kind = type(config)
    chosen = {k: getattr(config, k) for k in ("preset", "method", "objective", "data") if getattr(config, k, None)}
    usual = kind(**chosen)
    for name in kind.model_fields:
        value = getattr(config, name)
        if name != "dry_run" and (value != getattr(usual, name) or (name in chosen and value != getattr(kind(), name))):
            words += _words("--" + name.replace("_", "-"), value)
    return words


def _words(flag: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [flag if value else flag.replace("--", "--no-", 1)]
    if isinstance(value, Mapping):
        return [word for key, item in value.items() for word in (flag, f"{key}={item}")]
    if isinstance(value, tuple):
        joint = ";" if flag == "--forget-names" else ","
        return [flag, joint.join(map(str, value))]
    return [flag, str(value)]
