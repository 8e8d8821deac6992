"""The optimisers and the LoRA-L1 penalty, the same at every ZeRO stage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from clear_dist.methods import Penalty
from clear_dist.methods.objective import ParameterSet

OptimizerName = Literal["adamw", "sgd"]
BETAS, EPS = (0.9, 0.999), 1e-8


def adamw(
    parameters: Iterable[nn.Parameter], lr: float, weight_decay: float, device: torch.device
) -> torch.optim.AdamW:
    """torch's AdamW in its fused form, on a GPU and on a CPU: there it takes a sixth of the plain one's time, on the
    many small matrices of LoRA and on a flat shard alike. DeepSpeed's own would be compiled on first use."""
    fused = device.type in ("cpu", "cuda")
    return torch.optim.AdamW(list(parameters), lr=lr, betas=BETAS, eps=EPS, weight_decay=weight_decay, fused=fused)


def make_optimizer(
    name: OptimizerName, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float, device: torch.device
) -> torch.optim.Optimizer:
    """AdamW, or plain SGD without momentum: w <- w - lr (g + weight_decay w), whose one step shows the gradient."""
    if name == "sgd":
        return torch.optim.SGD(list(parameters), lr=lr, weight_decay=weight_decay)
    return adamw(parameters, lr, weight_decay, device)


def penalised(student: nn.Module, which: ParameterSet) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    """(owning module, attribute, parameter) of what a penalty looks at; tied weights count once."""
    seen: set[int] = set()
    for path, module in student.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            wanted = parameter.requires_grad and (which == "all" or "lora_" in f"{path}.{name}")
            if wanted and id(parameter) not in seen:
                seen.add(id(parameter))
                yield module, name, parameter


class _L1(torch.autograd.Function):
    """sum |w|, saving only the signs: under ZeRO-3 the weight itself is gone when backward comes."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight.sign().to(torch.int8))
        ctx.dtype = weight.dtype
        return weight.float().abs().sum()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        (sign,) = ctx.saved_tensors
        return (grad_outputs[0] * sign).to(ctx.dtype)


class L1Norm:
    """Collects sum |w| of chosen parameters while their modules run.

    Under ZeRO-3 a weight is whole only inside its own module's forward, so a forward hook on each owning module
    reads it there. Every rank sees the whole weight: dividing the gradient by ranks (as averaging does) leaves it
    right, and the engine scales once per optimiser step.
    """

    def __init__(self, student: nn.Module, which: ParameterSet) -> None:
        self.elements = 0
        self._sums: list[Tensor] = []
        self._active = False
        for module, name, parameter in penalised(student, which):
            self.elements += getattr(parameter, "ds_numel", parameter.numel())
            module.register_forward_hook(self._hook(name))

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            del args, output
            if not torch.is_grad_enabled():  # the reference, or an evaluation
                return
            value: Any = _L1.apply(getattr(module, name))
            # A recomputation in backward (gradient checkpointing) must repeat the call, but counts nothing.
            if self._active:
                self._sums.append(value)

        return hook

    def start(self) -> None:
        self._sums, self._active = [], True

    def value(self, penalty: Penalty, like: Tensor) -> Tensor:
        """The penalty without its factor: sum or mean of |w|, once per collected forward."""
        self._active = False
        total = torch.stack(self._sums).sum() if self._sums else 0.0 * like
        return total / self.elements if penalty.reduction == "mean" else total
