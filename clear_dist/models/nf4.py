"""Frozen weights in 4 bits: NF4 with double quantisation (QLoRA, arXiv 2305.14314, section 3), by bitsandbytes.

Only the matrices of the language model's blocks, which is where nearly all weights are: embeddings, norms, the output
head (which statistics multiply with, chunk by chunk), projector and vision tower stay as they are. A matrix is
multiplied by unpacking it into the activations' precision, forward and backward, one at a time.

Symbols: O outputs, I inputs, n = O I elements of a matrix, in blocks of 64 that share a scale.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from functools import cache
from math import ceil
from typing import Any, Final

import torch
from torch import Tensor, nn

from clear_dist.errors import UserError
from clear_dist.models.family import Family

BLOCK: Final = 64  # elements that share a scale
SCALES: Final = 256  # scales that share a scale of theirs


class Nf4Linear(nn.Linear):
    """``nn.Linear`` with a frozen weight [O, I] kept as packed NF4. PEFT adapts it as it does any linear layer.

    Everything is a buffer of integers, so that no cast of the module (``module.bfloat16()``, as DeepSpeed does) touches
    the scales: ``weight`` [32 ceil(n/64), 1] uint8; ``scales`` [ceil(n/64)] uint8; ``scale_of_scales`` [ceil(n/64/256)]
    and ``offset`` [1], bits of fp32 as int32.
    """

    scales: Tensor
    scale_of_scales: Tensor
    offset: Tensor

    def __init__(self, plain: nn.Linear) -> None:
        """Raises UserError: bitsandbytes is not there."""
        nn.Module.__init__(self)
        functional = _bitsandbytes().functional
        self.in_features, self.out_features = plain.in_features, plain.out_features
        with torch.no_grad():
            # A row a block: for rows shorter than a block, bitsandbytes 0.50 takes wrong scales on a CPU.
            flat = nn.functional.pad(plain.weight.detach().flatten(), (0, -plain.weight.numel() % BLOCK))
            packed, state = functional.quantize_4bit(
                flat.view(-1, BLOCK), blocksize=BLOCK, compress_statistics=True, quant_type="nf4"
            )
        self.register_buffer("weight", packed)
        self.register_buffer("scales", state.absmax)
        self.register_buffer("scale_of_scales", state.state2.absmax.float().view(torch.int32))
        self.register_buffer("offset", state.offset.float().reshape(1).view(torch.int32))
        self.bias = None if plain.bias is None else nn.Parameter(plain.bias.detach().clone(), requires_grad=False)

    @property
    def packed_elements(self) -> int:
        """n"""
        return self.in_features * self.out_features

    def state(self, dtype: torch.dtype) -> Any:
        """bitsandbytes' description of the packed weight, to be unpacked as ``dtype``."""
        functional = _bitsandbytes().functional
        device = str(self.weight.device)
        inner = functional.QuantState(
            absmax=self.scale_of_scales.view(torch.float32),
            blocksize=SCALES,
            code=_scale_code(device),
            dtype=torch.float32,
        )
        return functional.QuantState(
            absmax=self.scales,
            shape=torch.Size((len(self.scales), BLOCK)),
            code=_nf4_code(device),
            blocksize=BLOCK,
            quant_type="nf4",
            dtype=dtype,
            offset=self.offset.view(torch.float32)[0],
            state2=inner,
        )

    def unpacked(self, dtype: torch.dtype) -> Tensor:
        """[O, I] what the layer multiplies with."""
        flat = _bitsandbytes().functional.dequantize_4bit(self.weight, self.state(dtype)).flatten()
        return flat[: self.packed_elements].view(self.out_features, self.in_features)

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """[..., I] -> [..., O]."""
        out = _Unpacked.apply(x, self)
        return out if self.bias is None else out + self.bias.to(out.dtype)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, nf4"


class _Unpacked(torch.autograd.Function):
    """x W' with W unpacked when it is needed and forgotten again: nothing of it is kept for backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Nf4Linear) -> Tensor:
        ctx.layer = layer
        return nn.functional.linear(x, layer.unpacked(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (upstream,) = grad_outputs
        return upstream @ ctx.layer.unpacked(upstream.dtype), None


def quantise_blocks(family: Family, module: nn.Module, device: torch.device | str | None = None) -> nn.Module:
    """Replace the linear layers of the decoder's blocks by ``Nf4Linear``, in place; the module.

    Args:
        device: where the work is done (a GPU is faster); the packed weights stay where the module is.
    Raises:
        UserError: bitsandbytes is not there.
    """
    _bitsandbytes()
    for block in family.blocks(module):
        for parent, name, layer in list(_linears(block)):
            home = layer.weight.device
            setattr(parent, name, Nf4Linear(layer if device is None else layer.to(device)).to(home))
    return module


def is_quantised(module: nn.Module) -> bool:
    return any(isinstance(m, Nf4Linear) for m in module.modules())


def packed_bytes(elements: int) -> int:
    """Bytes of a matrix of so many elements, as ``Nf4Linear`` keeps it."""
    scales = ceil(elements / BLOCK)
    return BLOCK // 2 * scales + scales + 4 * ceil(scales / SCALES) + 4


def _linears(block: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    for parent in block.modules():
        for name, child in parent.named_children():
            if isinstance(child, nn.Linear) and not isinstance(child, Nf4Linear):
                yield parent, name, child


def check_nf4() -> None:
    """Raises UserError where 4-bit weights cannot be made here."""
    _bitsandbytes()


def _bitsandbytes() -> Any:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            "4-bit weights need the package bitsandbytes: pip install 'clear-dist[nf4]', or --base-weights full"
        )
    import bitsandbytes

    return bitsandbytes


@cache
def _nf4_code(device: str) -> Tensor:
    """[16] fp32: the values four bits stand for."""
    return _bitsandbytes().functional.get_4bit_type("nf4", device=device)


@cache
def _scale_code(device: str) -> Tensor:
    """[256] fp32: the values a scale's eight bits stand for."""
    return _bitsandbytes().functional.create_dynamic_map().to(device)
