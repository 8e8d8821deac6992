"""A farm as one job of Slurm, by submitit: one node, whose workers are those of ``local``.

SQLite is for one host, so the job is one node with N workers, not an array of jobs; many nodes are for Ray. When its
time is over, Slurm signals the job, which goes back into the queue and continues where it was.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clear_dist.errors import UserError

from .folder import read_farm_file
from .local import run_local
from .status import Status, read_status

LOOK = 10.0  # seconds between looks at the job: it is asked of Slurm, which is shared


@dataclass(frozen=True)
class NodeJob:
    """What the job does; submitit writes it down, and calls ``checkpoint`` when time is up."""

    folder: str
    workers: int
    time_limit: float | None

    def __call__(self) -> None:
        devices = [d for d in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if d]
        run_local(Path(self.folder), self.workers, devices=devices, time_limit=self.time_limit)

    def checkpoint(self) -> Any:
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def run_slurm(
    folder: Path,
    workers: int,
    on_status: Callable[[Status], None] = lambda status: None,
    *,
    minutes: int = 240,
    gpus: int = 0,
    partition: str | None = None,
    time_limit: float | None = None,
    cluster: str | None = None,
    look: float = LOOK,
) -> Status:
    """Submit what is left of the farm at ``folder`` as a job, and wait for it; as ``local.run_local``.

    Args:
        folder: on a filesystem that the node shares. minutes: of the job; gpus: of its node, shared by the workers.
        cluster: submitit's executor; None: Slurm where it is found, else a process on this machine.

    Raises:
        UserError: also where submitit is missing, or the job failed (with the end of what it said).
    """
    try:
        import submitit
    except ImportError:
        raise UserError('--executor slurm: submitit is not installed; pip install "clear-dist[farm]"') from None
    threads = int(read_farm_file(folder).head.get("threads", 1))
    executor = submitit.AutoExecutor(folder=folder / "logs", cluster=cluster)
    more = {} if partition is None else {"slurm_partition": partition}
    executor.update_parameters(
        name="shadow-farm", nodes=1, tasks_per_node=1, cpus_per_task=workers * threads, gpus_per_node=gpus,
        timeout_min=minutes, **more,
    )  # fmt: skip
    job = executor.submit(NodeJob(str(folder.absolute()), workers, time_limit))
    try:
        while not job.done():
            on_status(read_status(folder, source="sidecars"))
            time.sleep(look)
        error = job.exception()
    except BaseException:
        job.cancel()
        raise
    if error is not None:
        raise UserError(f"job {job.job_id} of the farm failed; see {folder / 'logs'}: {str(error)[-2000:]}")
    status = read_status(folder)
    on_status(status)
    return status
