"""StyleGAN2's layers, each against its equation written out slowly, or against SciPy."""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
import pytest
import scipy.signal
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clear_dist.models.stylegan2_layers import (
    Activation,
    Conv,
    Linear,
    ModulatedConv,
    Noise,
    PixelNorm,
    ResidualBlock,
    StyledConv,
    ToRgb,
    fir,
    fir_kernel,
    with_deviation,
)

Module = TypeVar("Module", bound=nn.Module)
pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture
def no_gradients() -> object:
    with torch.inference_mode():
        yield


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def filled(module: Module, seed: int = 1) -> Module:
    """With weights from N(0, 1), kernels too, so that a flipped or a swapped one shows."""
    draw = torch.Generator().manual_seed(seed)
    for tensor in module.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape, generator=draw))
    return module


def test_pixel_norm_leaves_a_mean_square_of_one() -> None:
    z = 7 * normal(3, 16)
    out = PixelNorm()(z)
    torch.testing.assert_close(out.square().mean(1), torch.ones(3))
    torch.testing.assert_close(out / out.norm(dim=1, keepdim=True), z / z.norm(dim=1, keepdim=True))


def test_linear_scales_weight_and_bias_by_its_rate() -> None:
    layer, x = filled(Linear(5, 4, rate=0.01)), normal(3, 5)
    expected = [
        [
            sum(0.01 / math.sqrt(5) * layer.weight[o, i] * row[i] for i in range(5)) + 0.01 * layer.bias[o]
            for o in range(4)
        ]
        for row in x
    ]
    torch.testing.assert_close(layer(x), torch.tensor(expected))


@pytest.mark.parametrize("layer", [Linear(512, 512, active=True), nn.Sequential(Conv(64, 128, 3), Activation(128))])
def test_layers_keep_the_mean_square(layer: nn.Module) -> None:
    """What equalised learning rate and the gain of the leaky ReLU are for: twice 0.5 (1 + 0.2^2) is 1.04."""
    for name, tensor in filled(layer).state_dict().items():
        if name.endswith("bias"):
            tensor.zero_()
    x = normal(64, 512) if isinstance(layer, Linear) else normal(2, 64, 32, 32)
    out = layer(x) if isinstance(layer, Linear) else layer(x)[..., 1:-1, 1:-1]
    assert float(out.square().mean()) == pytest.approx(1.04, rel=0.05)


def test_activation_by_hand() -> None:
    layer = Activation(2)
    layer.bias.copy_(torch.tensor([1.0, -3.0]))
    out = layer(torch.full((1, 2, 1, 1), 2.0)).flatten().tolist()
    assert out == pytest.approx([3 * math.sqrt(2), -0.2 * math.sqrt(2)])


def test_noise_is_of_each_picture_and_of_all_channels() -> None:
    layer, x, noise = filled(Noise()), normal(2, 3, 4, 4), normal(2, 1, 4, 4, seed=2)
    out = layer(x, noise)
    assert not torch.equal(noise[0], noise[1])
    for n in range(2):
        for c in range(3):
            torch.testing.assert_close(out[n, c], x[n, c] + float(layer.weight) * noise[n, 0])


def test_the_kernel() -> None:
    expected = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64
    np.testing.assert_array_equal(fir_kernel().numpy(), expected)
    np.testing.assert_array_equal(fir_kernel(4.0).numpy(), 4 * expected)


def test_upsampling_is_scipys() -> None:
    """By SciPy's polyphase filter, once along each axis; a constant picture stays as it is, edges apart."""
    x = normal(2, 3, 5, 6)
    taps = np.array([1, 3, 3, 1]) / 4
    once = scipy.signal.upfirdn(taps, x.double().numpy(), up=2, axis=2)
    both = scipy.signal.upfirdn(taps, once, up=2, axis=3)
    out = fir(x, fir_kernel(4.0), 2, 1, up=2)
    assert out.shape == (2, 3, 10, 12)
    np.testing.assert_allclose(out.numpy(), both[:, :, 1:-1, 1:-1], atol=1e-6)
    flat = fir(torch.ones(1, 1, 4, 4), fir_kernel(4.0), 2, 1, up=2)
    torch.testing.assert_close(flat[..., 1:-1, 1:-1], torch.ones(1, 1, 6, 6))


