"""The same numbers on a GPU as on a CPU, packed as alone, in fp32 and, within its rounding, in bf16."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clear_dist.data.encode import encode_all
from clear_dist.data.load import Dataset
from clear_dist.data.packing import Layout, PixelCache, pack
from clear_dist.engine.predict import ModelPredictor
from clear_dist.engine.step import StepModule
from clear_dist.methods import FORGET, RETAIN, kl, nll, npo
from clear_dist.models import Model, add_lora, load_model
from clear_dist.models.family import FLASH
from clear_dist.models.load import Attention, Dtype, choose_attention
from clear_dist.types import Batch, Request, UserError, View

OBJECTIVE = npo(FORGET, beta=0.5) + nll(RETAIN) + kl(RETAIN, direction="forward")
Statistics = dict[str, torch.Tensor]


def student(folder: Path, device: torch.device, dtype: Dtype, attention: Attention = "sdpa") -> Model:
    """A model whose adapter does something, with the same weights wherever it is."""
    model = load_model(folder, dtype=dtype, attention=attention, device="cpu")
    model.module = add_lora(model.module, 8, 16, model.family, seed=0)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.module.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02, generator=generator)
    model.module.to(device)
    return model


def batch_of(model: Model, data: Dataset, layout: Layout, per_view: int = 12) -> Batch:
    """Pictures and texts of both views."""
    views = {}
    for view in (View.FORGET, View.RETAIN):
        rows = data.train[str(view)]
        visual = [e for e in rows if e.picture is not None][: per_view // 2]
        texts = [e for e in rows if e.picture is None][: per_view - len(visual)]
        views[str(view)] = encode_all([*visual, *texts], model.processor, 512)
    return pack(
        views, model.processor, row_length=160, pixels=PixelCache(model.processor), layout=layout, multiple_of=8
    )


def statistics(model: Model, batch: Batch) -> Statistics:
    """``view/statistic`` -> [N] per-example means, fp32 on the CPU."""
    batch = batch.to(model.device)
    with torch.no_grad():
        values = StepModule(model.module, model.family)(batch, OBJECTIVE.needs)
    out: Statistics = {}
    for view, of_view in values.items():
        examples, tokens = batch.view_examples[view], batch.view_tokens[view]
        owner = batch.token_example[tokens] - examples.start
        count = torch.bincount(owner, minlength=examples.stop - examples.start)
        for name, x in of_view.items():
            assert x.dtype == torch.float32
            out[f"{view}/{name}"] = (x.new_zeros(len(count)).index_add(0, owner, x) / count).cpu()
    return out


def gap(a: Statistics, b: Statistics) -> float:
    assert a.keys() == b.keys() and len(a) == 3, sorted(a)
    return max(float((a[k] - b[k]).abs().max()) for k in a)


def test_fp32_losses_are_those_of_a_cpu(model_dir: Path, data: Dataset, device: torch.device):
    """Forward and gradients."""
    results = []
    for where in (torch.device("cpu"), device):
        model = student(model_dir, where, "fp32")
        batch = batch_of(model, data, "dense").to(where)
        values = StepModule(model.module, model.family)(batch, OBJECTIVE.needs)
        torch.cat([x for view in values.values() for x in view.values()]).sum().backward()
        gradients = {n: p.grad.cpu() for n, p in model.module.named_parameters() if p.grad is not None}
        results.append((statistics(model, batch), gradients))
    (on_cpu, cpu_gradients), (there, gradients) = results
    assert gap(on_cpu, there) < 1e-4
    assert gradients.keys() == cpu_gradients.keys() and gradients
    for name, gradient in gradients.items():
        scale = float(cpu_gradients[name].abs().max())
        assert float((gradient - cpu_gradients[name]).abs().max()) <= 1e-3 * scale + 1e-5, name


def test_packed_is_alone_in_fp32(model_dir: Path, data: Dataset, device: torch.device):
    model = student(model_dir, device, "fp32")
    assert (
        gap(statistics(model, batch_of(model, data, "dense")), statistics(model, batch_of(model, data, "padded")))
        < 1e-5
    )


def test_packed_is_alone_in_bf16(model_dir: Path, data: Dataset, device: torch.device):
    """Packing may change the order of sums, so it may cost as much as bf16 itself does, not more."""
    model = student(model_dir, device, "bf16")
    exact_model = student(model_dir, device, "fp32")
    packed = statistics(model, batch_of(model, data, "dense"))
    alone = statistics(model, batch_of(model, data, "padded"))
    exact = statistics(exact_model, batch_of(exact_model, data, "padded"))
    rounding = gap(alone, exact)
    assert 0 < rounding < 0.05
    assert gap(packed, alone) <= 2 * rounding


def test_flash_attention_agrees_with_the_mask(model_dir: Path, data: Dataset, device: torch.device):
    try:
        assert choose_attention(FLASH, torch.bfloat16, device.type == "cuda") == FLASH
    except UserError as error:
        pytest.skip(str(error))
    flash = student(model_dir, device, "bf16", FLASH)
    assert not flash.shares_prefixes
    sdpa = student(model_dir, device, "bf16")
    varlen = statistics(flash, batch_of(flash, data, "varlen"))
    assert gap(varlen, statistics(sdpa, batch_of(sdpa, data, "padded"))) < 0.05
    values = StepModule(flash.module, flash.family)(batch_of(flash, data, "varlen").to(device), OBJECTIVE.needs)
    values["forget"]["log_ratio"].sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in flash.module.parameters() if p.grad is not None)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_scores_and_texts(model_dir: Path, data: Dataset, device: torch.device, dtype: Dtype):
    """What evaluation asks of a model: fp32 gives a CPU's answers, bf16 gives complete ones."""
    examples = [*data.sets["forget"][:4], *data.sets["real_world"][:4]]
    asked = [Request(e.question, e.picture, (e.answer, *e.perturbed[:2])) for e in examples]
    there = ModelPredictor(load_model(model_dir, dtype=dtype, attention="sdpa", device=device))
    scores, texts = there.score(asked), there.generate(asked, 12)
    assert [len(s) for s in scores] == [len(r.answers) for r in asked] and len(texts) == len(asked)
    here = ModelPredictor(load_model(model_dir, dtype="fp32", device="cpu"))
    allowed = 1e-4 if dtype == "fp32" else 0.2
    for mine, theirs in zip(here.score(asked), scores, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            assert b.logp == pytest.approx(a.logp, abs=allowed)
            assert b.mean == pytest.approx(a.mean, abs=allowed) and b.std == pytest.approx(a.std, abs=allowed)
    if dtype == "fp32":
        assert texts == here.generate(asked, 12)
