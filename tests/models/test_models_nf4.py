"""4-bit base weights: what is packed, what it multiplies, what the reference is, and what is saved."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from sized_models import MIXED, WRITERS, alone, example
from torch import Tensor, nn

from clear_dist.data.encode import encode_all
from clear_dist.data.packing import PixelCache, pack
from clear_dist.models import (
    Model,
    Nf4Linear,
    add_lora,
    enable_checkpointing,
    final_hidden,
    inspect_model,
    load_model,
    packed_bytes,
    parameter_counts,
    reference_mode,
    save_adapter,
    save_merged,
    with_base_weights,
)
from clear_dist.models.lora import ORIGINAL
from clear_dist.models.quiet import quiet
from clear_dist.types import Batch, UserError

TEXTS = [example(0, "Who is this person?", "Anna Berg."), example(1, "Who?", "Ben Stone.")]


@pytest.fixture(scope="session", params=["llava", "llama", *WRITERS])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    fixture = {"llava": "tiny_dir", "llama": "llama_dir"}.get(request.param)
    if fixture is not None:
        return request.getfixturevalue(fixture)
    return WRITERS[request.param](tmp_path_factory.mktemp(request.param))


def load(folder: Path, base_weights: str = "nf4", dtype: Any = "fp32") -> Model:
    return load_model(with_base_weights(inspect_model(folder), base_weights), dtype=dtype, device="cpu")


def packed_layers(module: nn.Module) -> dict[str, Nf4Linear]:
    return {n: m for n, m in module.named_modules() if isinstance(m, Nf4Linear)}


def batch_of(model: Model) -> Batch:
    examples = TEXTS if model.info.image_tokens == 0 else MIXED
    views = {"forget": encode_all(examples, model.processor, 200)}
    return pack(views, model.processor, row_length=80, pixels=PixelCache(model.processor))


def logp(model: Model, module: nn.Module | None = None) -> Tensor:
    module = module or model.module
    batch = batch_of(model)
    hidden = final_hidden(model.family, module, batch).flatten(0, 1)[batch.score_index]
    return model.family.head(module)(hidden).log_softmax(-1).gather(1, batch.targets[:, None])[:, 0]


def stir(module: nn.Module, name: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for key, p in module.named_parameters():
        if f"lora_B.{name}" in key:
            nn.init.normal_(p, std=0.1, generator=generator)


def test_only_matrices_of_blocks_are_packed_and_each_multiplies_what_it_unpacks(folder: Path) -> None:
    full, model = load(folder, "full"), load(folder)
    layers = packed_layers(model.module)
    plain = dict(full.module.named_modules())
    blocks = model.family.blocks(model.module)
    assert len(layers) == sum(isinstance(m, nn.Linear) for b in full.family.blocks(full.module) for m in b.modules())
    assert {id(m) for m in layers.values()} == {id(m) for b in blocks for m in b.modules() if isinstance(m, Nf4Linear)}
    assert parameter_counts(model.module)[0] == parameter_counts(full.module)[0]
    for name, layer in layers.items():
        weight = plain[name].get_parameter("weight").detach()
        unpacked = layer.unpacked(torch.float32)
        # Half of NF4's widest gap between neighbours is .152 of the block's largest; and scales have 8 bits.
        largest = nn.functional.pad(weight.flatten().abs(), (0, -weight.numel() % 64)).view(-1, 64).amax(1)
        error = nn.functional.pad((unpacked - weight).flatten().abs(), (0, -weight.numel() % 64)).view(-1, 64).amax(1)
        assert bool((error <= 0.152 * largest + 0.02 * largest.max()).all()) and float(error.max()) > 0
        x = torch.randn(3, layer.in_features, requires_grad=True)
        out = layer(x)
        torch.testing.assert_close(out, x @ unpacked.T if layer.bias is None else x @ unpacked.T + layer.bias)
        out.square().sum().backward()
        assert x.grad is not None
        torch.testing.assert_close(x.grad, 2 * out.detach() @ unpacked)
        kept = sum(b.numel() * b.element_size() for b in layer.buffers())
        assert kept == packed_bytes(weight.numel())
    others = {n: p for n, p in model.module.named_parameters()}
    assert all(torch.equal(p, full.module.get_parameter(n)) for n, p in others.items()), "everything else is as it was"


@pytest.mark.parametrize("mode", ["eval", "checkpointed"])
def test_packed_sequences_are_alone(folder: Path, mode: str) -> None:
    model = load(folder)
    examples = TEXTS if model.info.image_tokens == 0 else MIXED
    if model.info.model_type in WRITERS:
        expected = alone(model, model.module, examples).detach()
    else:
        each = [pack({"x": encode_all([e], model.processor, 200)}, model.processor, row_length=1,
                     pixels=PixelCache(model.processor)) for e in examples]  # fmt: skip
        hidden = [final_hidden(model.family, model.module, b).flatten(0, 1)[b.score_index] for b in each]
        head = model.family.head(model.module)
        scores = [
            head(h).log_softmax(-1).gather(1, b.targets[:, None])[:, 0] for h, b in zip(hidden, each, strict=True)
        ]
        expected = torch.cat(scores).detach()
    if mode == "checkpointed":
        enable_checkpointing(model.module.train())
    torch.testing.assert_close(logp(model), expected, atol=1e-5, rtol=0)
    assert float((logp(load(folder, "full")).detach() - expected).abs().max()) > 1e-3, "four bits make a difference"


def test_no_cast_touches_the_scales(folder: Path) -> None:
    model = load(folder)
    before = {n: layer.unpacked(torch.float32) for n, layer in packed_layers(model.module).items()}
    model.module.bfloat16()
    for name, layer in packed_layers(model.module).items():
        assert torch.equal(layer.unpacked(torch.float32), before[name])
        assert layer(torch.ones(1, layer.in_features, dtype=torch.bfloat16)).dtype == torch.bfloat16
    half = load(folder, dtype="bf16")
    assert {p.dtype for p in add_lora(half.module, 4, 8, half.family).parameters()} == {torch.bfloat16}


@pytest.fixture
def original(folder: Path, tmp_path: Path) -> Path:
    """An adapter made on 4-bit weights, of the first block only."""
    model = load(folder)
    module = add_lora(model.module, 3, 12, model.family, seed=1, layers=[0])
    stir(module, "default", 2)
    return save_adapter(module, None, tmp_path / "original", model.processor, base=folder.resolve())


def test_switching_the_unlearning_adapter_off_gives_the_original(original: Path) -> None:
    known = load_model(original, dtype="fp32", device="cpu")
    assert known.info.base_weights == "nf4" and isinstance(known.module, PeftModel)
    wanted = logp(known).detach()
    student = load_model(original, dtype="fp32", device="cpu")
    module = add_lora(student.module, 4, 8, student.family, seed=5).train()
    assert torch.equal(logp(student, module), wanted), "a fresh adapter changes nothing"
    trained = {n for n, p in module.named_parameters() if p.requires_grad}
    assert trained and all(".default." in n for n in trained)
    stir(module, "default", 7)
    moved = logp(student, module)
    assert float((moved.detach() - wanted).abs().max()) > 1e-3
    with reference_mode(module):
        found = logp(student, module)
        assert not found.requires_grad
    assert torch.equal(found, wanted)
    with pytest.raises(RuntimeError, match="on the way"), reference_mode(module):
        raise RuntimeError("on the way")
    torch.testing.assert_close(logp(student, module), moved)
    moved.sum().backward()
    assert {n for n, p in module.named_parameters() if p.grad is not None} == trained
    assert {n for n, p in module.named_parameters() if p.requires_grad} == trained


def test_both_adapters_are_saved_as_one(original: Path, folder: Path, tmp_path: Path) -> None:
    """It is loaded again on 4-bit weights, as it was trained; and by plain PEFT on the full ones."""
    student = load_model(original, dtype="fp32", device="cpu")
    module = add_lora(student.module, 4, 8, student.family, seed=5)
    stir(module, "default", 7)
    wanted = logp(student, module).detach()
    state = {n: p.detach().clone() for n, p in module.named_parameters() if p.requires_grad}
    out = save_adapter(
        module, state, tmp_path / "unlearned", student.processor, base=folder.resolve(), beneath=student.beneath
    )
    found = load_model(out, dtype="fp32", device="cpu")
    assert found.info.base_weights == "nf4" and list(found.module.peft_config) == [ORIGINAL]  # type: ignore[union-attr]
    torch.testing.assert_close(logp(found), wanted, atol=1e-5, rtol=0)
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] == 7 and config["base_model_name_or_path"] == str(folder.resolve())
    assert json.loads((out / "base_weights.json").read_text()) == {"v": 1, "base_weights": "nf4"}
    # Full weights: one after the other, and both at once.
    step = load_model(with_base_weights(inspect_model(original), "full"), dtype="fp32", device="cpu")
    second = add_lora(step.module, 4, 8, step.family, seed=5)
    stir(second, "default", 7)
    base = load(folder, "full")
    with quiet():
        plain = PeftModel.from_pretrained(base.module, str(out))  # type: ignore[arg-type]
    torch.testing.assert_close(logp(base, plain), logp(step, second), atol=1e-5, rtol=0)
    merged = load_model(with_base_weights(inspect_model(out), "full"), dtype="fp32", device="cpu")
    assert not packed_layers(merged.module) and not isinstance(merged.module, PeftModel)
    torch.testing.assert_close(logp(merged), logp(base, plain), atol=1e-5, rtol=0)


def test_nothing_is_merged_into_four_bits(original: Path, tmp_path: Path) -> None:
    model = load_model(original, dtype="fp32", device="cpu")
    with pytest.raises(AssertionError, match="4-bit"):
        save_merged(model.module, None, tmp_path / "merged", model.processor)
    with pytest.raises(AssertionError, match="beneath"):
        save_adapter(add_lora(model.module, 4, 8, model.family), None, tmp_path / "half", model.processor)


def test_what_is_wrong_is_named(
    original: Path, tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = original / "base_weights.json"
    note.write_text('{"v": 1, "base_weights": "int3"}')
    with pytest.raises(UserError, match=r"base_weights\.json: base_weights is 'int3', expected one of full, nf4"):
        inspect_model(original)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'clear-dist\[nf4\]', or --base-weights full"):
        load_model(replace(inspect_model(tiny_dir), base_weights="nf4"), device="cpu")


def test_weights_that_are_stored_quantised_are_refused(tiny_dir: Path, copy_of: Any) -> None:
    spoilt = copy_of(tiny_dir)
    config = json.loads((spoilt / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (spoilt / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"config\.json: the weights are stored quantised.*--base-weights nf4"):
        inspect_model(spoilt)
