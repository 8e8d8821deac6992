"""What the vision tests share: small models and pictures of every view."""

from __future__ import annotations

import torch
from torch import Tensor

from clear_dist.engine.vision import VisionBatch, VisionStep
from clear_dist.models.resnet import VisionModel, new_resnet
from clear_dist.models.resnet_settings import Head

CLASSES, SIDE, STAGE = 5, 32, 2
FORGET, RETAIN = 3, 4  # pictures


def models(dtype: torch.dtype = torch.float64, head: Head = "softmax") -> tuple[VisionModel, VisionModel]:
    """A student and a reference that differ everywhere, their normalisation too."""
    student, reference = (new_resnet(CLASSES, "tiny", seed, head=head, scale=4.0) for seed in (0, 1))
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for model in (student, reference):
            for name, tensor in model.named_buffers():
                if name.endswith("running_mean"):
                    tensor.add_(0.1 * torch.randn(tensor.shape, generator=g))
                if name.endswith("running_var"):
                    tensor.add_(0.2 * torch.rand(tensor.shape, generator=g))
            assert float(model.embedding(torch.randn(4, 3, SIDE, SIDE, generator=g)).norm(dim=1).min()) > 0.1
    return student.to(dtype), reference.to(dtype)


def step_of(dtype: torch.dtype = torch.float64, head: Head = "softmax") -> VisionStep:
    return VisionStep(*models(dtype, head)).eval()


def batch_of() -> VisionBatch:
    """FORGET, IDK and AUGMENTED on the same pictures, RANDOM on them under other labels, RETAIN on others."""
    g = torch.Generator().manual_seed(3)
    forget, retain = (torch.randn(n, 3, SIDE, SIDE, generator=g) for n in (FORGET, RETAIN))
    return VisionBatch(
        pixels=torch.cat([forget, retain, forget]),
        labels=torch.tensor([0, 1, 0, 2, 3, 4, 2, 4, 3, 2]),
        view_examples={
            "forget": slice(0, 3),
            "idk": slice(0, 3),
            "augmented": slice(0, 3),
            "retain": slice(3, 7),
            "random": slice(7, 10),
        },
        example_ids=[f"picture/{i}" for i in range(10)],
        reference_pixels={"augmented": forget.flip(-1)},
    )


def gradients(loss: Tensor, model: VisionModel) -> list[Tensor | None]:
    return list(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True))
