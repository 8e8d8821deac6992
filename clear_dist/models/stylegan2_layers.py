"""StyleGAN2's networks (arXiv 1912.04958, configuration F) and their layers, for inference.

Attributes are named as in the widely used PyTorch conversion of NVIDIA's weights, and shapes are its.

Weights are kept as drawn from N(0, 1) and scaled by 1 / sqrt(fan-in) where they are used (equalised learning rate,
arXiv 1710.10196); biases follow without scale. Every activation is a leaky ReLU of slope 0.2 times sqrt(2), which keeps
the variance.

Symbols: N pictures, C, I, O channels, of the input and of the output, H, W height and width, K a kernel's side, S size
of a style.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from clear_dist.models.stylegan2_files import StyleGAN2Settings

SMALLEST = 1e-8  # beneath a root that divides
GROUP = 4  # pictures whose deviation the discriminator looks at together
RATE = 0.01  # of the mapping network's learning
_TAPS = (1.0, 3.0, 3.0, 1.0)


def fir_kernel(gain: float = 1.0) -> Tensor:
    """[4, 4]: the outer product of (1, 3, 3, 1) with itself, summing to ``gain``."""
    taps = torch.tensor(_TAPS)
    return torch.outer(taps, taps) * (gain / taps.sum() ** 2)


def fir(x: Tensor, kernel: Tensor, before: int, after: int, up: int = 1) -> Tensor:
    """[N, C, H, W] -> [N, C, up H + before + after - K + 1, the same of W]: each channel convolved with ``kernel``
    [K, K], after ``up - 1`` zeros behind each pixel, and ``before`` and ``after`` at the edges."""
    n, channels, height, width = x.shape
    if up > 1:
        spread = x.new_zeros(n, channels, height * up, width * up)
        spread[..., ::up, ::up] = x
        x = spread
    taps = kernel.flip(0, 1).expand(channels, 1, -1, -1)  # conv2d correlates
    return F.conv2d(F.pad(x, (before, after, before, after)), taps, groups=channels)


def leaky(x: Tensor) -> Tensor:
    """The activation of all layers."""
    return F.leaky_relu(x, 0.2) * math.sqrt(2)


def with_deviation(x: Tensor, group: int = GROUP) -> Tensor:
    """[N, C, H, W] -> [N, C + 1, H, W]: one more channel, how much the pictures of a group differ.

    The standard deviation of each feature over the group, averaged over features and places. A group is picture n and
    those M, 2 M, ... places further on, of M groups; fewer than ``group`` pictures are one group. N must otherwise be a
    multiple of it.
    """
    members = min(group, len(x))
    groups = x.unflatten(0, (members, -1))
    deviation = (groups.var(0, unbiased=False) + SMALLEST).sqrt().mean((1, 2, 3))
    return torch.cat([x, deviation.repeat(members)[:, None, None, None].expand(-1, 1, *x.shape[2:])], 1)


class PixelNorm(nn.Module):
    """[N, S] -> [N, S], each row scaled to a mean square of 1."""

    def forward(self, z: Tensor) -> Tensor:
        return z * (z.square().mean(1, keepdim=True) + SMALLEST).rsqrt()


class Linear(nn.Module):
    """[N, I] -> [N, O]. rate: of learning in training, by which weight and bias are scaled in use."""

    def __init__(self, ins: int, outs: int, *, rate: float = 1.0, active: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outs, ins))
        self.bias = nn.Parameter(torch.empty(outs))
        self.rate, self.active = rate, active
        self.scale = rate / math.sqrt(ins)

    def forward(self, x: Tensor) -> Tensor:
        out = F.linear(x, self.weight * self.scale, self.bias * self.rate)
        return leaky(out) if self.active else out


class Conv(nn.Module):
    """[N, I, H, W] -> [N, O, H, W]; with a stride of 2 unpadded. Without bias."""

    def __init__(self, ins: int, outs: int, side: int, stride: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outs, ins, side, side))
        self.stride, self.padding = stride, side // 2 if stride == 1 else 0
        self.scale = 1 / math.sqrt(ins * side**2)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.scale, stride=self.stride, padding=self.padding)


class Activation(nn.Module):
    """[N, C, H, W] -> the same: a bias per channel, then the leaky ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.empty(channels))

    def forward(self, x: Tensor) -> Tensor:
        return leaky(x + self.bias[:, None, None])


class Blur(nn.Module):
    """``fir`` with a kernel from the weights' file."""

    kernel: Tensor

    def __init__(self, before: int, after: int, up: int = 1) -> None:
        super().__init__()
        self.register_buffer("kernel", torch.empty(len(_TAPS), len(_TAPS)))
        self.before, self.after, self.up = before, after, up

    def forward(self, x: Tensor) -> Tensor:
        return fir(x, self.kernel, self.before, self.after, self.up)


class ModulatedConv(nn.Module):
    """A convolution whose weights a style scales per input channel (Equations 1 and 3 of the paper).

    With w'_oik = s_i w_oik it gives sum_ik w'_oik x_i / sqrt(sum_ik w'_oik^2); ``demodulate`` False leaves out the
    root. A scale of an input channel may as well be the input's, and one of an output channel the output's, so that all
    pictures share one convolution. upsample: [N, I, H, W] -> [N, O, 2 H, 2 W].
    """

    def __init__(
        self, ins: int, outs: int, side: int, style: int, *, demodulate: bool = True, upsample: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, outs, ins, side, side))
        self.modulation = Linear(style, ins)
        self.blur = Blur(1, 1) if upsample else None
        self.demodulate, self.padding = demodulate, side // 2
        self.scale = 1 / math.sqrt(ins * side**2)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """x [N, I, H, W], w [N, S]."""
        weight = self.weight[0] * self.scale
        styles = self.modulation(w)
        x = x * styles[:, :, None, None]
        if self.blur is None:
            out = F.conv2d(x, weight, padding=self.padding)
        else:
            out = self.blur(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2))
        if not self.demodulate:
            return out
        squares = styles.square() @ weight.square().sum((2, 3)).T
        return out * (squares + SMALLEST).rsqrt()[:, :, None, None]


