"""StyleGAN2's networks: names and counts of the published ones, and how layers follow each other."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from clear_dist.models.stylegan2_files import StyleGAN2Settings, random_weights, read_networks
from clear_dist.models.stylegan2_layers import Linear, Networks, empty_networks, leaky, with_deviation

SETTINGS = StyleGAN2Settings(16, style_dim=6, mapping_layers=2, channel_max=5)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Networks:
    folder = tmp_path_factory.mktemp("networks")
    random_weights(folder, 16, style_dim=6, mapping_layers=2, channel_max=5)
    return read_networks(folder, SETTINGS)


def counts_by_hand(size: int, multiplier: int) -> tuple[int, int]:
    """Parameters of generator and discriminator, from the paper's table of channels and shapes of layers."""
    channels = {4: 512, 8: 512, 16: 512, 32: 512}
    channels |= {64 << i: 256 * multiplier >> i for i in range(5)}
    sides = [side for side in channels if side <= size]

    def styled(ins: int, outs: int) -> int:
        return 9 * ins * outs + (512 * ins + ins) + 1 + outs  # weight, style, strength of noise, bias

    def rgb(ins: int) -> int:
        return 3 * ins + (512 * ins + ins) + 3

    generator = 8 * (512 * 512 + 512) + 16 * 512 + styled(512, 512) + rgb(512)
    discriminator = 3 * channels[size] + channels[size]
    for below, side in pairwise(sides):
        low, high = channels[below], channels[side]
        generator += styled(low, high) + styled(high, high) + rgb(high)
        discriminator += (9 * high * high + high) + (9 * high * low + low) + high * low
    discriminator += (9 * 513 * 512 + 512) + (16 * 512 * 512 + 512) + (512 + 1)
    return generator, discriminator


@pytest.mark.parametrize(("size", "multiplier"), [(1024, 2), (1024, 1), (256, 2), (8, 2)])
def test_counts_of_parameters(size: int, multiplier: int) -> None:
    both = empty_networks(StyleGAN2Settings(size, channel_multiplier=multiplier))
    found = tuple(sum(p.numel() for p in part.parameters()) for part in (both.g_ema, both.d))
    assert found == counts_by_hand(size, multiplier)
    assert all(p.device.type == "meta" and not p.requires_grad for p in both.parameters())


def test_counts_of_the_published_networks() -> None:
    """As NVIDIA's code prints them for configuration F at 1024."""
    assert counts_by_hand(1024, 2) == (30_370_060, 29_012_513)


def test_names_and_shapes_of_the_published_networks() -> None:
    found = {name: tuple(tensor.shape) for name, tensor in empty_networks(StyleGAN2Settings(1024)).state_dict().items()}
    expected: dict[str, tuple[int, ...]] = {"g_ema.input.input": (1, 512, 4, 4)}
    for i in range(1, 9):
        expected |= {f"g_ema.style.{i}.weight": (512, 512), f"g_ema.style.{i}.bias": (512,)}
    wide = [512, 512, 512, 512, 512, 256, 128, 64, 32]  # at 4, 8, ... 1024
    pairs = [("conv1", 512, 512, False)]
    for i, (low, high) in enumerate(pairwise(wide)):
        pairs += [(f"convs.{2 * i}", low, high, True), (f"convs.{2 * i + 1}", high, high, False)]
    for name, ins, outs, upsample in pairs:
        expected |= {
            f"g_ema.{name}.conv.weight": (1, outs, ins, 3, 3),
            f"g_ema.{name}.conv.modulation.weight": (ins, 512),
            f"g_ema.{name}.conv.modulation.bias": (ins,),
            f"g_ema.{name}.noise.weight": (1,),
            f"g_ema.{name}.activate.bias": (outs,),
        } | ({f"g_ema.{name}.conv.blur.kernel": (4, 4)} if upsample else {})
    for name, ins in [("to_rgb1", 512), *((f"to_rgbs.{i}", ins) for i, ins in enumerate(wide[1:]))]:
        expected |= {
            f"g_ema.{name}.bias": (1, 3, 1, 1),
            f"g_ema.{name}.conv.weight": (1, 3, ins, 1, 1),
            f"g_ema.{name}.conv.modulation.weight": (ins, 512),
            f"g_ema.{name}.conv.modulation.bias": (ins,),
        } | ({} if name == "to_rgb1" else {f"g_ema.{name}.upsample.kernel": (4, 4)})
    expected |= {"d.convs.0.0.weight": (32, 3, 1, 1), "d.convs.0.1.bias": (32,)}
    for i, (high, low) in enumerate(pairwise(wide[::-1]), 1):
        expected |= {
            f"d.convs.{i}.conv1.0.weight": (high, high, 3, 3),
            f"d.convs.{i}.conv1.1.bias": (high,),
            f"d.convs.{i}.conv2.0.kernel": (4, 4),
            f"d.convs.{i}.conv2.1.weight": (low, high, 3, 3),
            f"d.convs.{i}.conv2.2.bias": (low,),
            f"d.convs.{i}.skip.0.kernel": (4, 4),
            f"d.convs.{i}.skip.1.weight": (low, high, 1, 1),
        }
    expected |= {
        "d.final_conv.0.weight": (512, 513, 3, 3),
        "d.final_conv.1.bias": (512,),
        "d.final_linear.0.weight": (512, 8192),
        "d.final_linear.0.bias": (512,),
        "d.final_linear.1.weight": (1, 512),
        "d.final_linear.1.bias": (1,),
    }
    assert found == expected


