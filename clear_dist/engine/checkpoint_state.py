"""What an engine has to remember of its weights and optimiser, taken from and put back into DeepSpeed's shards.

Every ZeRO stage steps on *flats*: tensors of this rank in the precision of the master weights, each made of parts of
parameters one after the other. The optimiser's state belongs to flats and is cut like them. Written down part by part
under the names of parameters, it fits any number of ranks and any stage. Where DeepSpeed (0.19) keeps flats:

=====================  ========================================================  ==============================
stage                  flats                                                     a parameter's place in them
=====================  ========================================================  ==============================
0, fp32                the parameters themselves                                 all of it
0, bf16                ``FP16_UnfusedOptimizer.fp32_groups``                     all of it
1, bf16 (fp32 sums)    ``BF16_Optimizer.fp32_groups_flat_partition``             ``parameter._hp_mapping``
1, 2                   ``single_partition_of_fp32_groups`` (CPU with offload)    ``parameter._hp_mapping``
3                      ``fp32_partitioned_groups_flat`` (CPU, or on NVMe)        ``grad_position``
=====================  ========================================================  ==============================

What is not here is a function of (seed, step): the order of the data, what is sampled from it, learning rate, random
numbers (``loop``). Frozen parameters are the model's, which training starts from again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .checkpoint_tensors import WEIGHT, Held, Part, SavedTensors
from .gradients import on_nvme


@dataclass(frozen=True)
class Flat:
    """A tensor the optimiser steps on, and what it is made of: (offset, part), padding left out."""

    tensor: Tensor
    parts: tuple[tuple[int, Part], ...]


def trained_elements(engine: Any) -> dict[str, int]:
    """name -> elements of every parameter that is trained."""
    named = engine.module.named_parameters()
    return {name: int(getattr(p, "ds_numel", p.numel())) for name, p in named if p.requires_grad}


def flats_of(engine: Any) -> list[Flat]:
    """This rank's flats, in the same order each time."""
    optimizer, stage = engine.optimizer, int(engine.zero_optimization_stage())
    names = {id(p): name for name, p in engine.module.named_parameters()}
    if stage == 0:
        masters: dict[int, Tensor] = {id(p): master for p, master in _masters(engine)}
        trained = [(name, p) for name, p in engine.module.named_parameters() if p.requires_grad]
        return [
            Flat(masters[id(p)] if masters else p, ((0, Part(name, 0, p.numel(), p.numel())),)) for name, p in trained
        ]
    if stage == 3:
        flats, groups = optimizer.fp32_partitioned_groups_flat, optimizer.fp16_groups
        cut = [tuple(_parts_of_stage_3(optimizer, group, names)) for group in groups]
    else:
        bf16 = type(optimizer).__name__ == "BF16_Optimizer"
        flats = optimizer.fp32_groups_flat_partition if bf16 else optimizer.single_partition_of_fp32_groups
        groups = optimizer.bf16_groups if bf16 else optimizer.bit16_groups
        cut = [tuple(_parts_mapped(group, names)) for group in groups]
    return [Flat(flat, parts) for flat, parts in zip(flats, cut, strict=True)]


def _masters(engine: Any) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """(parameter, fp32 master) at stage 0; none where the parameters are their own masters."""
    for low, high in zip(
        getattr(engine.optimizer, "fp16_groups", []), getattr(engine.optimizer, "fp32_groups", []), strict=True
    ):
        yield from zip(low, high, strict=True)


def _parts_mapped(group: Sequence[Any], names: dict[int, str]) -> Iterator[tuple[int, Part]]:
    for p in group:
        if p._hp_mapping is not None:  # None: all of it is another rank's
            inside, here = p._hp_mapping.lp_fragment_address, p._hp_mapping.hp_fragment_address
            yield int(here.start), Part(names[id(p)], int(inside.start), int(here.numel), p.numel())


def _parts_of_stage_3(optimizer: Any, group: Sequence[Any], names: dict[int, str]) -> Iterator[tuple[int, Part]]:
    for p in group:
        if p.requires_grad:
            _, offset, count = optimizer.grad_position[optimizer.get_param_id(p)]
            # The last ranks' parts may reach beyond the parameter; what lies there is nobody's.
            start = min(int(p.ds_numel), optimizer._get_param_partition_rank(p) * int(p.partition_numel()))
            yield (
                int(offset),
                Part(names[id(p)], start, max(0, min(int(count), int(p.ds_numel) - start)), int(p.ds_numel)),
            )


