"""LoRA: off is the original, merged is on, and what is saved is what plain libraries load."""

from __future__ import annotations

import json

import pytest
import torch
from models_support import picture
from peft import PeftModel
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
)

from clear_dist.models import (
    CAUSAL_LM,
    add_lora,
    check_plain,
    inspect_model,
    load_model,
    merge_lora,
    reference_mode,
    save_adapter,
    save_merged,
    trainable_state,
    weights_digest,
)
from clear_dist.models.quiet import quiet
from clear_dist.types import UserError


def logits(model, module: nn.Module) -> torch.Tensor:
    """Logits of one prompt, on a picture where the model sees pictures."""
    p = model.processor
    vision = p.image_id is not None
    prefix, rest = p.encode_prompt("Who is this person?", vision)
    extra = {"pixel_values": p.pixels(picture(0))[None]} if vision else {}
    with torch.no_grad():
        return module(input_ids=torch.tensor([prefix + rest]), use_cache=False, **extra).logits


def trained(model) -> PeftModel:
    """An adapter with weights that do something (B starts at zero)."""
    module = add_lora(model.module, 4, 8, model.family, seed=1)
    stir(module, 2)
    return module.eval()


def stir(module: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, p in module.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(p, std=0.05, generator=generator)


def test_touches_the_language_model_only(llava):
    state = trainable_state(add_lora(llava.module, 4, 8, llava.family))
    assert len(state) == 3 * 7 * 2
    assert all("language_model" in name and "lora_" in name for name in state)


def test_starts_as_the_original(model):
    before = logits(model, model.module)
    torch.testing.assert_close(logits(model, add_lora(model.module, 4, 8, model.family)), before, atol=0, rtol=0)


def test_seed_fixes_the_adapter_and_nothing_else(tiny_dir):
    states = []
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    for _ in range(2):
        model = load_model(tiny_dir, dtype="fp32", device="cpu")
        states.append(trainable_state(add_lora(model.module, 4, 8, model.family, seed=7)))
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert torch.equal(torch.rand(3), expected)


def test_reference_is_the_original(model):
    before = logits(model, model.module)
    module = trained(model)
    after = logits(model, module)
    assert (after - before).abs().max() > 1e-3
    with reference_mode(module):
        torch.testing.assert_close(logits(model, module), before, atol=0, rtol=0)
        assert not torch.is_grad_enabled()
    torch.testing.assert_close(logits(model, module), after, atol=0, rtol=0)


def test_reference_of_a_lora_original_is_the_original_not_the_base(tiny_dir, tmp_path):
    """The chain base -> original (an adapter) -> unlearned: the original's adapter is merged before unlearning."""
    base = load_model(tiny_dir, dtype="fp32", device="cpu")
    of_base = logits(base, base.module)
    module = trained(base)
    of_original = logits(base, module)
    save_adapter(module, None, tmp_path / "original", base.processor)
    original = load_model(tmp_path / "original", dtype="fp32", device="cpu")
    assert original.info.adapter == tmp_path / "original"
    student = add_lora(original.module, 4, 8, original.family, seed=3)
    with reference_mode(student):
        torch.testing.assert_close(logits(original, student), of_original, atol=1e-5, rtol=0)
    assert (of_original - of_base).abs().max() > 1e-3


@pytest.mark.parametrize("rslora", [False, True])
def test_an_adapter_over_an_adapter_is_saved_with_it(model, tmp_path, rslora):
    """By itself, on the base, what unlearned would be a model that never knew anybody. The original's adapter is on one
    block only, of another rank and, with rsLoRA, of another scale than alpha / r."""
    module = add_lora(model.module, 3, 12, model.family, seed=4, layers=[0])
    stir(module, 5)
    known = save_adapter(module, None, tmp_path / "original", model.processor)
    if rslora:
        config = json.loads((known / "adapter_config.json").read_text())
        (known / "adapter_config.json").write_text(json.dumps(config | {"use_rslora": True}))
    original = load_model(known, dtype="fp32", device="cpu")
    of_original = logits(original, original.module)
    assert len(original.beneath) in (6, 7) and not isinstance(original.module, PeftModel)
    student = trained(original)
    expected = logits(original, student)
    state = trainable_state(student)
    base = original.info.path
    out = save_adapter(student, state, tmp_path / "unlearned", original.processor, base=base, beneath=original.beneath)
    again = load_model(out, dtype="fp32", device="cpu")
    torch.testing.assert_close(logits(again, again.module), expected, atol=1e-5, rtol=0)
    assert (expected - of_original).abs().max() > 1e-3
    auto = AutoModelForImageTextToText if model.processor.image_id is not None else AutoModelForCausalLM
    with quiet():
        plain = PeftModel.from_pretrained(auto.from_pretrained(base, dtype=torch.float32), str(out))
    torch.testing.assert_close(logits(model, plain.eval()), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "bias"),
        ({"peft_type": "IA3"}, "peft_type IA3"),
    ],
)
def test_what_cannot_be_joined_is_named(model, tmp_path, more, named):
    out = save_adapter(trained(model), None, tmp_path / "adapter")
    check_plain(out)
    config = json.loads((out / "adapter_config.json").read_text())
    (out / "adapter_config.json").write_text(json.dumps(config | more))
    with pytest.raises(UserError, match=rf"adapter_config\.json: {named}: .*merge_and_unload"):
        check_plain(out)


