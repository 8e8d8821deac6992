"""Several gradients of one optimiser step, weighed against each other where they lie: on the shards of each rank.

An update rule (``methods.rules``) asks for one gradient per group of terms and combines them by coefficients that
depend on their inner products only. Each group's gradient is accumulated and reduced by DeepSpeed as if it were the
only one; each rank then copies **its part** of it, and forgets it, before the next group runs. An inner product is
the sum over ranks of the local ones: G x G numbers are reduced, and no rank ever sees a whole gradient.

This needs what DeepSpeed has no public way for; everything that touches its internals (0.19) is here:

=====================  ==================================================================  ==========
stage                  where a reduced gradient lies                                       held
=====================  ==================================================================  ==========
0                      ``parameter.grad``                                                  replicated
1, bf16 (fp32 sums)    ``BF16_Optimizer.fp32_groups_gradients``                            replicated
1, 2                   ``averaged_gradients``: pieces of this rank's flat partition        sharded
1, 2 with offload      ``single_partition_of_fp32_groups[i].grad`` on the CPU              sharded
3                      ``averaged_gradients``: views of ``grad_partitions_flat_buffer``    sharded
3 with offload         ``fp32_partitioned_groups_flat[i].grad`` on the CPU                 sharded
=====================  ==================================================================  ==========

Offloading also keeps a norm per parameter (``norm_for_param_grads``), measured while gradients are copied to the CPU
and used for clipping: whoever replaces the gradients has to measure them again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from clear_dist.methods import Penalty
from clear_dist.ops import l1_add_grad_, l1_norm
from clear_dist.types import UserError

from .optimizer import penalised

_CHUNK = 1 << 22  # elements converted to float64 at a time


@dataclass(frozen=True)
class _Piece:
    """What this rank holds of one parameter: views of its gradient and of its weight, aligned, flat, unpadded."""

    parameter: nn.Parameter
    gradient: Tensor
    weight: Tensor


def on_nvme(engine: Any) -> bool:
    """Whether the optimiser, gradients included, is offloaded to files."""
    return bool(getattr(engine.optimizer, "swap_optimizer", False))


class GradientShards:
    """This rank's share of the gradient that DeepSpeed has accumulated and reduced but not yet stepped on.

    Valid between the backward pass at an accumulation boundary and ``engine.step()``. Shards are lists of flat
    tensors, one per parameter this rank holds a part of, always in the same order.
    """

    def __init__(self, engine: Any) -> None:
        """Raises UserError where the optimiser is offloaded to NVMe: its gradients are in files."""
        self._engine, self._optimizer = engine, engine.optimizer
        stage = int(engine.zero_optimization_stage())
        self._bf16 = type(self._optimizer).__name__ == "BF16_Optimizer"
        self._plain = stage == 0
        self._whole = stage == 3
        self.sharded = not (self._plain or self._bf16)
        expected = "DeepSpeedZeroOptimizer_Stage3" if self._whole else "DeepSpeedZeroOptimizer"
        found = [base.__name__ for base in type(self._optimizer).__mro__]
        assert not self.sharded or expected in found, f"stage {stage}: expected {expected}, DeepSpeed made {found[0]}"
        self._offloaded = self.sharded and bool(
            self._optimizer.offload_optimizer if self._whole else self._optimizer.cpu_offload
        )
        if on_nvme(engine):
            raise UserError(
                "zero_optimization.offload_optimizer.device is nvme, but this method's update rule combines gradients "
                'in memory. Set the device to "cpu", or use a method that sums its terms (gd instead of grad_orth).'
            )

    def take(self) -> list[Tensor]:
        """Copies of the shards, in the precision and on the device they are held."""
        self._at_boundary()
        return [piece.gradient.clone() for piece in self._pieces()]

    @torch.no_grad()
    def norm(self) -> float:
        """|g| of the whole gradient, before clipping; the same on every rank, a collective where it is sharded."""
        self._at_boundary()
        if self._plain:
            held = [p.grad for p in self._engine.module.parameters() if p.grad is not None and p.numel()]
        else:
            held = [piece.gradient for piece in self._pieces() if piece.gradient.numel()]
        placed: dict[torch.device, list[Tensor]] = {}
        for gradient in held:
            placed.setdefault(gradient.device, []).append(gradient)
        total = torch.zeros((), dtype=torch.float64, device=self._engine.device)
        for gradients in placed.values():
            norms = torch.stack(torch._foreach_norm(gradients, 2, dtype=torch.float32))  # pyright: ignore[reportPrivateImportUsage]
            total += norms.double().square().sum().to(total.device)
        return float(self._summed(total).sqrt())

    def clear(self) -> None:
        """Forget the gradient and start the accumulation window again: the next group's first backward overwrites."""
        self._at_boundary()
        optimizer = self._optimizer
        self._engine.micro_steps -= self._engine.gradient_accumulation_steps() - 1
        if self._plain:
            self._engine.zero_grad()
            return
        if self._offloaded or self._whole:
            # A parameter without a gradient in the next group is not written to: it must not keep this group's.
            for flat in self._flat_gradients():
                flat.zero_()
        optimizer.zero_grad()
        if self._bf16:
            return
        if self._offloaded:
            optimizer.norm_for_param_grads = {}
        if self._whole:
            optimizer.micro_step_id, optimizer._epilogue_ran_this_backward = 0, False
            optimizer._offload_boundary_param_ids = set()
            return
        optimizer.micro_step_id = -1  # DeepSpeed's INITIAL_MICRO_STEP_ID
        for group in optimizer.averaged_gradients:
            optimizer.averaged_gradients[group] = None
        for group in optimizer.all_grad_tensors:
            optimizer.all_grad_tensors[group] = None
        if self._offloaded:
            optimizer._offload_accumulated_param_ids = set()
            optimizer.local_overflow = False

    @torch.no_grad()
    def put(self, shards: Sequence[Tensor]) -> None:
        """Replace the gradient that the next ``engine.step()`` clips and applies."""
        self._at_boundary()
        for piece, value in zip(self._pieces(), shards, strict=True):
            piece.gradient.copy_(value)
            if self._offloaded:
                norms = self._optimizer.norm_for_param_grads
                norms[self._optimizer.get_param_id(piece.parameter)] = value.float().norm()
        if self._bf16:
            self._optimizer.fp32_groups_has_gradients = [[True] * len(g) for g in self._optimizer.bf16_groups]

    @torch.no_grad()
    def gram(self, gradients: Sequence[Sequence[Tensor]]) -> Tensor:
        """[G, G] float64 on the CPU: inner products of G whole gradients, given this rank's shards of each.

        The same on every rank; a collective where gradients are sharded.
        """
        size = len(gradients)
        out = torch.zeros(size, size, dtype=torch.float64, device=self._engine.device)
        for i in range(size):
            for j in range(i, size):
                out[i, j] = out[j, i] = self.dot(gradients[i], gradients[j])
        return self._summed(out).cpu()

    @staticmethod
    def dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        """Scalar float64: this rank's part of <a, b>."""
        total = torch.zeros((), dtype=torch.float64, device=a[0].device if a else None)
        for x, y in zip(a, b, strict=True):
            for s, t in zip(x.split(_CHUNK), y.split(_CHUNK), strict=True):
                total += torch.dot(s.double(), t.double()).to(total.device)  # offloading may be partial
        return total

    @staticmethod
    @torch.no_grad()
    def combine(gradients: Sequence[Sequence[Tensor]], coefficients: Tensor) -> list[Tensor]:
        """sum c_i g_i of shards, in fp32; reads each gradient once, so they may be of any precision."""
        out = []
        for parts in zip(*gradients, strict=True):
            total = torch.zeros_like(parts[0], dtype=torch.float32)
            for factor, part in zip(coefficients.tolist(), parts, strict=True):
                total.add_(part, alpha=factor)
            out.append(total)
        return out

    @torch.no_grad()
    def penalise(self, shards: Sequence[Tensor], penalty: Penalty, student: nn.Module) -> float:
        """Add the penalty's gradient to shards, in place; returns its value without its factor.

        d/dw sum |w| = sign(w): every rank adds it to what it holds. A collective where gradients are sharded.
        """
        assert penalty.norm == "l1"
        chosen = list(penalised(student, penalty.parameters))
        wanted = {id(parameter) for _, _, parameter in chosen}
        elements = sum(getattr(p, "ds_numel", p.numel()) for _, _, p in chosen)
        share = 1 / elements if penalty.reduction == "mean" else 1.0
        total = torch.zeros((), dtype=torch.float64, device=self._engine.device)
        placed: dict[torch.device, list[tuple[Tensor, Tensor]]] = {}
        for piece, shard in zip(self._pieces(), shards, strict=True):
            if id(piece.parameter) in wanted:
                placed.setdefault(shard.device, []).append((piece.weight.to(shard.device), shard))
        for pairs in placed.values():  # one launch for all that is on a device
            weights, gradients = [w for w, _ in pairs], [g for _, g in pairs]
            l1_add_grad_(weights, gradients, penalty.factor * share)
            total += l1_norm(weights).to(total.device)
        return share * float(self._summed(total))

    def _summed(self, values: Tensor) -> Tensor:
        if self.sharded and torch.distributed.get_world_size() > 1:
            torch.distributed.all_reduce(values)
        return values

    def _at_boundary(self) -> None:
        assert self._engine.is_gradient_accumulation_boundary(), "a gradient is whole only at the last micro-batch"
        if self._offloaded and torch.cuda.is_available():
            torch.cuda.synchronize()  # copies to the CPU are under way

    def _flat_gradients(self) -> Iterator[Tensor]:
        optimizer = self._optimizer
        if self._whole:
            yield optimizer.grad_partitions_flat_buffer
        if self._offloaded:
            flats = optimizer.fp32_partitioned_groups_flat if self._whole else optimizer.single_partition_of_fp32_groups
            yield from (flat.grad for flat in flats)

    def _pieces(self) -> list[_Piece]:
        """Found anew each time: DeepSpeed allocates some of these buffers once per step."""
        if self._plain:
            named = [p for p in self._engine.module.parameters() if p.requires_grad and p.numel()]
            missing = sum(p.grad is None for p in named)
            assert not missing, f"{missing} parameters have no gradient after DeepSpeed's reduction"
            pieces = [_Piece(p, p.grad, p.detach()) for p in named if p.grad is not None]
        elif self._bf16:
            pieces = [
                _Piece(p, gradient, p.detach())
                for group, gradients in zip(
                    self._optimizer.bf16_groups, self._optimizer.fp32_groups_gradients, strict=True
                )
                for p, gradient in zip(group, gradients, strict=True)
            ]
        elif self._whole:
            pieces = list(self._pieces_of_stage_3())
        else:
            pieces = list(self._pieces_of_stage_1_and_2())
        for piece in pieces:
            same = piece.gradient.numel() == piece.weight.numel() and piece.gradient.is_contiguous()
            assert same, "a gradient and its weight are cut differently"
        return [_Piece(p.parameter, p.gradient.view(-1), p.weight.reshape(-1)) for p in pieces]

    def _pieces_of_stage_1_and_2(self) -> Iterator[_Piece]:
        optimizer = self._optimizer
        rank = torch.distributed.get_rank()
        for i, group in enumerate(optimizer.params_in_partition):
            flat = optimizer.single_partition_of_fp32_groups[i]
            master = flat.detach()
            if self._offloaded:
                for p in group:
                    _, _, start, count = optimizer.grad_position[optimizer.get_param_id(p)]
                    yield _Piece(p, flat.grad.view(-1).narrow(0, start, count), master.narrow(0, start, count))
                continue
            held = optimizer.averaged_gradients.get(i)
            assert held is not None, f"group {i} has no averaged gradient at the boundary"
            parts = [g for g in held if not getattr(g, "_zero_padding", False)]
            # What follows the parameters' parts is padding that is not marked as such.
            assert len(group) <= len(parts) <= len(group) + 1, f"{len(parts)} gradients, {len(group)} parameters"
            for p, gradient in zip(group, parts, strict=False):
                start = int(optimizer.grad_partition_insertion_offset[i][rank][optimizer.get_param_id(p)])
                yield _Piece(p, gradient, master.narrow(0, start, gradient.numel()))

    def _pieces_of_stage_3(self) -> Iterator[_Piece]:
        optimizer = self._optimizer
        for i, group in enumerate(optimizer.fp16_groups):
            flat = optimizer.fp32_partitioned_groups_flat[i]
            master = flat.detach()
            held = None if self._offloaded else optimizer.averaged_gradients[i]
            for j, p in enumerate(group):
                if not p.requires_grad:
                    continue
                _, start, count = optimizer.grad_position[optimizer.get_param_id(p)]
                # The last ranks' parts may reach beyond the parameter; what lies there is nobody's.
                before = optimizer._get_param_partition_rank(p) * p.partition_numel()
                count = max(0, min(count, p.ds_numel - before))
                gradient = flat.grad.narrow(0, start, count) if held is None else held[j].view(-1).narrow(0, 0, count)
                yield _Piece(p, gradient, master.narrow(0, start, count))
