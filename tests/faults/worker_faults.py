"""Ranks that are killed on purpose: a process that has imported everything forks two of them for each attempt.

usage: worker_faults.py ATTEMPTS.json. An attempt: {"out", "ds" (object), "config" (UnlearnConfig fields), "resume",
"ranks", "watched" (or not), "kill": null or {"phase", "rank", "at"}}: the rank kills itself with SIGKILL when it comes
to the phase for the at-th time, and the others are killed, as a launcher does. With the phase "moment" it is killed
from outside, ``at`` seconds after its start, wherever it is. One line of JSON an attempt: the ranks' exit statuses.
The product knows nothing of this: what is called in a phase is replaced in the rank's own process.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clear_dist.config import UnlearnConfig
from clear_dist.engine import checkpoint, checkpoint_files
from clear_dist.engine.step import StepModule
from clear_dist.engine.world import close_world, import_deepspeed, init_world
from clear_dist.models import inspect_model, with_base_weights
from clear_dist.recipes.common import open_data
from clear_dist.recipes.unlearn import objective_of, unlearn
from clear_dist.types import UserError

LIMIT = 120  # seconds until a hang is called one


def main() -> None:
    deepspeed = import_deepspeed()
    for attempt in json.loads(Path(sys.argv[1]).read_text()):
        print(json.dumps({"out": attempt["out"], "kill": attempt["kill"], "statuses": fork(attempt, deepspeed)}))
        sys.stdout.flush()


def fork(attempt: dict[str, Any], deepspeed: Any) -> list[int]:
    """Start the ranks, wait for all; once one was killed, so are the others."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    ranks: dict[int, int] = {}
    for rank in range(attempt["ranks"]):
        pid = os.fork()
        if pid == 0:
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(attempt["ranks"]))
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
            status = 1
            try:
                be_rank(attempt, rank, deepspeed)
                status = 0
            except UserError as error:
                print(error, file=sys.stderr)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        ranks[pid] = rank
    statuses = [0] * len(ranks)
    until = time.monotonic() + LIMIT
    kill = attempt["kill"] or {}
    moment = time.monotonic() + kill["at"] if kill.get("phase") == "moment" else None
    left = set(ranks)
    while left:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            left.discard(pid)
            statuses[ranks[pid]] = os.waitstatus_to_exitcode(status)
        if moment is not None and time.monotonic() > moment and (aim := [p for p in left if ranks[p] == kill["rank"]]):
            os.kill(aim[0], signal.SIGKILL)
            moment = None
        if (pid and statuses[ranks[pid]] == -signal.SIGKILL) or time.monotonic() > until:
            for other in left:
                os.kill(other, signal.SIGKILL)
        time.sleep(0.01)
    return statuses


def be_rank(attempt: dict[str, Any], rank: int, deepspeed: Any) -> None:
    kill = attempt["kill"]
    if kill is not None and rank == kill["rank"] and kill["phase"] != "moment":
        arm(kill["phase"], kill["at"], deepspeed)
    out = Path(attempt["out"])
    out.mkdir(parents=True, exist_ok=True)
    if attempt.get("watched"):
        watch(out.parent / f"{out.name}.pictures{rank}")
    ds = out.parent / f"{out.name}.ds.json"
    if rank == 0:
        ds.write_text(json.dumps(attempt["ds"]))
    world = init_world()
    config = UnlearnConfig(**attempt["config"], out=out, ds=ds)
    data = open_data(config, world)
    info = with_base_weights(inspect_model(config.original or config.model), config.base_weights)
    unlearn(config, data, objective_of(config), info, out, world, resume=attempt["resume"])
    close_world()


def watch(file: Path) -> None:
    """Writes down how many image tokens each forward pass of this rank has, a line each."""
    original = StepModule.forward

    def counted(self: StepModule, batch: Any, *args: Any, **kwargs: Any) -> Any:
        if self.training:
            with file.open("a") as out:
                out.write(f"{batch.image_slots.numel()}\n")
        return original(self, batch, *args, **kwargs)

    StepModule.forward = counted  # pyright: ignore[reportAttributeAccessIssue]


def arm(phase: str, at: int, deepspeed: Any) -> None:
    """The at-th call of what makes up the phase is the last this process makes."""
    owner, name = {
        "forward": (StepModule, "forward"),
        "backward": (deepspeed.DeepSpeedEngine, "backward"),
        "step": (deepspeed.DeepSpeedEngine, "step"),
        "full disk": (checkpoint, "write_tensors"),
        "write": (checkpoint_files.HashedFile, "write"),  # a tensor's bytes: half a file is there
        "files": (checkpoint_files, "write_manifest"),  # all files, no manifest
        "manifest": (checkpoint_files, "sync_folder"),  # the manifest, not yet renamed
        "renamed": (checkpoint, "prune"),
        "pruning": (checkpoint_files.shutil, "rmtree"),
        "rereading": (checkpoint._Reading, "_read"),
        "loading": (checkpoint, "put_back"),
    }[phase]
    original: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls < at:
            return original(*args, **kwargs)
        if phase == "full disk":  # as fsync has it: the file is there
            original(*args, **kwargs)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if phase == "backward":  # inside, once the gradient has begun to flow
            args[1].register_hook(lambda gradient: die())
            return original(*args, **kwargs)
        if phase == "write":
            args[0]._file.write(bytes(args[1])[: len(args[1]) // 2])
            args[0]._file.flush()
        die()

    setattr(owner, name, counted)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