class Noise(nn.Module):
    """Adds noise [N, 1, H, W] of a learned strength."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        return x + self.weight * noise


class StyledConv(nn.Module):
    """A modulated 3x3 convolution, noise, bias and activation."""

    def __init__(self, ins: int, outs: int, style: int, *, upsample: bool = False) -> None:
        super().__init__()
        self.conv = ModulatedConv(ins, outs, 3, style, upsample=upsample)
        self.noise = Noise()
        self.activate = Activation(outs)

    def forward(self, x: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        return self.activate(self.noise(self.conv(x, w), noise))


class ToRgb(nn.Module):
    """[N, I, H, W] -> [N, 3, H, W], added to the picture of half the size, where there is one."""

    def __init__(self, ins: int, style: int, *, first: bool = False) -> None:
        super().__init__()
        self.upsample = None if first else Blur(2, 1, up=2)
        self.conv = ModulatedConv(ins, 3, 1, style, demodulate=False)
        self.bias = nn.Parameter(torch.empty(1, 3, 1, 1))

    def forward(self, x: Tensor, w: Tensor, picture: Tensor | None = None) -> Tensor:
        out = self.conv(x, w) + self.bias
        return out if self.upsample is None or picture is None else out + self.upsample(picture)


class ResidualBlock(nn.Module):
    """[N, I, H, W] -> [N, O, H / 2, W / 2]: two 3x3 convolutions and the way around them, as a discriminator has it."""

    def __init__(self, ins: int, outs: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(Conv(ins, ins, 3), Activation(ins))
        self.conv2 = nn.Sequential(Blur(2, 2), Conv(ins, outs, 3, stride=2), Activation(outs))
        self.skip = nn.Sequential(Blur(1, 1), Conv(ins, outs, 1, stride=2))

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv2(self.conv1(x)) + self.skip(x)) / math.sqrt(2)


class _Constant(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.empty(1, channels, 4, 4))


class Generator(nn.Module):
    """From a style w to a picture: at each size two modulated convolutions, and RGB added to what is there."""

    def __init__(self, settings: StyleGAN2Settings) -> None:
        super().__init__()
        style, channels = settings.style_dim, settings.channels(4)
        mapping = (Linear(style, style, rate=RATE, active=True) for _ in range(settings.mapping_layers))
        self.style = nn.Sequential(PixelNorm(), *mapping)
        self.input = _Constant(channels)
        self.conv1 = StyledConv(channels, channels, style)
        self.to_rgb1 = ToRgb(channels, style, first=True)
        self.convs, self.to_rgbs = nn.ModuleList(), nn.ModuleList()
        self.sides = [4]  # of each layer's noise, in order
        for side in (2**power for power in range(3, settings.size.bit_length())):
            wide = settings.channels(side)
            self.convs.append(StyledConv(channels, wide, style, upsample=True))
            self.convs.append(StyledConv(wide, wide, style))
            self.to_rgbs.append(ToRgb(wide, style))
            self.sides += [side, side]
            channels = wide

    def forward(self, w: Tensor, noise: Sequence[Tensor]) -> Tensor:
        """w [N, S] and a noise [N, 1, side, side] for each of ``sides`` -> [N, 3, size, size], mostly in [-1, 1]."""
        x = self.conv1(self.input.input.expand(len(w), -1, -1, -1), w, noise[0])
        picture = self.to_rgb1(x, w)
        for i, to_rgb in enumerate(self.to_rgbs):
            x = self.convs[2 * i](x, w, noise[2 * i + 1])
            x = self.convs[2 * i + 1](x, w, noise[2 * i + 2])
            picture = to_rgb(x, w, picture)
        return picture


class Discriminator(nn.Module):
    """From pictures to scores, the higher the more like those of its training."""

    def __init__(self, settings: StyleGAN2Settings) -> None:
        super().__init__()
        channels = settings.channels(settings.size)
        self.convs = nn.Sequential(nn.Sequential(Conv(3, channels, 1), Activation(channels)))
        for side in (2**power for power in range(settings.size.bit_length() - 2, 1, -1)):
            self.convs.append(ResidualBlock(channels, settings.channels(side)))
            channels = settings.channels(side)
        self.final_conv = nn.Sequential(Conv(channels + 1, channels, 3), Activation(channels))
        self.final_linear = nn.Sequential(Linear(16 * channels, channels, active=True), Linear(channels, 1))

    def features(self, pictures: Tensor) -> Tensor:
        """[N, 3, size, size] -> [N, C, 4, 4]: what it sees in each picture by itself."""
        return self.convs(pictures)

    def judge(self, features: Tensor) -> Tensor:
        """[N, C, 4, 4] -> [N]. Pictures of a group of four count for each other's scores (``with_deviation``)."""
        return self.final_linear(self.final_conv(with_deviation(features)).flatten(1))[:, 0]

    def forward(self, pictures: Tensor) -> Tensor:
        """[N, 3, size, size] -> [N]."""
        return self.judge(self.features(pictures))


class Networks(nn.Module):
    """Both under the names they have in the file."""

    def __init__(self, settings: StyleGAN2Settings) -> None:
        super().__init__()
        self.g_ema, self.d = Generator(settings), Discriminator(settings)


def empty_networks(settings: StyleGAN2Settings) -> Networks:
    """Both networks on torch's meta device: shapes without weights."""
    with torch.device("meta"):
        return Networks(settings).requires_grad_(False).eval()
