"""``hidden_distance``: how far hidden states are from where they are wanted (RMU and its relatives)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from .control import control_noise, control_vector
from .reference import hidden_distance_reference

__all__ = ["Impl", "control_noise", "control_vector", "hidden_distance"]

Impl = Literal["auto", "reference"]

_IMPLEMENTATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "auto": hidden_distance_reference,
    "reference": hidden_distance_reference,
}


def hidden_distance(h: Tensor, target: Tensor, *, impl: Impl = "auto") -> Tensor:
    """Squared L2 distance of each row to its target, |h_m - target_m|^2, summed over D.

    The norm RMU prints (arXiv 2403.03218, CLEAR 2410.18057); its public code averages over D, that is 1 / D of this.

    Args:
        h: [M, D] hidden states, any float dtype; the only input gradients flow into.
        target: [M, D] a target per row (the reference's states), or [D] one for all (``c * control_vector``).
        impl: which implementation to run; ``auto`` picks.

    Returns:
        [M] fp32, float64 for float64 ``h``. M = 0 gives an empty tensor that is still connected to the graph.

    Raises:
        ValueError: shapes that do not fit, unknown implementation.
    """
    if h.ndim != 2 or target.shape not in (h.shape, h.shape[1:]):
        raise ValueError(f"expected h [M, D] and target [M, D] or [D], got {list(h.shape)} and {list(target.shape)}")
    if impl not in _IMPLEMENTATIONS:
        raise ValueError(f"unknown impl {impl!r}; known: {sorted(_IMPLEMENTATIONS)}")
    return _IMPLEMENTATIONS[impl](h, target)