@torch.inference_mode()
def test_the_generators_layers_follow_each_other(networks: Networks) -> None:
    """Unrolled by hand at 16 pixels: five styled convolutions, three pictures one on the other."""
    g = networks.g_ema
    w = g.style(normal(2, 6))
    noise = [normal(2, 1, side, side, seed=side + i) for i, side in enumerate(g.sides)]
    assert g.sides == [4, 8, 8, 16, 16]
    x4 = g.conv1(g.input.input.repeat(2, 1, 1, 1), w, noise[0])
    x8 = g.convs[1](g.convs[0](x4, w, noise[1]), w, noise[2])
    x16 = g.convs[3](g.convs[2](x8, w, noise[3]), w, noise[4])
    expected = g.to_rgbs[1](x16, w, g.to_rgbs[0](x8, w, g.to_rgb1(x4, w)))
    assert expected.shape == (2, 3, 16, 16)
    torch.testing.assert_close(g(w, noise), expected)


@torch.inference_mode()
def test_the_mapping_network(networks: Networks) -> None:
    z = normal(3, 6)
    h = z / z.square().mean(1, keepdim=True).sqrt()
    for i in (1, 2):
        layer = networks.g_ema.style[i]
        assert isinstance(layer, Linear)
        h = leaky(0.01 * (h @ layer.weight.T / 6**0.5 + layer.bias))
    torch.testing.assert_close(networks.g_ema.style(z), h)


@torch.inference_mode()
def test_every_weight_and_noise_of_the_generator_counts(networks: Networks) -> None:
    g = networks.g_ema
    w, noise = g.style(normal(1, 6)), [normal(1, 1, side, side, seed=i) for i, side in enumerate(g.sides)]
    before = g(w, noise)
    for i in range(len(noise)):
        assert not torch.equal(g(w, [torch.zeros_like(n) if i == j else n for j, n in enumerate(noise)]), before)
    assert not torch.equal(g(g.style(normal(1, 6, seed=9)), noise), before)


@torch.inference_mode()
def test_the_discriminators_layers_follow_each_other(networks: Networks) -> None:
    d, x = networks.d, normal(4, 3, 16, 16)
    features = d.convs[2](d.convs[1](d.convs[0](x)))
    assert features.shape == (4, 5, 4, 4)
    torch.testing.assert_close(d.features(x), features)
    h = d.final_conv(with_deviation(features)).reshape(4, -1)
    for i, layer in enumerate(d.final_linear):
        assert isinstance(layer, Linear)
        h = h @ layer.weight.T / h.shape[1] ** 0.5 + layer.bias
        h = leaky(h) if i == 0 else h
    torch.testing.assert_close(d(x), h[:, 0])


@torch.inference_mode()
def test_a_score_depends_on_the_group(networks: Networks) -> None:
    x = normal(4, 3, 16, 16)
    assert not torch.allclose(networks.d(x)[:1], networks.d(x[:1]))
