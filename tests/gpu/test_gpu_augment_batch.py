"""Augmentation on a GPU: the same as on the processor, and replayed by a CUDA graph with other pictures."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from clear_dist.data.augment_batch import AUGMENTATIONS, augment, augment_with, draws


def pictures(count: int, side: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
def test_every_device_moves_a_picture_the_same_way(name: str, device: torch.device) -> None:
    batch = pictures(4, 56)
    here = augment(batch, 1, 2, AUGMENTATIONS[name])
    there = augment(batch.to(device), 1, 2, AUGMENTATIONS[name])
    assert there.device == device and torch.allclose(here, there.cpu(), atol=2e-3)


def test_a_graph_replays_with_other_pictures_and_draws(device: torch.device) -> None:
    if device.type != "cuda":
        pytest.skip("only a GPU has graphs")
    settings = AUGMENTATIONS["photo"]
    pixels, uniforms = pictures(4).to(device), draws(4, 0, 0).to(device)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        augment_with(pixels, uniforms, settings)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = augment_with(pixels, uniforms, settings)
    pixels.copy_(pictures(4).flip(0))
    uniforms.copy_(draws(4, 0, 1))
    graph.replay()
    assert torch.allclose(found, augment_with(pixels, uniforms, settings), atol=1e-5)
