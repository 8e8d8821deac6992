"""The bytes of a step: its highest point, followed by ``engine.peak``, and those of tensors that are there anyway."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from clear_dist.engine.peak import peak_of as peak_of  # noqa: PLC0414 (re-exported)


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Memory of distinct tensors."""
    return sum({id(t): t.numel() * t.element_size() for t in tensors}.values())


def module_bytes(module: nn.Module | None) -> int:
    """Weights and buffers."""
    return 0 if module is None else bytes_of([*module.parameters(), *module.buffers()])


def optimizer_bytes(optimizer: torch.optim.Optimizer) -> int:
    """What an optimiser keeps; nothing before its first step."""
    return bytes_of(x for state in optimizer.state.values() for x in state.values() if isinstance(x, Tensor))
