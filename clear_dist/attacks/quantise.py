"""Weights rounded to few bits and back, in place: does compressing a model undo its unlearning?

Zhang et al., "Catastrophic Failure of LLM Unlearning via Quantization" (arXiv 2410.16454): unlearning with a small
learning rate or a utility term moves weights by less than half a step of a 4-bit grid, so rounding puts the original's
weights back. Rounded are the weights of the language model's linear layers; embeddings, norms, biases, the output
head and all of vision stay as they are. The rounding is simulated (quantise, dequantise), so it runs anywhere; products
are then computed in the model's own precision, as weight-only kernels do. Legend: O outputs, I inputs of a layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn

from clear_dist.types import UserError

GROUP: Final = 64  # columns that share a scale in the 4-bit schemes (bitsandbytes' block; 32 is finer)
INT8_STEPS, INT4_STEPS = 127, 7  # symmetric grids: as many steps on either side of 0

# The 16 levels of NF4: quantiles of the normal distribution scaled to [-1, 1] (QLoRA, arXiv 2305.14314, appendix E).
NF4: Final = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


def int8(weight: Tensor) -> Tensor:
    """[O, I] -> [O, I]: w' = s round(w / s) with s = max|w| / 127 of each output's row, so |w - w'| <= s / 2.

    Computed in fp32, given back in the weight's type. Rows of zeros stay zero.
    """
    return _rounded(weight, INT8_STEPS)


def int4(weight: Tensor, group: int = GROUP) -> Tensor:
    """[O, I] -> [O, I]: w' = s round(w / s) with s = max|w| / 7 of each run of ``group`` columns of a row.

    The last run of a row may be shorter. |w - w'| <= s / 2.
    """
    grouped, columns = _groups(weight, group)
    return _ungroup(_rounded(grouped, INT4_STEPS), columns).to(weight.dtype)


def nf4(weight: Tensor, group: int = GROUP) -> Tensor:
    """[O, I] -> [O, I]: w' = a q with a = max|w| of each run of ``group`` columns, q the level of NF4 nearest to w / a
    (of two at the same distance the upper). |w - w'| <= 0.152 a, half the widest gap between levels.

    Deviation from bitsandbytes: runs stay within a row (theirs cut the flattened matrix, which is the same where I is
    a multiple of ``group``), and the scales themselves are not rounded.
    """
    grouped, columns = _groups(weight, group)
    scale = grouped.abs().amax(-1, keepdim=True)
    levels = torch.tensor(NF4, dtype=torch.float32, device=weight.device)
    middles = (levels[1:] + levels[:-1]) / 2
    unit = grouped / torch.where(scale > 0, scale, torch.ones_like(scale))
    return _ungroup(levels[torch.bucketize(unit, middles, right=True)] * scale, columns).to(weight.dtype)


SCHEMES: Final[dict[str, Callable[[Tensor], Tensor]]] = {"int8": int8, "int4": int4, "nf4": nf4}


@torch.no_grad()
def quantise_linear(decoder: nn.Module, scheme: str) -> int:
    """Round the weights of every linear layer inside ``decoder`` (a language model without its head), in place.

    Returns the number of layers. A weight that layers share is rounded once.
    Raises UserError: a weight that is not finite, or no linear layer at all.
    """
    rounded = SCHEMES[scheme]
    done: set[int] = set()
    for name, module in decoder.named_modules():
        if not isinstance(module, nn.Linear) or id(module.weight) in done:
            continue
        if not bool(torch.isfinite(module.weight).all()):
            raise UserError(f"{name}.weight: holds a value that is not finite, so it cannot be quantised; train again")
        module.weight.copy_(rounded(module.weight))
        done.add(id(module.weight))
    if not done:
        raise UserError(
            f"--attacks quantise: {type(decoder).__name__} has no linear layer whose weights it could round"
        )
    return len(done)


def _rounded(weight: Tensor, steps: int) -> Tensor:
    w = weight.float()
    scale = w.abs().amax(-1, keepdim=True) / steps
    q = (w / torch.where(scale > 0, scale, torch.ones_like(scale))).round().clamp(-steps, steps)
    return (q * scale).to(weight.dtype)


def _groups(weight: Tensor, group: int) -> tuple[Tensor, int]:
    """([O, runs, group] fp32, I): rows cut into runs, the last one filled up with zeros, which change no maximum."""
    assert weight.ndim == 2 and group > 0, (weight.shape, group)
    columns = weight.shape[1]
    padded = nn.functional.pad(weight.float(), (0, -columns % group))
    return padded.unflatten(1, (-1, group)), columns


def _ungroup(grouped: Tensor, columns: int) -> Tensor:
    return grouped.flatten(1)[:, :columns]
