"""What a ResNet's stages are made of: two kinds of blocks, under torchvision's names.

Symbols: N pictures, channels those that come in, width those inside, H, W height and width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Conv2d(nn.Conv2d):
    """A convolution that leaves out taps which meet nothing but padding, where its output is a single row or column.

    Small pictures end in single pixels: at 32 pixels 3x3 kernels of ResNet-18's last stage, two thirds of all weights,
    have one tap each that meets data, or four. Multiplying only those gives the same sums. It is also a way around
    torch 2.13 on CPUs, whose bf16 gradient of a 3x3 kernel with stride 2 on one pixel (or one row) leaves the other
    taps unwritten: they hold what was in memory before. Here theirs are 0.
    """

    def forward(self, input: Tensor) -> Tensor:
        rows = self._useful(input.shape[-2], 0)
        columns = self._useful(input.shape[-1], 1)
        if rows is None and columns is None:
            return super().forward(input)
        across, down = self.padding[1], self.padding[0]
        assert isinstance(across, int) and isinstance(down, int)
        weight = self.weight[:, :, rows or slice(None), columns or slice(None)]
        padding = (down if rows is None else 0, across if columns is None else 0)
        return F.conv2d(input, weight, self.bias, self.stride, padding)

    def _useful(self, side: int, dimension: int) -> slice | None:
        """The taps that meet data where the output has one place in this dimension; None: all, or more places."""
        kernel, stride, padding = self.kernel_size[dimension], self.stride[dimension], self.padding[dimension]
        assert isinstance(padding, int)
        one_place = side + 2 * padding - kernel < stride and side + padding <= kernel
        return slice(padding, padding + side) if one_place and side < kernel else None


def conv(channels: int, width: int, side: int, stride: int = 1) -> Conv2d:
    """Padded so that only the stride shrinks; without bias, which the normalisation after it would undo."""
    return Conv2d(channels, width, side, stride, padding=side // 2, bias=False)


def _way_around(channels: int, out: int, stride: int) -> nn.Sequential | None:
    if channels == out and stride == 1:
        return None
    return nn.Sequential(conv(channels, out, 1, stride), nn.BatchNorm2d(out))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the way around them: [N, channels, H, W] -> [N, width, H / stride, W / stride]."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(channels, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3), nn.BatchNorm2d(width)
        self.downsample = _way_around(channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(self.conv1(x)), inplace=True)
        h = self.bn2(self.conv2(h))
        return F.relu(h + (x if self.downsample is None else self.downsample(x)), inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride) and 1x1 convolutions, the last four times as wide, and the way around them."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(channels, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, 4 * width, 1), nn.BatchNorm2d(4 * width)
        self.downsample = _way_around(channels, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(self.conv1(x)), inplace=True)
        h = F.relu(self.bn2(self.conv2(h)), inplace=True)
        h = self.bn3(self.conv3(h))
        return F.relu(h + (x if self.downsample is None else self.downsample(x)), inplace=True)