def test_merge_equals_adapter(model):
    module = trained(model)
    expected = logits(model, module)
    merged = merge_lora(module)
    assert not isinstance(merged, PeftModel)
    torch.testing.assert_close(logits(model, merged), expected, atol=1e-5, rtol=0)


def test_adapter_loads_in_plain_peft(model, tmp_path):
    module = trained(model)
    expected = logits(model, module)
    out = save_adapter(module, None, tmp_path / "adapter", model.processor)
    auto = AutoModelForImageTextToText if model.processor.image_id is not None else AutoModelForCausalLM
    with quiet():
        plain = PeftModel.from_pretrained(auto.from_pretrained(model.info.path, dtype=torch.float32), str(out))
    torch.testing.assert_close(logits(model, plain.eval()), expected, atol=1e-6, rtol=0)


def test_adapter_is_saved_from_a_given_state(model, tmp_path):
    """As under ZeRO-3, where the module's own tensors are empty and the engine gathers full ones."""
    module = trained(model)
    expected = logits(model, module)
    state = {k: v.clone() for k, v in trainable_state(module).items()}
    for p in module.parameters():
        if p.requires_grad:
            p.data.zero_()
    out = save_adapter(module, state, tmp_path / "adapter", model.processor)
    again = load_model(out, dtype="fp32", device="cpu")
    torch.testing.assert_close(logits(again, again.module), expected, atol=1e-5, rtol=0)


def test_adapter_base_can_be_relative(tiny_dir, tmp_path, llava, copy_of):
    copy = copy_of(tiny_dir)
    out = save_adapter(trained(llava), None, tmp_path / "adapter", base="../copy")
    info = inspect_model(out)
    assert info.path.resolve() == copy.resolve()
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == "../copy"


@pytest.mark.parametrize("with_adapter", [True, False])
def test_merged_loads_in_plain_transformers(model, tmp_path, with_adapter):
    module = trained(model) if with_adapter else model.module
    expected = logits(model, module)
    out = save_merged(module, None, tmp_path / "merged", model.processor)
    torch.testing.assert_close(logits(model, module), expected, atol=0, rtol=0)  # left as it was
    vision = model.processor.image_id is not None
    auto = AutoModelForImageTextToText if vision else AutoModelForCausalLM
    with quiet():
        plain = auto.from_pretrained(out, dtype=torch.float32).eval()
    torch.testing.assert_close(logits(model, plain), expected, atol=1e-5, rtol=0)
    question = "Who is this person?"
    if vision:
        text = f"USER: <image>\n{question} ASSISTANT:"
        got = AutoProcessor.from_pretrained(out)(images=picture(0), text=text, return_tensors="pt")
        prefix, rest = model.processor.encode_prompt(question, True)
        assert got["input_ids"][0].tolist() == prefix + rest
        torch.testing.assert_close(got["pixel_values"][0], model.processor.pixels(picture(0)), atol=0, rtol=0)
    else:
        text = f"Question: {question}\nAnswer:"
        assert (
            AutoTokenizer.from_pretrained(out)(text)["input_ids"] == model.processor.encode_prompt(question, False)[1]
        )


def test_merged_equals_peft_merge(llava, tmp_path):
    module = trained(llava)
    out = save_merged(module, None, tmp_path / "merged", llava.processor)
    merged = merge_lora(module).state_dict()
    again = load_model(out, dtype="fp32", device="cpu").module.state_dict()
    assert merged.keys() == again.keys()
    for name, tensor in merged.items():
        torch.testing.assert_close(again[name], tensor, atol=1e-6, rtol=0)


def test_saving_what_was_loaded_keeps_the_digest(model, tmp_path):
    out = save_merged(model.module, None, tmp_path / "again", model.processor)
    assert weights_digest(out) == weights_digest(model.info.path)


def test_digest_sees_one_changed_number(model, tmp_path):
    next(model.module.parameters()).data.view(-1)[0] += 1
    out = save_merged(model.module, None, tmp_path / "other", model.processor)
    assert weights_digest(out) != weights_digest(model.info.path)


def test_model_without_known_projections_is_refused():
    gpt2 = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=32, n_positions=16))
    with pytest.raises(UserError, match="--full"):
        add_lora(gpt2, 4, 8, CAUSAL_LM)