def test_fir_convolves_rather_than_correlates() -> None:
    x, kernel = normal(1, 2, 6, 6), normal(4, 4, seed=3)
    out = fir(x, kernel, 2, 1)
    for c in range(2):
        expected = scipy.signal.convolve2d(np.pad(x[0, c].numpy(), (2, 1)), kernel.numpy(), "valid")
        np.testing.assert_allclose(out[0, c].numpy(), expected, atol=1e-5)


def modulated(layer: ModulatedConv, x: Tensor, w: Tensor, *, demodulate: bool) -> Tensor:
    """Equations 1 and 3 as they stand there: weights of each picture's own, one number at a time."""
    outs, ins, side, _ = layer.weight[0].shape
    style, results = layer.modulation, []
    for picture, code in zip(x.double(), w.double(), strict=True):
        scales = style.weight.double() @ code / math.sqrt(len(code)) + style.bias.double()
        weight = layer.weight[0].double() / math.sqrt(ins * side**2)
        for i in range(ins):
            weight[:, i] *= scales[i]
        for o in range(outs if demodulate else 0):
            weight[o] /= math.sqrt(sum(float(v) ** 2 for v in weight[o].flatten()) + 1e-8)
        if layer.blur is None:
            results.append(F.conv2d(picture[None], weight, padding=side // 2)[0])
            continue
        # Zeros between the pixels, then convolutions: the layer's, and the one that takes their pattern out.
        spread = torch.zeros(ins, 2 * picture.shape[1] - 1, 2 * picture.shape[2] - 1, dtype=torch.float64)
        spread[:, ::2, ::2] = picture
        maps = [sum(scipy.signal.convolve2d(spread[i], weight[o, i].numpy()) for i in range(ins)) for o in range(outs)]
        full = [scipy.signal.convolve2d(one, layer.blur.kernel.double().numpy()) for one in maps]
        results.append(torch.from_numpy(np.stack(full))[:, 2:-2, 2:-2])
    return torch.stack(results)


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize(("side", "upsample"), [(1, False), (3, False), (3, True)])
def test_modulated_convolution_is_its_equation(side: int, upsample: bool, demodulate: bool) -> None:
    layer = filled(ModulatedConv(4, 5, side, 6, demodulate=demodulate, upsample=upsample))
    x, w = normal(3, 4, 5, 7), normal(3, 6, seed=2)
    out = layer(x, w)
    assert out.shape == (3, 5, 10, 14) if upsample else (3, 5, 5, 7)
    torch.testing.assert_close(out.double(), modulated(layer, x, w, demodulate=demodulate), rtol=1e-4, atol=1e-5)


def test_demodulation_gives_unit_variance() -> None:
    """Of Gaussian input, whatever the styles; without it variances of pictures are far from 1."""
    x, w = normal(3, 32, 96, 96), torch.tensor([0.1, 1.0, 10.0])[:, None] * normal(3, 16, seed=2)
    layer = filled(ModulatedConv(32, 64, 3, 16))
    inside = layer(x, w)[..., 1:-1, 1:-1]
    assert inside.var((2, 3)).sub(1).abs().max() < 0.15  # a channel's, of 94 x 94 places that overlap
    assert inside.var((1, 2, 3)).sub(1).abs().max() < 0.02
    layer.demodulate = False
    assert layer(x, w).var((1, 2, 3)).sub(1).abs().min() > 0.1


def test_noise_comes_before_bias_and_activation() -> None:
    layer, x, w = filled(StyledConv(4, 3, 6)), normal(2, 4, 5, 5), normal(2, 6, seed=2)
    noise = normal(2, 1, 5, 5, seed=3)
    before = modulated(layer.conv, x, w, demodulate=True).float() + layer.noise.weight * noise
    shifted = before + layer.activate.bias[:, None, None]
    expected = math.sqrt(2) * torch.where(shifted > 0, shifted, 0.2 * shifted)
    torch.testing.assert_close(layer(x, w, noise), expected, rtol=1e-4, atol=1e-5)


def test_rgb_is_added_to_the_smaller_picture() -> None:
    first, later = filled(ToRgb(4, 6, first=True)), filled(ToRgb(4, 6))
    x, w, before = normal(2, 4, 8, 8), normal(2, 6, seed=2), normal(2, 3, 4, 4, seed=3)
    assert first.upsample is None and later.upsample is not None
    alone = modulated(later.conv, x, w, demodulate=False).float() + later.bias
    torch.testing.assert_close(later(x, w, before), alone + fir(before, later.upsample.kernel, 2, 1, up=2))
    torch.testing.assert_close(first(x, w), modulated(first.conv, x, w, demodulate=False).float() + first.bias)


def test_deviation_by_hand() -> None:
    """Eight pictures of two features and one place: groups are 0 2 4 6 and 1 3 5 7."""
    a = [0.0, 5.0, 2.0, 5.0, 4.0, 5.0, 6.0, 5.0]  # deviations sqrt(5) and 0
    b = [1.0, 0.0, 1.0, 0.0, 1.0, 3.0, 1.0, 3.0]  # 0 and 1.5
    x = torch.tensor([a, b]).T[:, :, None, None]
    out = with_deviation(x)
    assert torch.equal(out[:, :2], x)
    even, odd = math.sqrt(5) / 2, 1.5 / 2
    assert out[:, 2].flatten().tolist() == pytest.approx([even, odd] * 4, abs=1e-4)
    assert with_deviation(x[:1])[0, 2].item() == pytest.approx(1e-4)  # one picture differs from nobody
    pair = with_deviation(x[:2])[:, 2].flatten().tolist()
    assert pair == pytest.approx([(2.5 + 0.5) / 2] * 2, abs=1e-4)


def test_deviation_is_one_number_for_all_places() -> None:
    x = normal(4, 3, 4, 4)
    out = with_deviation(x)
    assert out.shape == (4, 4, 4, 4) and len(out[:, 3].unique()) == 1
    assert out[0, 3, 0, 0].item() == pytest.approx(float(x.numpy().std(0).mean()), rel=1e-5)


def test_a_block_of_the_discriminator() -> None:
    """Written out with SciPy's convolutions, the blur before each stride."""
    block, x = filled(ResidualBlock(2, 3)), normal(1, 2, 8, 8)

    def conv(maps: np.ndarray, weight: Tensor, stride: int, mode: str) -> np.ndarray:
        outs, ins, side, _ = weight.shape
        taps = weight.double().numpy() / math.sqrt(ins * side**2)
        planes = [sum(scipy.signal.correlate2d(maps[i], taps[o, i], mode) for i in range(ins)) for o in range(outs)]
        return np.stack(planes)[:, ::stride, ::stride]

    def active(maps: np.ndarray, bias: Tensor) -> np.ndarray:
        shifted = maps + bias.double().numpy()[:, None, None]
        return math.sqrt(2) * np.where(shifted > 0, shifted, 0.2 * shifted)

    def blurred(maps: np.ndarray, kernel: Tensor, edge: int) -> np.ndarray:
        padded = np.pad(maps, ((0, 0), (edge, edge), (edge, edge)))
        return np.stack([scipy.signal.convolve2d(one, kernel.double().numpy(), "valid") for one in padded])

    s, start = block.state_dict(), x[0].double().numpy()
    h = active(conv(start, s["conv1.0.weight"], 1, "same"), s["conv1.1.bias"])
    h = active(conv(blurred(h, s["conv2.0.kernel"], 2), s["conv2.1.weight"], 2, "valid"), s["conv2.2.bias"])
    around = conv(blurred(start, s["skip.0.kernel"], 1), s["skip.1.weight"], 2, "valid")
    np.testing.assert_allclose(block(x)[0].numpy(), (h + around) / math.sqrt(2), rtol=1e-4, atol=1e-5)