class _Resident:
    """Flats that are brought from disk one at a time, where the optimiser is offloaded to NVMe."""

    def __init__(self, engine: Any, changed: bool) -> None:
        self._optimizer, self._changed = engine.optimizer, changed
        self._swaps, self._inside = on_nvme(engine), -1

    def bring(self, number: int) -> None:
        """Flat ``number`` is in memory until another is asked for, or ``done``."""
        if self._swaps and number != self._inside:
            self.done()
            if self._optimizer._swappable_optimizer_subgroup(number):
                self._optimizer._optimizer_states_and_gradient_swap_in(number)
                self._inside = number

    def done(self) -> None:
        if self._inside >= 0:
            if self._changed:
                self._optimizer._optimizer_states_and_gradient_swap_out(self._inside)
            else:
                self._optimizer._release_swap_buffers(self._inside)
        self._inside = -1


def _state(engine: Any) -> Any:
    """{flat: what the optimiser keeps of it}: of torch's optimiser, inside DeepSpeed's or without."""
    return getattr(engine.optimizer, "optimizer", engine.optimizer).state


@contextmanager
def held_here(engine: Any, rank: int, ranks: int) -> Iterator[tuple[list[Part], list[Held]]]:
    """What this rank writes, inside the block; of what every rank holds alike (stage 0), its share."""
    state, resident = _state(engine), _Resident(engine, changed=False)
    parts: list[Part] = []
    tensors: list[Held] = []
    shared = int(engine.zero_optimization_stage()) == 0
    for number, flat in enumerate(flats_of(engine)):
        if shared and number % ranks != rank:
            continue
        resident.bring(number)
        kept = {key: value for key, value in state.get(flat.tensor, {}).items() if torch.is_tensor(value)}
        for offset, part in flat.parts:
            if not part.count:
                continue
            parts.append(part)
            for key, value in {WEIGHT: flat.tensor, **kept}.items():
                assert value.dim() == 0 or value.numel() == flat.tensor.numel(), (
                    f"{key}: neither a scalar nor cut alike"
                )
                shape = (part.count,) if value.dim() else ()
                get = _getter(resident, number, value, offset, part.count if value.dim() else None)
                tensors.append(Held(f"{key}/{part.name}", value.dtype, shape, get))
    try:
        yield parts, tensors
    finally:
        resident.done()


def _getter(resident: _Resident, number: int, value: Tensor, offset: int, count: int | None) -> Any:
    def get() -> Tensor:
        resident.bring(number)
        return value.detach() if count is None else value.detach().view(-1).narrow(0, offset, count)

    return get


@torch.no_grad()
def put_back(engine: Any, saved: SavedTensors) -> None:
    """This rank's parts out of all ranks' files, into the masters and the optimiser's state. No rank waits here."""
    state, resident = _state(engine), _Resident(engine, changed=True)
    for number, flat in enumerate(flats_of(engine)):
        resident.bring(number)
        tensor, kept = flat.tensor, state[flat.tensor]
        for offset, part in flat.parts:
            for key in saved.keys[part.name] if part.count else ():
                scalar = saved.scalar(part.name, key)
                if scalar is not None:
                    kept[key] = scalar.to(tensor.device)
                    continue
                if key != WEIGHT and key not in kept:  # no step was taken yet
                    kept[key] = torch.zeros_like(tensor)
                target = (tensor if key == WEIGHT else kept[key]).detach().view(-1)
                for at, values in saved.slices(part, key):
                    target.narrow(0, offset + at, len(values)).copy_(values)
    resident.done()


@torch.no_grad()
def weights_from_masters(engine: Any) -> None:
    """The model's weights are those of the masters again. A collective from stage 1 on."""
    optimizer, stage = engine.optimizer, int(engine.zero_optimization_stage())
    if stage == 0:
        for p, master in _masters(engine):
            p.copy_(master)
    elif stage < 3:
        optimizer.update_lp_params()
    else:
        optimizer.checkpoint_event_prologue()  # nothing may be gathered whole while partitions change
        resident = _Resident(engine, changed=False)
        for number in range(len(optimizer.fp16_groups)):
            resident.bring(number)
            optimizer._reassign_or_swap_out_partitioned_parameters(number)
        resident.done()
        optimizer.checkpoint_event_epilogue()


def set_counters(engine: Any, step: int, skipped: int) -> None:
    """All else an engine counts is a function of the steps taken: schedule, micro-batches, examples."""
    engine.global_steps, engine.skipped_steps = step, skipped
    engine.micro_steps = step * engine.gradient_accumulation_steps()
    engine.global_samples = step * engine.train_batch_size()
    scheduler = engine.lr_scheduler
    scheduler.last_epoch, scheduler._step_count = step, step + 1
    scheduler._last_lr = [base * at(step) for base, at in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)]
    for group, lr in zip(scheduler.optimizer.param_groups, scheduler._last_lr, strict=True):
        group["lr"] = lr
