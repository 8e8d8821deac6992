"""Mean and spread of log-probabilities under a model's own distribution."""

from __future__ import annotations

import math

import pytest
import torch

from clear_dist.ops.moments import CHUNK, logp_moments


@pytest.mark.parametrize("tokens", [0, 1, CHUNK + 3])
def test_equals_the_definition_in_fp64(tokens: int) -> None:
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(tokens, 16, generator=generator)
    weight = torch.randn(37, 16, generator=generator)
    mean, std = logp_moments(h, weight)
    logp = (h.double() @ weight.double().T).log_softmax(-1)
    expected = (logp.exp() * logp).sum(-1)
    spread = (logp.exp() * (logp - expected[:, None]) ** 2).sum(-1).sqrt()
    assert mean.shape == std.shape == (tokens,) and mean.dtype == std.dtype == torch.float32
    assert torch.allclose(mean.double(), expected, atol=1e-5) and torch.allclose(std.double(), spread, atol=1e-5)


def test_uniform_and_certain_distributions_have_no_spread() -> None:
    mean, std = logp_moments(torch.zeros(1, 4), torch.ones(8, 4))
    assert mean.item() == pytest.approx(-math.log(8)) and std.item() == pytest.approx(0, abs=1e-6)
    weight = torch.zeros(3, 1)
    weight[1] = 1000.0
    mean, std = logp_moments(torch.ones(1, 1), weight)
    assert mean.item() == 0 and std.item() == 0, "tokens of no probability must not make NaN"


def test_bf16_is_computed_in_fp32() -> None:
    generator = torch.Generator().manual_seed(1)
    h, weight = torch.randn(5, 16, generator=generator), torch.randn(50, 16, generator=generator)
    mean, std = logp_moments(h.bfloat16(), weight.bfloat16())
    expected, spread = logp_moments(h.bfloat16().float(), weight.bfloat16().float())
    assert mean.dtype == torch.float32
    assert torch.allclose(mean, expected, atol=0.05) and torch.allclose(std, spread, atol=0.05)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"h_TD \(2, 3\) and weight_VD \(5, 4\)"):
        logp_moments(torch.zeros(2, 3), torch.zeros(5, 4))
