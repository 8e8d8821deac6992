"""The ranks of a run: process group, device, and what DeepSpeed must be told before its first use."""

from __future__ import annotations

import logging
import os
import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch

from clear_dist.errors import UserError

from .deterministic import fix_order, free_order

T = TypeVar("T")

# Collectives wait this long for a rank that is busy alone (rank 0 drawing data, say). DeepSpeed's own default
# has shrunk to minutes in places, hence explicit.
TIMEOUT = timedelta(minutes=60)
_SET_HERE: dict[str, str] = {}  # of the environment, by a group of one


@dataclass(frozen=True)
class World:
    """rank and size over all machines; local_rank on this one; the device this rank computes on."""

    rank: int
    size: int
    local_rank: int
    device: torch.device

    @property
    def main(self) -> bool:
        return self.rank == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def import_deepspeed() -> Any:
    """``deepspeed``, quiet and without just-in-time compilation on CPU.

    On a CPU, DeepSpeed would compile its shared-memory collective on first use (about a minute of g++); gloo does
    without it. DeepSpeed chooses its accelerator at import, so the choice is made before.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("DEEPSPEED_TIMEOUT", str(int(TIMEOUT.total_seconds() // 60)))
    for name in ("DeepSpeed", "deepspeed"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside DeepSpeed's own imports
        import deepspeed
        from deepspeed.ops import __compatible_ops__
        from deepspeed.utils import logger
    logger.setLevel(logging.WARNING)
    # DeepSpeed still calls collectives that torch 2.13 renamed: once per call, thousands a minute.
    warnings.filterwarnings("ignore", message=".*(all_gather_into_tensor|reduce_scatter_tensor).*")
    if not torch.cuda.is_available():
        __compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def init_world(*, deterministic: bool = False) -> World:
    """Join (or form) the process group: NCCL on GPUs, gloo on CPUs. Idempotent.

    Started by ``deepspeed`` or ``torchrun`` the ranks come from the environment; started plainly, this is a
    group of one. deterministic: see ``deterministic.fix_order``; in force until ``close_world``.
    """
    if deterministic:
        fix_order()
    if "RANK" not in os.environ:
        alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
        alone["MASTER_PORT"] = str(_free_port())
        os.environ.update(alone)
        _SET_HERE.update(alone)
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if torch.cuda.is_available():
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
        backend = "nccl"
    else:
        device, backend = torch.device("cpu"), "gloo"
    if not torch.distributed.is_initialized():
        deepspeed = import_deepspeed()  # before the block: the filter it sets has to outlive it
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            deepspeed.init_distributed(dist_backend=backend, timeout=TIMEOUT, verbose=False)
    return World(torch.distributed.get_rank(), torch.distributed.get_world_size(), local_rank, device)


def ranks_per_node(world: World) -> int:
    """Ranks on each machine, as the launcher says (torchrun: LOCAL_WORLD_SIZE, deepspeed: LOCAL_SIZE); without a
    launcher's word the GPUs of this machine, and on CPUs all ranks."""
    for name in ("LOCAL_WORLD_SIZE", "LOCAL_SIZE"):
        if os.environ.get(name, "").isdigit():
            return min(max(1, int(os.environ[name])), world.size)
    here = torch.cuda.device_count() if world.device.type == "cuda" else world.size
    return min(max(1, here), world.size)


def dry_world() -> World | None:
    """The ranks a launcher means to start, without joining them: what a dry run plans for.

    Rank 0's view; None on every other rank, which has nothing to do. Never waits for anybody.
    """
    if os.environ.get("RANK", "0") != "0":
        return None
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    return World(0, max(1, int(os.environ.get("WORLD_SIZE", "1"))), 0, device)


def barrier(world: World) -> None:
    if world.size > 1:
        torch.distributed.barrier()


def agree(world: World, value: Any) -> Any:
    """Rank 0's value on every rank (small picklable objects made by our own ranks)."""
    if world.size == 1:
        return value
    box = [value]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]


def only_on_main(world: World, work: Callable[[], T]) -> T:
    """``work`` on rank 0; its (small) result, or its mistake, on every rank. A collective."""
    outcome: tuple[T | None, str | None] = (None, None)
    if world.main:
        try:
            outcome = (work(), None)
        except UserError as error:
            outcome = (None, str(error))
    result, message = agree(world, outcome)
    if message is not None:
        raise UserError(message)
    return result


def gather(world: World, value: Any) -> list[Any]:
    """Every rank's value, in rank order, on every rank."""
    if world.size == 1:
        return [value]
    out: list[Any] = [None] * world.size
    torch.distributed.all_gather_object(out, value)
    return out


def close_world() -> None:
    """Leave the group; DeepSpeed forgets its own subgroups too, so that the same process may form another. What a group
    of one has put into the environment goes, or later code would take it for a launcher's word."""
    free_order()
    if torch.distributed.is_initialized():
        import_deepspeed().comm.destroy_process_group()
    while _SET_HERE:
        os.environ.pop(_SET_HERE.popitem()[0], None)


@contextmanager
def joined(*, deterministic: bool = False) -> Iterator[World]:
    """``init_world`` for the time of the block.

    A group of one ends with the block however that ends: the process may go on, and what the group has put into the
    environment would be taken for a launcher's word. Of several ranks, one that failed leaves without the others, which
    may be waiting for it; its launcher ends them.
    """
    world = init_world(deterministic=deterministic)
    try:
        yield world
    except BaseException:
        if world.size == 1:
            close_world()
        raise
    close_world()
