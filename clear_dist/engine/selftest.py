"""A few seconds of what every sharded run relies on: ranks that add up a number, and two steps under ZeRO-3.

Each rank is a process of its own: ``python -m clear_dist.engine.selftest`` with RANK, WORLD_SIZE and MASTER_* set.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from typing import Any

import torch
from torch import nn

from clear_dist.engine.world import barrier, close_world, import_deepspeed, init_world

WIDTH, LR = 64, 0.05


def main() -> int:
    """Rank 0 prints {"ranks", "device", "losses", "seconds"}. Exit status 1 where a sum or a step is wrong."""
    began = time.perf_counter()
    world = init_world()
    total = torch.full((1 << 16,), float(world.rank + 1), device=world.device)
    torch.distributed.all_reduce(total)
    wanted = world.size * (world.size + 1) / 2
    if not bool((total == wanted).all()):
        print(f"all_reduce: {float(total[0])} instead of {wanted}", file=sys.stderr)
        return 1
    losses = _sharded_steps(world.device)
    alone = _plain_steps(world.device)
    if any(abs(a - b) > 1e-4 * abs(b) for a, b in zip(losses, alone, strict=True)):
        print(f"ZeRO-3: losses {losses}, without sharding {alone}", file=sys.stderr)
        return 1
    if world.main:
        found = {"ranks": world.size, "device": world.device.type, "losses": losses}
        print(json.dumps({**found, "seconds": time.perf_counter() - began}))
    barrier(world)
    close_world()
    return 0


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1))


def _examples(device: torch.device) -> torch.Tensor:
    return torch.randn(32, WIDTH, generator=torch.Generator().manual_seed(1)).to(device)


def _sharded_steps(device: torch.device) -> list[float]:
    """Every rank reads the same examples, so that the mean over ranks is what one rank computes."""
    deepspeed = import_deepspeed()
    model = _model()
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_clipping": 0.0,
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside DeepSpeed
        engine, *_ = deepspeed.initialize(
            model=model, config=config, optimizer=torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.0)
        )
        losses = []
        for _ in range(3):
            loss = engine(_examples(device)).square().mean()
            engine.backward(loss)
            engine.step()
            losses.append(float(loss))
    return losses


def _plain_steps(device: torch.device) -> list[float]:
    model = _model().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.0)
    losses = []
    for _ in range(3):
        loss = model(_examples(device)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    return losses


if __name__ == "__main__":
    sys.exit(main())
