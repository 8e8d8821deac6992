"""A packed sequence sees exactly what it would see alone: log-probabilities agree, whatever the mode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from models_support import picture
from torch import Tensor
from transformers import MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM

from clear_dist.models import (
    CAUSAL_LM,
    Family,
    Model,
    add_lora,
    enable_checkpointing,
    final_hidden,
    freeze_tower,
    load_model,
    parameter_counts,
)
from clear_dist.models.family import restarts_cleanly, run_varlen
from clear_dist.types import Batch

ANSWERS = ["Anna Berg, with short red hair.", "Ben Stone.", "Anna."]
QUESTIONS = ["Who is this person?", "What does Anna Berg look like?", "Who?"]


@dataclass
class Group:
    """A picture (or none) and the (rest, answer) ids of the questions on it."""

    pixels: Tensor | None
    prefix: list[int]
    parts: list[tuple[list[int], list[int]]]


def groups(model: Model, pictures: bool) -> list[Group]:
    """Two questions on a picture, one on another, and two texts (texts only for a text-only model)."""
    p = model.processor

    def part(k: int, with_picture: bool) -> tuple[list[int], list[int]]:
        return p.encode_prompt(QUESTIONS[k], with_picture)[1], p.encode_answer(ANSWERS[k])

    made = [Group(None, [], [part(0, False)]), Group(None, [], [part(2, False)])]
    if pictures:
        prefix = p.encode_prompt(QUESTIONS[0], True)[0]
        made.insert(0, Group(p.pixels(picture(1)), prefix, [part(0, True), part(1, True)]))
        made.append(Group(p.pixels(picture(2)), prefix, [part(2, True)]))
    return made


def pack(model: Model, rows: list[list[Group]]) -> Batch:
    """Rows of groups as a Batch, padded at the right; written independently of the project's packer."""
    lines: list[dict[str, list[Any]]] = []
    slots, index, targets, owner = ([] for _ in range(4))
    pixels: list[Tensor] = []
    length = max(sum(len(g.prefix) + sum(len(q) + len(a) for q, a in g.parts) for g in row) for row in rows)
    example = 0
    for r, row in enumerate(rows):
        at = 0
        line: dict[str, list] = {"ids": [], "pos": [], "until": []}

        def put(tokens: list[int], start: int, until: int, to: dict[str, list] = line) -> None:
            to["ids"] += tokens
            to["pos"] += range(start, start + len(tokens))
            to["until"] += [until] * len(tokens)

        for group in row:
            if group.pixels is not None:
                pixels.append(group.pixels)
                image_id = model.processor.image_id
                slots += [r * length + at + k for k, t in enumerate(group.prefix) if t == image_id]
            put(group.prefix, 0, at + len(group.prefix) + sum(len(q) + len(a) for q, a in group.parts))
            at += len(group.prefix)
            for rest, answer in group.parts:
                put(rest + answer, len(group.prefix), at + len(rest) + len(answer))
                at += len(rest) + len(answer)
                index += [r * length + k for k in range(at - len(answer) - 1, at - 1)]
                targets += answer
                owner += [example] * len(answer)
                example += 1
        fill = length - at
        line["real"] = [True] * at + [False] * fill
        for name, value in (("ids", model.processor.pad_id), ("pos", 0), ("until", length)):
            line[name] += [value] * fill
        lines.append(line)
    vision = model.processor.image_id is not None
    dummy = [torch.zeros(model.processor.image_shape)] if vision and not pixels else pixels
    return Batch(
        input_ids=torch.tensor([line["ids"] for line in lines]),
        position_ids=torch.tensor([line["pos"] for line in lines]),
        visible_until=torch.tensor([line["until"] for line in lines]),
        real=torch.tensor([line["real"] for line in lines]),
        pixel_values=torch.stack(dummy) if vision else None,
        image_slots=torch.tensor(slots, dtype=torch.long),
        score_index=torch.tensor(index),
        targets=torch.tensor(targets),
        token_example=torch.tensor(owner),
        view_examples={},
        view_tokens={},
        example_ids=[str(k) for k in range(example)],
        real_tokens=0,
    )


