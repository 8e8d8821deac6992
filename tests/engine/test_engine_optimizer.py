"""The fused AdamW is AdamW: the same steps as the plain one, on many small matrices and on a flat shard."""

from __future__ import annotations

import pytest
import torch

from clear_dist.engine.optimizer import BETAS, EPS, adamw


@pytest.mark.parametrize("shapes", [[(4, 48), (48, 4)] * 20, [(3001,)]], ids=["lora", "shard"])
def test_fused_steps_are_plain_ones(shapes: list[tuple[int, ...]]) -> None:
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in shapes]
    mine, plain = ([torch.nn.Parameter(w.clone()) for w in start] for _ in range(2))
    ours = adamw(mine, 1e-2, 0.1, torch.device("cpu"))
    theirs = torch.optim.AdamW(plain, lr=1e-2, betas=BETAS, eps=EPS, weight_decay=0.1, foreach=False, fused=False)
    assert ours.defaults["fused"]
    for _ in range(5):
        for a, b in zip(mine, plain, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        ours.step()
        theirs.step()
    for a, b, before in zip(mine, plain, start, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)
        assert float((a.detach() - before).abs().max()) > 1e-2
