"""Terms on hidden states: RMU's misdirection, matching the reference, distances of embeddings.

``misdirect`` and ``match`` look at the state after decoder block ``layer`` (counted from 0, as WMDP's code counts) of
**every** token of an example, prompt and answer, because the paper averages over the example's non-padding tokens;
image tokens only with ``images=True``. ``l2`` and ``cosine`` look at the final state that predicts each answer token
(of a vision model: its embedding).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from clear_dist.types import Hidden, TokenStats, View

from .objective import Objective
from .terms import label, positive, term

Control = Literal["fixed", "redrawn"]


def _layer(name: str, layer: int) -> int:
    if isinstance(layer, bool) or layer < 0 or int(layer) != layer:
        raise ValueError(f"{name}: layer must be a whole number >= 0, got {layer}")
    return int(layer)


def _mean_square(want: Hidden) -> Callable[[TokenStats], Tensor]:
    return lambda s: s.global_mean(s.per_sequence(s[want], images=want.images))


def misdirect(
    view: View,
    *,
    layer: int = 7,
    scale: float = 6.5,
    average: bool = False,
    images: bool = False,
    control: Control = "fixed",
    seed: int = 0,
) -> Objective:
    """RMU's forget term: E mean_t |h_l(t) - c u|^2 (arXiv 2410.18057, appendix A; RMU, arXiv 2403.03218).

    u is uniform on [0, 1)^d, normalised, drawn once from ``seed`` and kept. ``scale`` is c. The norm sums over the
    hidden size as printed; ``average`` divides by it, which is what public RMU code does. ``control="redrawn"`` is
    the public CLEAR code's noise, new for every batch.
    """
    positive("misdirect", scale=scale)
    if int(seed) != seed or not 0 <= seed < 2**63:
        raise ValueError(f"misdirect: seed must be a whole number in 0..2^63 - 1, got {seed}")
    if control not in ("fixed", "redrawn"):
        raise ValueError(f"misdirect: control is {control!r}; expected fixed or redrawn")
    target = "control" if control == "fixed" else "redrawn"
    want = Hidden(_layer("misdirect", layer), target, float(scale), int(seed), bool(images), bool(average))
    options = {"control": None if control == "fixed" else control, "seed": seed or None}
    name = label("misdirect", view, layer=want.layer, scale=want.scale, **_flags(want), **options)
    return term(name, (view,), {want}, _mean_square(want))


def match(view: View, *, layer: int = 7, average: bool = False, images: bool = False) -> Objective:
    """Stay where the original is: E mean_t |h_l(t) - h_l,o(t)|^2, summed over the hidden size (or averaged)."""
    want = Hidden(_layer("match", layer), "reference", images=bool(images), average=bool(average))
    return term(label("match", view, layer=want.layer, **_flags(want)), (view,), {want}, _mean_square(want))


def _flags(want: Hidden) -> dict[str, object]:
    return {"average": True if want.average else None, "images": True if want.images else None}


def l2(view: View) -> Objective:
    """E 1/|y| sum_t |f(x)_t - f_o(x)_t|^2 of the final states. Squared: the plain norm has no gradient at 0."""
    return term(label("l2", view), (view,), {"l2"}, lambda s: s.global_mean(s.per_example(s["l2"])))


def cosine(view: View) -> Objective:
    """E 1/|y| sum_t (1 - cos(f(x)_t, f_o(x)_t)) of the final states, in [0, 2]."""
    return term(label("cosine", view), (view,), {"cosine"}, lambda s: s.global_mean(s.per_example(1.0 - s["cosine"])))


def similarity(view: View) -> Objective:
    """1 - ``cosine``: what is minimised to drive embeddings away from the original's."""
    return term(label("similarity", view), (view,), {"cosine"}, lambda s: s.global_mean(s.per_example(s["cosine"])))
