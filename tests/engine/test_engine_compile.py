"""Compiled decoder blocks give the losses and gradients of plain ones, for any length of a batch, and are refused where
they cannot work."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from engine_support import FORGET, MAX_LENGTH, RETAIN, stir
from torch import Tensor

from clear_dist.data.encode import encode
from clear_dist.data.packing import PixelCache, pack
from clear_dist.engine.step import StepModule, Totals, loss_of
from clear_dist.methods import FORGET as F
from clear_dist.methods import RETAIN as R
from clear_dist.methods import kl, match, nll, npo
from clear_dist.models import add_lora, check_compile, compile_blocks, enable_checkpointing, load_model
from clear_dist.types import UserError, View

OBJECTIVE = npo(F) + kl(R) + nll(R) + match(R, layer=1)
VIEWS = {"forget": FORGET, "retain": RETAIN}
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")


@pytest.fixture(autouse=True)
def nothing_compiled_before() -> Iterator[None]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def gradients(base_dir: Path, backend: str | None, checkpointing: bool, lengths: tuple[int, ...]) -> list[Tensor]:
    """Of each row length: the loss, then all gradients as one vector."""
    model = load_model(base_dir, dtype="fp32", device="cpu")
    model.module = add_lora(model.module, 4, 8.0, model.family, seed=1)
    stir(model.module, 0.1)
    if checkpointing:
        enable_checkpointing(model.module)
    names = set(model.module.state_dict())
    if backend is not None:
        compile_blocks(model.family, model.module, backend)
    assert set(model.module.state_dict()) == names, "checkpoints stay what they were"
    module = StepModule(model.module, model.family).train()
    encoded = {v: [encode(e, model.processor, MAX_LENGTH) for e in rows] for v, rows in VIEWS.items()}
    totals = {
        View(v): Totals(len(rows), sum(len(e.answer) for e in rows), sum(e.length for e in rows))
        for v, rows in encoded.items()
    }
    out: list[Tensor] = []
    for length in lengths:
        batch = pack(encoded, model.processor, row_length=length, pixels=PixelCache(model.processor), sequences=True)
        module.zero_grad()
        loss, _ = loss_of(OBJECTIVE, module(batch, OBJECTIVE.needs), batch, totals, 0.0)
        loss.backward()
        out += [loss.detach(), torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])]
    return out


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what the compiler says of torch's own code
@pytest.mark.parametrize(
    ("backend", "checkpointing"),
    [("aot_eager", False), ("aot_eager", True), pytest.param("inductor", False, marks=needs_compiler)],
)
def test_compiled_is_plain(base_dir: Path, backend: str, checkpointing: bool) -> None:
    lengths = (128, 200, 90)
    plain = gradients(base_dir, None, checkpointing, lengths)
    compiled = gradients(base_dir, backend, checkpointing, lengths)
    assert float(plain[1].norm()) > 1.0
    for want, found in zip(plain, compiled, strict=True):
        torch.testing.assert_close(found, want, atol=1e-5, rtol=1e-5)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert 0 < graphs <= 4, "one program for all blocks and lengths: of the student, and of the reference"


def test_where_it_cannot_work(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    with pytest.raises(UserError, match=r"--compile: ZeRO stage 3 .* Use stage 0, 1 or 2"):
        check_compile(3, cpu)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/g++" if name == "g++" else None)
    for stage in (0, 1, 2):
        check_compile(stage, cpu)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"--compile: needs a C\+\+ compiler"):
        check_compile(0, cpu)
    monkeypatch.setattr("clear_dist.models.compile.has_triton", lambda: False)
    with pytest.raises(UserError, match="--compile: needs Triton"):
        check_compile(0, torch.device("cuda"))
