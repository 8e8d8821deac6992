"""Lower precision in the trunk, and the convolution whose gradient is right on a single pixel."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clear_dist.models.resnet import VisionModel, new_resnet
from clear_dist.models.resnet_blocks import Conv2d

LABELS = torch.tensor([0, 1, 2, 0])


def pictures(side: int = 32, count: int = 4) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def under(model: VisionModel, dtype: torch.dtype | None) -> VisionModel:
    other = copy.deepcopy(model)
    other.autocast = dtype
    return other


def spoil(*counts: int) -> None:
    """Leave NaN in the memory that the next tensors of these sizes are likely to get."""
    junk = [torch.full((n,), float("nan"), dtype=d) for n in counts for d in (torch.float32, torch.bfloat16)] * 8
    del junk


def test_autocast_is_the_trunks_and_what_comes_out_is_fp32() -> None:
    model = new_resnet(3, "tiny", head="am_softmax", embedding_size=16)
    half = under(model, torch.bfloat16)
    full, rounded = model(pictures(), (1, 3)), half(pictures(), (1, 3))
    assert rounded.embedding.dtype == torch.float32 and {h.dtype for h in rounded.stages.values()} == {torch.float32}
    assert half.logits(pictures()).dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    for a, b in ((full.embedding, rounded.embedding), *((full.stages[i], rounded.stages[i]) for i in (1, 3))):
        assert 0 < float((a - b).detach().abs().max()) < 0.05 * float(a.detach().abs().max()), "bf16 has three digits"
    assert torch.equal(half.stage(pictures(), 1), rounded.stages[1]), "also where it stops below the embedding"
    assert {p.dtype for p in half.parameters()} == {torch.float32}


def test_without_autocast_a_model_is_its_own_precision() -> None:
    model = new_resnet(3, "tiny")
    assert model.autocast is None and under(model, None).embedding(pictures()).dtype == torch.float32
    exact = under(model, None).double()
    assert exact.embedding(pictures()).dtype == torch.float64


def test_autocast_is_not_part_of_a_models_weights() -> None:
    model = new_resnet(3, "tiny")
    assert under(model, torch.bfloat16).state_dict().keys() == model.state_dict().keys()


def test_pooling_adds_in_fp32() -> None:
    """A mean of 64 bf16 numbers in bf16 would have their three digits; in fp32 it is that of what the stage says."""
    half = under(new_resnet(3, "tiny", stem="small"), torch.bfloat16).eval()
    states = half(pictures(64), (3,))
    torch.testing.assert_close(states.embedding, states.stages[3].mean((-2, -1)), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("side", [16, 32])
def test_gradients_under_autocast_are_near_those_of_fp32(side: int) -> None:
    """16 pixels end in a single one, where some gradients were what lay in memory."""
    model = new_resnet(3, "tiny").to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    found: list[list[Tensor]] = []
    for dtype in (None, torch.bfloat16):
        mine = under(model, dtype).eval()
        loss = mine.classification_loss(mine.embedding(pictures(side, 64)), LABELS.repeat(16))
        spoil(*(p.numel() for p in mine.parameters()))
        found.append(list(torch.autograd.grad(loss, list(mine.parameters()))))
    for exact, rounded in zip(*found, strict=True):
        assert rounded.dtype == torch.float32 and bool(rounded.isfinite().all())
        assert float((exact - rounded).norm() / exact.norm()) < 0.25, "ReLUs that turn over"


def layer(stride: int, kernel: int, dtype: torch.dtype) -> tuple[Conv2d, nn.Conv2d]:
    """The same weights in both kinds."""
    ours = Conv2d(16, 32, kernel, stride, padding=kernel // 2, bias=False).to(dtype)
    with torch.no_grad():
        ours.weight.copy_(torch.randn(ours.weight.shape, generator=torch.Generator().manual_seed(1)))
    theirs = nn.Conv2d(16, 32, kernel, stride, padding=kernel // 2, bias=False).to(dtype)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.mark.parametrize(("high", "wide"), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (1, 4), (4, 1), (2, 5), (1, 2)])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (5, 3), (7, 2)])
def test_a_convolution_is_torchs(kernel: int, stride: int, high: int, wide: int) -> None:
    """In float64, where torch's own is right; outputs of one place in either direction, where taps are left out."""
    ours, theirs = layer(stride, kernel, torch.float64)
    x = torch.randn(3, 16, high, wide, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x.requires_grad_(True)
    torch.testing.assert_close(ours(x), theirs(x))
    for a, b in zip(
        torch.autograd.grad(ours(x).square().sum(), [ours.weight, x]),
        torch.autograd.grad(theirs(x).square().sum(), [theirs.weight, x]),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("side", "kernel", "stride", "left"), [(1, 3, 1, 1), (1, 3, 2, 1), (2, 3, 2, 4), (2, 3, 1, 9), (1, 7, 2, 1)]
)
def test_taps_that_meet_only_padding_are_left_out(
    side: int, kernel: int, stride: int, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many taps are multiplied."""
    used: list[int] = []
    real = F.conv2d

    def counting(x: Tensor, weight: Tensor, *rest: object) -> Tensor:
        used.append(weight.shape[-1] * weight.shape[-2])
        return real(x, weight, *rest)  # pyright: ignore[reportArgumentType, reportCallIssue]

    monkeypatch.setattr(F, "conv2d", counting)
    Conv2d(4, 4, kernel, stride, padding=kernel // 2, bias=False)(torch.randn(2, 4, side, side))
    assert used == [left]


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=["channels last", "contiguous"])
@pytest.mark.parametrize("channels", [4, 16])
@pytest.mark.parametrize("kernel", [3, 7])
def test_taps_that_meet_only_padding_have_no_gradient(kernel: int, channels: int, layout: torch.memory_format) -> None:
    """In bf16, on one pixel, with stride 2: all taps but the middle one. Memory freed before is full of NaN."""
    conv = Conv2d(channels, 2 * channels, kernel, 2, padding=kernel // 2, bias=False).to(memory_format=layout)  # pyright: ignore[reportCallIssue]
    x = torch.randn(8, channels, 1, 1, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=layout)
    for _ in range(3):
        with torch.autocast("cpu", torch.bfloat16):
            y = conv(x)
        spoil(conv.weight.numel(), 2 * conv.weight.numel(), x.numel())
        (gradient,) = torch.autograd.grad(y.float().square().sum(), conv.weight)
        middle = kernel // 2
        assert bool(gradient.isfinite().all())
        expected = torch.zeros_like(gradient)
        y32 = F.conv2d(x, conv.weight[:, :, middle : middle + 1, middle : middle + 1])
        expected[:, :, middle, middle] = 2 * torch.einsum("noij,ncij->oc", y32, x).detach()
        assert float((gradient - expected).abs().max()) < 0.02 * float(expected.abs().max())
        assert int((gradient != 0).sum((0, 1)).count_nonzero()) == 1
