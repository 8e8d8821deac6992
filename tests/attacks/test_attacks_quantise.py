"""Rounded weights stay within half a step, whatever the shape; what fits the grid stays as it is."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from clear_dist.attacks import ATTACKS
from clear_dist.attacks.quantise import NF4, SCHEMES, int4, int8, nf4, quantise_linear
from clear_dist.types import UserError


def noise(rows: int, columns: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Rows of very different sizes, so that a scale taken over the wrong axis shows."""
    generator = torch.Generator().manual_seed(rows * 1000 + columns)
    return (torch.randn(rows, columns, generator=generator) * torch.logspace(-3, 2, rows)[:, None]).to(dtype)


def runs(weight: Tensor, group: int) -> list[Tensor]:
    """Every run of columns of every row, cut by hand."""
    return [row[i : i + group] for row in weight for i in range(0, weight.shape[1], group)]


def test_int8_by_hand() -> None:
    weight = torch.tensor([[127.0, -63.4, 0.6, 0.4], [0.0, 0.0, 0.0, 0.0], [-1.27, 0.016, 0.014, 1.0]])
    rounded = int8(weight)
    assert rounded[0].tolist() == [127.0, -63.0, 1.0, 0.0]
    assert rounded[1].tolist() == [0.0] * 4, "a row of zeros has no scale to divide by"
    torch.testing.assert_close(rounded[2], torch.tensor([-1.27, 0.02, 0.01, 1.0]))


def test_int4_by_hand_each_run_has_its_scale() -> None:
    weight = torch.tensor([[7.0, 3.4, -0.6, 0.07, 0.034, -0.006]])
    torch.testing.assert_close(int4(weight, 3), torch.tensor([[7.0, 3.0, -1.0, 0.07, 0.03, -0.01]]))
    assert int4(weight, 6)[0, 3:].tolist() == [0.0, 0.0, 0.0], "one scale for all swallows the small ones"


def test_nf4_takes_the_nearest_level() -> None:
    weight = torch.linspace(-3, 3, 301)[None]
    levels = torch.tensor(NF4) * 3
    nearest = levels[(weight[0][:, None] - levels).abs().argmin(1)]
    torch.testing.assert_close(nf4(weight, 512)[0], nearest)
    assert len(NF4) == 16 and NF4[7] == 0.0 and list(NF4) == sorted(NF4)


@pytest.mark.parametrize("columns", [1, 31, 32, 64, 65, 130])
@pytest.mark.parametrize("group", [32, 64])
def test_errors_are_bounded_in_every_run(columns: int, group: int) -> None:
    weight = noise(5, columns)
    widest = max(b - a for a, b in pairwise(NF4)) / 2
    for rounded, bound in ((int4(weight, group), 1 / 14), (nf4(weight, group), widest)):
        assert rounded.shape == weight.shape
        for before, after in zip(runs(weight, group), runs(rounded, group), strict=True):
            largest = before.abs().max().item()
            assert (before - after).abs().max().item() <= bound * largest * (1 + 1e-5)
            assert after.abs().max().item() == pytest.approx(largest, rel=1e-6), "the largest weight stays"
    for before, after in zip(weight, int8(weight), strict=True):
        assert (before - after).abs().max() <= before.abs().max() / 254 * (1 + 1e-5)
    # The bound is reached to a good part: rounding happens at all.
    assert columns < 31 or (int4(weight, group) - weight).abs().max() > 0


@pytest.mark.parametrize(("name", "steps"), [("int8", 127), ("int4", 7)])
def test_what_fits_the_grid_is_exact_and_rounding_twice_is_rounding_once(name: str, steps: int) -> None:
    generator = torch.Generator().manual_seed(1)
    whole = torch.randint(-steps, steps + 1, (4, 64), generator=generator).float()
    whole[:, 0] = steps
    weight = whole * torch.tensor([0.25, 1.0, 2.0, 2.0**-10])[:, None]  # scales that are exact in binary
    assert torch.equal(SCHEMES[name](weight), weight)
    once = SCHEMES[name](noise(6, 100))
    torch.testing.assert_close(SCHEMES[name](once), once, rtol=1e-6, atol=0)


def test_levels_of_nf4_are_exact() -> None:
    weight = torch.tensor([NF4]) * 4
    assert torch.equal(nf4(weight), weight)


@pytest.mark.parametrize("name", SCHEMES)
def test_bf16_is_rounded_in_fp32_and_given_back_in_bf16(name: str) -> None:
    weight = noise(4, 96, torch.bfloat16)
    rounded = SCHEMES[name](weight)
    assert rounded.dtype == torch.bfloat16
    assert torch.equal(rounded, SCHEMES[name](weight.float()).bfloat16())


def test_the_grid_has_so_many_values() -> None:
    weight = torch.linspace(-1, 1, 4096)[None]
    assert len(int8(weight).unique()) == 255
    assert len(int4(weight, 4096).unique()) == 15
    assert len(nf4(weight, 4096).unique()) == 16


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 8)
        self.norm = nn.LayerNorm(8)
        self.first = nn.Linear(8, 8)
        self.tied = nn.Linear(8, 8, bias=False)
        self.tied.weight = self.first.weight


@pytest.mark.parametrize("scheme", SCHEMES)
def test_only_linear_weights_move_and_shared_ones_once(scheme: str) -> None:
    torch.manual_seed(0)
    decoder = Decoder()
    before = {name: value.clone() for name, value in decoder.state_dict().items()}
    assert quantise_linear(decoder, scheme) == 1
    after = decoder.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"first.weight", "tied.weight"}
    assert torch.equal(after["first.weight"], SCHEMES[scheme](before["first.weight"]))
    assert decoder.tied.weight is decoder.first.weight and decoder.first.weight.requires_grad


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(value: float) -> None:
    decoder = Decoder()
    decoder.first.weight.data[3, 3] = value
    with pytest.raises(UserError, match=r"first\.weight: holds a value that is not finite"):
        quantise_linear(decoder, "int8")


def test_a_module_without_linear_layers_is_refused() -> None:
    with pytest.raises(UserError, match="Embedding has no linear layer"):
        quantise_linear(nn.Embedding(3, 3), "int4")


def test_every_scheme_is_an_attack() -> None:
    assert tuple(SCHEMES) == ATTACKS["quantise"]