def logp(family: Family, module: torch.nn.Module, batch: Batch) -> Tensor:
    """[T] log-probabilities of the answer tokens."""
    hidden = final_hidden(family, module, batch).flatten(0, 1)[batch.score_index]
    return family.head(module)(hidden).log_softmax(-1).gather(1, batch.targets[:, None])[:, 0]


def alone(model: Model, module: torch.nn.Module, items: list[Group]) -> Tensor:
    """The same through the model's own forward, each sequence by itself, with no mask and its own positions."""
    out = []
    for group in items:
        for rest, answer in group.parts:
            ids = torch.tensor([group.prefix + rest + answer])
            extra = {} if group.pixels is None else {"pixel_values": group.pixels[None]}
            logits = module(input_ids=ids, use_cache=False, **extra).logits[0].log_softmax(-1)
            out.append(logits[-len(answer) - 1 : -1].gather(1, torch.tensor(answer)[:, None])[:, 0])
    return torch.cat(out)


@pytest.mark.parametrize("pictures", [False, True])
@pytest.mark.parametrize("mode", ["eval", "train", "checkpointed"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_is_alone(tiny_dir, attention, mode, pictures):
    model = load_model(tiny_dir, dtype="fp32", attention=attention, device="cpu")
    items = groups(model, pictures)
    expected = alone(model, model.module, items).detach()
    module = model.module.train(mode != "eval")
    if mode == "checkpointed":
        enable_checkpointing(module)
    for rows in ([items], [items[: len(items) // 2], items[len(items) // 2 :]]):
        torch.testing.assert_close(logp(model.family, module, pack(model, rows)), expected, atol=1e-5, rtol=0)


def test_packed_is_alone_for_a_language_model(llama_dir):
    model = load_model(llama_dir, dtype="fp32", device="cpu")
    items = groups(model, False)
    got = logp(model.family, model.module, pack(model, [items]))
    torch.testing.assert_close(got, alone(model, model.module, items), atol=1e-5, rtol=0)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_gradients_are_those_of_sequences_alone(llava, checkpointed):
    module = add_lora(llava.module, 4, 8, llava.family, seed=0)
    for name, p in module.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.05, generator=torch.Generator().manual_seed(len(name)))
    items = groups(llava, True)
    module.train()
    alone(llava, module, items).sum().backward()
    expected = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    if checkpointed:
        enable_checkpointing(module)
    logp(llava.family, module, pack(llava, [items])).sum().backward()
    assert expected
    for name, p in module.named_parameters():
        if p.requires_grad:
            torch.testing.assert_close(p.grad, expected[name], atol=1e-4, rtol=1e-4, msg=name)


def test_without_the_mask_sequences_would_leak(llava):
    """The trap itself: without the block-diagonal mask the numbers differ, so the tests above can fail."""
    items = groups(llava, True)
    batch = pack(llava, [items])
    batch.visible_until = torch.full_like(batch.visible_until, batch.visible_until.shape[1])
    with torch.no_grad():
        leaked = logp(llava.family, llava.module.eval(), batch)
    assert (leaked - alone(llava, llava.module, items)).abs().max() > 0.01


def test_text_only_batch_runs_the_tower_to_no_effect(llava):
    items = groups(llava, False)
    batch = pack(llava, [items])
    module = llava.module.train()
    seen: list[str] = []
    tower = llava.family.tower(module)
    assert tower is not None
    tower.register_forward_hook(lambda *_: seen.append("tower"))
    logp(llava.family, module, batch).sum().backward()
    assert seen == ["tower"]
    vision = [p for n, p in module.named_parameters() if "vision_tower" in n or "multi_modal_projector" in n]
    used = [p.grad for p in vision if p.grad is not None]
    assert len(used) > len(vision) // 2, "the tower must take part in backward"
    assert all(not g.any() for g in used), "and leave no trace"


def test_dummy_picture_changes_nothing(llava):
    batch = pack(llava, [groups(llava, False)])
    with torch.no_grad():
        first = final_hidden(llava.family, llava.module, batch)
        assert batch.pixel_values is not None
        batch.pixel_values = torch.randn(batch.pixel_values.shape, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(final_hidden(llava.family, llava.module, batch), first, atol=0, rtol=0)


def test_frozen_tower_gets_no_gradient(llava):
    freeze_tower(llava.family, llava.module)
    logp(llava.family, llava.module.train(), pack(llava, [groups(llava, True)])).sum().backward()
    grads = {n: p.grad is not None for n, p in llava.module.named_parameters()}
    assert not any(g for n, g in grads.items() if "vision_tower" in n)
    assert all(g for n, g in grads.items() if "multi_modal_projector" in n)
    total, trainable = parameter_counts(llava.module)
    tower = llava.family.tower(llava.module)
    assert tower is not None
    assert total - trainable == sum(p.numel() for p in tower.parameters())


def test_varlen_layout_is_the_dense_one(llava):
    """Flash-attention's layout (rows joined, no mask, restarting positions), run here through sdpa."""
    items = [Group(g.pixels, g.prefix, [part]) for g in groups(llava, True) for part in g.parts]
    batch = pack(llava, [items[:2], items[2:]])
    assert restarts_cleanly(batch.position_ids)
    embeds = llava.family.embed(llava.module, batch)
    flat = run_varlen(llava.family.decoder(llava.module), embeds.reshape(1, -1, embeds.shape[-1]),
                      batch.position_ids.reshape(1, -1))  # fmt: skip
    dense = final_hidden(llava.family, llava.module, batch).flatten(0, 1)
    real = batch.real.flatten()
    torch.testing.assert_close(flat[0][real], dense[real], atol=1e-5, rtol=0)


def test_shared_prefix_is_recognised(llava):
    assert not restarts_cleanly(pack(llava, [groups(llava, True)]).position_ids)
    assert not restarts_cleanly(torch.tensor([[3, 4, 5]]))


@pytest.mark.parametrize("kind", ["mistral", "qwen2"])
def test_sliding_windows_are_kept(kind):
    """A 4-D mask is handed through as it is, so the window must be cut into it: longer sequences than the window."""
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "sliding_window": 4,
    }
    if kind == "mistral":
        module = MistralForCausalLM(MistralConfig(**shape))
    else:
        layers = ["full_attention", "sliding_attention"]
        module = Qwen2ForCausalLM(Qwen2Config(**shape, use_sliding_window=True, layer_types=layers))
    module.eval()
    ids = torch.randint(0, 64, (2, 12))
    batch = Batch(
        input_ids=ids.reshape(1, -1),
        position_ids=torch.arange(12).repeat(2)[None],
        visible_until=torch.tensor([12, 24]).repeat_interleave(12)[None],
        real=torch.ones(1, 24, dtype=torch.bool),
        pixel_values=None,
        image_slots=torch.empty(0, dtype=torch.long),
        score_index=torch.arange(24),
        targets=ids.flatten(),
        token_example=torch.arange(2).repeat_interleave(12),
        view_examples={},
        view_tokens={},
        example_ids=["0", "1"],
        real_tokens=24,
    )
    with torch.no_grad():
        packed = final_hidden(CAUSAL_LM, module, batch).reshape(2, 12, -1)
        expected = CAUSAL_LM.decoder(module)(input_ids=ids, use_cache=False).last_hidden_state
        torch.testing.assert_close(packed, expected, atol=1e-5, rtol=0)
        CAUSAL_LM.decoder(module).config.sliding_window = 100
        assert (final_hidden(CAUSAL_LM, module, batch).reshape(2, 12, -1) - expected).abs().max() > 1e-3
