"""Matrix products with a head's weight: logits of a chunk of rows, and gradients back to the hidden size.

On a GPU the head's precision goes in and cuBLAS accumulates in fp32. On a CPU everything is fp32: a 16-bit head is
widened block by block, which costs a few per cent, is exact, and is several times faster than a CPU's 16-bit product.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

_BLOCK = 4096  # rows of a 16-bit head widened at a time
_CPU_BYTES, _GPU_BYTES = 32 << 20, 256 << 20  # of one matrix of logits


class Head:
    """[V, D] weight, whose products are formed in ``logits`` precision (fp32 on a CPU).

    wide: fp32 logits on a GPU too, for a 16-bit head.
    """

    def __init__(self, weight: Tensor, wide: bool) -> None:
        self.weight = weight
        self.cpu = weight.device.type == "cpu"
        self.logits = torch.float32 if self.cpu or wide else weight.dtype
        # What multiplies the weight on the way back.
        self.factor = torch.float32 if self.cpu else weight.dtype

    def rows(self, asked: int) -> int:
        """Rows of a chunk: as many as a fixed share of memory holds, on a GPU a power of two."""
        if asked:
            return asked
        size = self.weight.shape[0] * self.logits.itemsize
        if self.cpu:
            return max(16, _CPU_BYTES // size)
        return min(4096, max(64, 1 << ((_GPU_BYTES // size).bit_length() - 1)))

    def buffers(self, rows: int, count: int) -> list[Tensor]:
        return [self.weight.new_empty(rows, self.weight.shape[0], dtype=self.logits) for _ in range(count)]

    def forward(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
        """out = x W^T for every (x [R, D], out [R, V])."""
        if not self.cpu:
            for x, out in pairs:
                left = x.to(self.weight.dtype)
                if self.logits == self.weight.dtype:
                    torch.mm(left, self.weight.t(), out=out)
                else:
                    out.copy_(torch.mm(left, self.weight.t(), out_dtype=self.logits))
            return
        pairs = [(x.float(), out) for x, out in pairs]
        for part, columns in self._blocks():
            for x, out in pairs:
                torch.mm(x, part.t(), out=out[:, columns])

    def back(self, g: Tensor, out: Tensor) -> None:
        """out [R, D] = g [R, V] W, g in ``factor`` precision."""
        if not self.cpu:
            out.copy_(torch.mm(g, self.weight)) if out.dtype != g.dtype else torch.mm(g, self.weight, out=out)
            return
        sums = out if out.dtype == torch.float32 else out.new_empty(out.shape, dtype=torch.float32)
        some = torch.empty_like(sums, memory_format=torch.contiguous_format)
        for k, (part, columns) in enumerate(self._blocks()):
            # Not addmm, which starts from what is there: 100,000 small terms added to a large one are lost.
            torch.mm(g[:, columns], part, out=some)
            sums.add_(some) if k else sums.copy_(some)
        if sums is not out:
            out.copy_(sums)

    def _blocks(self) -> Iterator[tuple[Tensor, slice]]:
        size = self.weight.shape[0]
        if self.weight.dtype == torch.float32:  # in blocks all the same: sums over a vocabulary in one go lose digits
            for start in range(0, size, _BLOCK):
                yield self.weight[start : start + _BLOCK], slice(start, start + _BLOCK)
            return
        scratch = self.weight.new_empty(min(_BLOCK, size), self.weight.shape[1], dtype=torch.float32)
        for start in range(0, size, _BLOCK):
            part = scratch[: min(_BLOCK, size - start)]
            yield part.copy_(self.weight[start : start + _BLOCK]), slice(start, start + _BLOCK)


def add_outer(total: Tensor, g: Tensor, x: Tensor) -> None:
    """total [V, D] fp32 += g [R, V]^T x [R, D]."""
    if g.dtype == torch.float32:
        total.addmm_(g.t(), x.float())
    else:
        total.add_(torch.mm(g.t(), x.to(g.dtype), out_dtype=torch.float32))
