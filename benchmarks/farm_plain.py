"""What the farm is compared with: training one model as public code mostly does it.

Pictures are files that a ``Dataset`` decodes whenever they are shown; fp32, NCHW as it comes, ``torch.optim.SGD`` and
all threads as they are by default; one process a model. Nothing of clear_dist is imported: its start-up would count.

    python benchmarks/farm_plain.py --folder DIR --size 32 --people 20 --epochs 20 --batch 128

The network is ResNet-18 (``tiny``: one narrow block a stage, for tests) under torchvision's names, its head AM-softmax.
Symbols: N pictures of a batch, D embedding size, K identities.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

WIDTHS = {"18": (64, 128, 256, 512), "tiny": (16, 32, 64, 64)}
BLOCKS = {"18": 2, "tiny": 1}
SCALE, MARGIN = 30.0, 0.4
LR, MOMENTUM, WEIGHT_DECAY = 0.01, 0.9, 5e-5
EVALUATION_BATCH = 256

Batches = Iterator[tuple[Tensor, Tensor]]


class Block(nn.Module):
    """Two 3x3 convolutions and the way around them."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = None
        if stride != 1 or channels != width:
            self.downsample = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(self.conv1(x)), inplace=True)
        h = self.bn2(self.conv2(h))
        return F.relu(h + (x if self.downsample is None else self.downsample(x)), inplace=True)


class ResNet(nn.Module):
    """[N, 3, H, W] -> embeddings [N, D]; ``fc`` is the AM-softmax head."""

    def __init__(self, size: str, classes: int) -> None:
        super().__init__()
        widths = WIDTHS[size]
        channels = widths[0]
        self.conv1 = nn.Conv2d(3, channels, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        for i, width in enumerate(widths):
            blocks = [
                Block(channels if j == 0 else width, width, 2 if i and j == 0 else 1) for j in range(BLOCKS[size])
            ]
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
            channels = width
        self.fc = nn.Linear(channels, classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.maxpool(F.relu(self.bn1(self.conv1(x)), inplace=True))
        for i in range(len(WIDTHS["18"])):
            h = self.get_submodule(f"layer{i + 1}")(h)
        return h.mean((2, 3))


def am_softmax(embedding: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy [] of s (cos - m [label]); embedding [N, D], weight [K, D], labels [N]."""
    cosine = F.normalize(embedding) @ F.normalize(weight).t()
    return F.cross_entropy(SCALE * (cosine - MARGIN * F.one_hot(labels, len(weight))), labels)


class Pictures(Dataset[tuple[Tensor, int]]):
    """A folder with a subfolder for each identity, of which the first ``people`` are taken (None: all)."""

    def __init__(self, folder: Path, size: int, people: int | None = None) -> None:
        self.size = size
        names = sorted(f for f in folder.iterdir() if f.is_dir())[:people]
        self.files = [(file, label) for label, name in enumerate(names) for file in sorted(name.iterdir())]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        file, label = self.files[index]
        with Image.open(file) as image:
            return transform(image.convert("RGB"), self.size), label


def transform(image: Image.Image, size: int) -> Tensor:
    """Resize the shorter side, cut about the middle, to tensor, normalise: float32 [3, size, size] in [-1, 1]."""
    width, height = image.size
    scale = size / min(width, height)
    wide, high = round(width * scale), round(height * scale)
    if (wide, high) != (width, height):
        image = image.resize((wide, high), Image.Resampling.BICUBIC)
    left, top = (wide - size) // 2, (high - size) // 2
    image = image.crop((left, top, left + size, top + size))
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
    return (x - 0.5) / 0.5


def file_batches(data: Pictures, batch: int, loaders: int, pinned: bool = False) -> Batches:
    """Shuffled batches of files without end. The loader's processes outlive epochs, better than its default."""
    loader = DataLoader(
        data,
        batch_size=min(batch, len(data)),
        shuffle=True,
        drop_last=True,
        num_workers=loaders,
        persistent_workers=loaders > 0,
        pin_memory=pinned,
    )
    while True:
        yield from loader


def resident_batches(pixels: Tensor, labels: Tensor, batch: int) -> Batches:
    """The same of pictures that lie on the device, normalised: [M, 3, H, W] float32, labels [M]."""
    size = min(batch, len(labels))
    while True:
        order = torch.randperm(len(labels), device=labels.device)
        for start in range(0, len(labels) - size + 1, size):
            at = order[start : start + size]
            yield pixels[at], labels[at]


class Clock:
    """Seconds of all steps but the first ``warm`` ones, the device's queue empty at both ends."""

    def __init__(self, device: torch.device, warm: int = 0) -> None:
        self.device, self.warm = device, warm
        self.began = self._now()

    def step(self, done: int) -> None:
        if done == self.warm:
            self.began = self._now()

    def seconds(self) -> float:
        return self._now() - self.began

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def train(model: ResNet, batches: Batches, steps: int, device: torch.device, clock: Clock) -> float:
    """``steps`` steps of SGD; the loss of the last one."""
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    model.train()
    loss = torch.zeros(())
    for i in range(steps):
        x, y = next(batches)
        x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
        loss = am_softmax(model(x), model.fc.weight, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        clock.step(i + 1)
    return loss.item()


@torch.no_grad()
def evaluate(model: ResNet, data: Pictures, loaders: int, device: torch.device) -> Tensor:
    """Embeddings [M, D] of every picture."""
    model.eval()
    loader = DataLoader(data, batch_size=EVALUATION_BATCH, num_workers=loaders)
    return torch.cat([model(x.to(device)).cpu() for x, _ in loader])


def one_model(options: argparse.Namespace) -> dict[str, Any]:
    """Train, evaluate and save one model; seconds are those after all imports."""
    began = time.perf_counter()
    device = torch.device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    mine = Pictures(options.folder, options.size, options.people)
    model = ResNet(options.network, options.people).to(device)
    steps = max(1, round(options.epochs * len(mine) / min(options.batch, len(mine))))
    clock = Clock(device)
    loss = train(model, file_batches(mine, options.batch, options.loaders, device.type == "cuda"), steps, device, clock)
    training = clock.seconds()
    everything = Pictures(options.folder, options.size)
    found = evaluate(model, everything, options.loaders, device)
    with tempfile.TemporaryDirectory() as folder:
        save_file({"embedding": found}, os.path.join(folder, "embeddings.safetensors"))
    return {
        "seconds": time.perf_counter() - began,
        "training": training,
        "steps": steps,
        "images": steps * min(options.batch, len(mine)),
        "read": len(everything),
        "loss": loss,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--folder", type=Path, required=True, help="pictures, one subfolder for each identity")
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--people", type=int, required=True, help="identities to train on, the first ones")
    parser.add_argument("--epochs", type=float, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--network", choices=tuple(WIDTHS), default="18")
    parser.add_argument("--loaders", type=int, default=0, help="processes of the DataLoader")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="default: torch's own, one a core")
    parser.add_argument("--seed", type=int, default=0)
    print(json.dumps(one_model(parser.parse_args(arguments))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
