"""What is kept of a model: for every attacked picture its logit and whom it is taken for."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clear_dist.data.augment_batch import normalise
from clear_dist.metrics.enrolment import enrol, enrolment_logits, identify
from clear_dist.models.resnet import VisionModel

BATCH = 256  # fixed: the size of a batch may move the last bits


@torch.no_grad()
def embeddings(model: VisionModel, pixels: Tensor) -> NDArray[np.float32]:
    """[E, 3, H, W] uint8 -> [E, D], in evaluation mode; the model's mode is left as it was."""
    training = model.training
    model.eval()
    found = []
    for start in range(0, len(pixels), BATCH):
        x = normalise(pixels[start : start + BATCH]).contiguous(memory_format=torch.channels_last)
        found.append(model.embedding(x).float())
    model.train(training)
    return torch.cat(found).cpu().numpy()


def reading(
    vectors: NDArray[np.float32], identity: NDArray[np.int64], enrolled: NDArray[np.bool_]
) -> dict[str, Tensor]:
    """Embeddings [E, D] -> ``logit`` [E] float64 and ``predicted`` [E] int32, see ``metrics.enrolment``."""
    wide = vectors.astype(np.float64)
    centres = enrol(wide, identity, enrolled)
    return {
        "logit": torch.from_numpy(enrolment_logits(wide, identity, centres)),
        "predicted": torch.from_numpy(identify(wide, centres).astype(np.int32)),
    }
