"""Families that cut pictures by their size: packed is alone, tokens and pixels are the library's, answers too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sized_models import (
    MIXED,
    SQUARE,
    TALL,
    TEXTS_ONLY,
    WIDE,
    WRITERS,
    alone,
    example,
    library_inputs,
    own_inputs,
    sized_picture,
    write_qwen,
)
from torch import Tensor
from transformers import AutoModelForImageTextToText

from clear_dist.data.encode import encode, encode_all
from clear_dist.data.images import decode
from clear_dist.data.packing import Layout, PixelCache, pack
from clear_dist.engine.predict import ModelPredictor
from clear_dist.engine.sample import AnswerSampler
from clear_dist.models import (
    LLAVA,
    Model,
    add_lora,
    enable_checkpointing,
    final_hidden,
    freeze_tower,
    hidden_states,
    load_model,
    save_adapter,
    save_merged,
)
from clear_dist.models.family import restarts_cleanly, run_varlen
from clear_dist.models.quiet import quiet
from clear_dist.types import Batch, Example, Request

SIZES = [(61, 20), (20, 61), (24, 24), (25, 50), (300, 7), (7, 300), (48, 48), (1, 1), (97, 100)]


@pytest.fixture(scope="session", params=list(WRITERS))
def sized_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return WRITERS[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture
def sized(sized_dir: Path) -> Model:
    return load_model(sized_dir, dtype="fp32", device="cpu")


def packed(
    model: Model, examples: list[Example], layout: Layout = "dense", *, share: bool = True, row_length: int = 80
) -> Batch:
    views = {"forget": encode_all(examples, model.processor, 200)}
    return pack(
        views, model.processor, row_length=row_length, pixels=PixelCache(model.processor), layout=layout, share=share
    )


def logp(model: Model, module: torch.nn.Module, batch: Batch) -> Tensor:
    hidden = final_hidden(model.family, module, batch).flatten(0, 1)[batch.score_index]
    return model.family.head(module)(hidden).log_softmax(-1).gather(1, batch.targets[:, None])[:, 0]


def trained(model: Model) -> Any:
    """With an adapter that does something."""
    module = add_lora(model.module, 4, 8, model.family, seed=0)
    for name, p in module.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.05, generator=torch.Generator().manual_seed(len(name)))
    return module


@pytest.mark.parametrize("mode", ["eval", "checkpointed"])
@pytest.mark.parametrize(("layout", "share"), [("dense", True), ("dense", False), ("padded", True)])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_is_alone(sized_dir: Path, attention: Any, layout: Layout, share: bool, mode: str) -> None:
    model = load_model(sized_dir, dtype="fp32", attention=attention, device="cpu")
    expected = alone(model, model.module, MIXED).detach()
    if mode == "checkpointed":
        enable_checkpointing(model.module.train())
    for row_length in (80, 400):
        batch = packed(model, MIXED, layout, share=share, row_length=row_length)
        torch.testing.assert_close(logp(model, model.module, batch), expected, atol=1e-5, rtol=0)


def test_pictures_of_one_batch_differ_in_tokens_and_share_prefixes(sized: Model) -> None:
    batch = packed(sized, MIXED)
    tokens = [sized.processor.layout_of(*size).tokens for size in ((61, 20), (25, 50), (90, 90))]  # type: ignore[misc]
    assert len(set(tokens)) > 1
    assert batch.image_slots.numel() == sum(tokens), "the tall one once, for both its questions"
    assert batch.pixel_values is not None
    assert all(len(values) == 3 for values in batch.image_inputs.values())


def test_gradients_are_those_of_sequences_alone(sized: Model) -> None:
    """All weights, the vision tower's and the projector's too."""
    module = sized.module.train()
    alone(sized, module, MIXED).sum().backward()
    expected = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    logp(sized, module, packed(sized, MIXED)).sum().backward()
    used = [n for n, g in expected.items() if g.abs().max() > 1e-3]
    assert any("language_model" in n for n in used) and any("language_model" not in n for n in used)
    for name, p in module.named_parameters():
        if name in expected:
            assert p.grad is not None, name
            scale = max(1.0, float(expected[name].abs().max()))
            torch.testing.assert_close(p.grad / scale, expected[name] / scale, atol=1e-5, rtol=0, msg=name)


def test_adapter_is_on_the_language_model_alone(sized: Model) -> None:
    module = trained(sized)
    names = [n for n, p in module.named_parameters() if p.requires_grad]
    assert names and all("language_model.layers" in n for n in names)
    alone(sized, module, MIXED).sum().backward()
    expected = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    logp(sized, module, packed(sized, MIXED)).sum().backward()
    assert set(expected) == set(names)
    for name, p in module.named_parameters():
        if name in expected:
            torch.testing.assert_close(p.grad, expected[name], atol=1e-5, rtol=1e-5, msg=name)


def test_without_the_mask_sequences_would_leak(sized: Model) -> None:
    batch = packed(sized, MIXED, row_length=400)
    batch.visible_until = torch.full_like(batch.visible_until, batch.visible_until.shape[1])
    with torch.no_grad():
        leaked = logp(sized, sized.module, batch)
        assert (leaked - alone(sized, sized.module, MIXED)).abs().max() > 0.01


def test_without_rotary_grids_numbers_differ(tmp_path: Path) -> None:
    """Positions in three dimensions matter to a model that has them; one without refuses them."""
    model = load_model(write_qwen(tmp_path), dtype="fp32", device="cpu")
    batch = packed(model, MIXED)
    assert batch.rotary_ids is not None and packed(model, TEXTS_ONLY).rotary_ids is None
    batch.rotary_ids = None
    with torch.no_grad():
        assert (logp(model, model.module, batch) - alone(model, model.module, MIXED)).abs().max() > 1e-3
    with pytest.raises(AssertionError, match="three dimensions"):
        LLAVA.rotary(batch.position_ids, batch.position_ids[None])


def test_varlen_layout_is_alone(sized: Model) -> None:
    """Flash-attention's layout, run here through sdpa: no mask, sequences told apart by their places."""
    batch = packed(sized, MIXED, "varlen")
    assert batch.input_ids.shape[0] == 1 and restarts_cleanly(batch.position_ids)
    positions = sized.family.rotary(batch.position_ids, batch.rotary_ids)
    with torch.no_grad():
        embeds = sized.family.embed(sized.module, batch)
        hidden = run_varlen(sized.family.decoder(sized.module), embeds, positions)[0, batch.score_index]
        got = sized.family.head(sized.module)(hidden).log_softmax(-1).gather(1, batch.targets[:, None])[:, 0]
        torch.testing.assert_close(got, alone(sized, sized.module, MIXED), atol=1e-5, rtol=0)


def test_shortened_decoder_gives_the_whole_ones_states(sized: Model) -> None:
    batch = packed(sized, MIXED)
    with torch.no_grad():
        final, whole = hidden_states(sized.family, sized.module, batch, [0, 1])
        none, short = hidden_states(sized.family, sized.module, batch, [0], depth=1)
    assert final is not None and none is None
    torch.testing.assert_close(short[0], whole[0], atol=0, rtol=0)
    assert (whole[1] - whole[0]).abs().max() > 0.01


def test_text_only_batch_runs_the_tower_to_no_effect(sized: Model) -> None:
    module = sized.module.train()
    expected = alone(sized, module, TEXTS_ONLY).detach()
    batch = packed(sized, TEXTS_ONLY)
    seen: list[str] = []
    tower = sized.family.tower(module)
    assert tower is not None and batch.pixel_values is not None and not batch.pixel_values.any()
    tower.register_forward_hook(lambda *_: seen.append("tower"))
    got = logp(sized, module, batch)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    got.sum().backward()
    assert seen == ["tower"]
    vision = [p for n, p in module.named_parameters() if "language_model" not in n and "lm_head" not in n]
    used = [p.grad for p in vision if p.grad is not None]
    assert len(used) > len(vision) // 2 and all(not g.any() for g in used)


def test_frozen_tower_leaves_the_projector(sized: Model) -> None:
    freeze_tower(sized.family, sized.module)
    left = [n for n, p in sized.module.named_parameters() if p.requires_grad and "language_model" not in n]
    assert all(any(part in n for part in ("projector", "merger", "lm_head", "image_newline")) for n in left), left
    assert any("projector" in n or "merger" in n for n in left)


@pytest.mark.parametrize("size", SIZES)
def test_tokens_and_pixels_are_those_of_the_library(sized: Model, sized_dir: Path, size: tuple[int, int]) -> None:
    """The library's own processor on the same picture and template."""
    shown = sized_picture(*size)
    got = library_inputs(sized_dir, decode(shown), "Who is this person?")
    mine = own_inputs(sized, "Who is this person?", shown)
    assert got["input_ids"].tolist() == mine["input_ids"].tolist()
    torch.testing.assert_close(
        got["pixel_values"].reshape(mine["pixel_values"].shape), mine["pixel_values"], atol=0, rtol=0
    )
    for name in packed(sized, [example(0, "Who?", "Anna.", shown)]).image_inputs:
        assert got[name].tolist() == mine[name].tolist()
    with torch.no_grad():
        assert sized.module(**mine).logits.isfinite().all(), "the model takes as many tokens"


@torch.no_grad()
def greedy(model: Model, question: str, picture: Any, new: int) -> list[int]:
    """The library's own generation."""
    inputs = own_inputs(model, question, picture)
    module: Any = model.module.eval()
    out = module.generate(
        **inputs, do_sample=False, max_new_tokens=new, suppress_tokens=[model.processor.image_id], pad_token_id=0
    )[0, inputs["input_ids"].shape[1] :].tolist()
    return out[: out.index(model.processor.eos_id)] if model.processor.eos_id in out else out


def test_predictions_are_those_of_the_library(sized: Model) -> None:
    """Trees: scores of several answers, and answers decoded from the cache of the same pass."""
    requests = [Request(e.question, e.picture, (e.answer, "Anna.", "This is nobody's shirt.")) for e in MIXED]
    predictor = ModelPredictor(sized, row_length=150, token_budget=400)
    predictions = predictor.predict(requests, 7)
    for e, request, p in zip(MIXED, requests, predictions, strict=True):
        assert p.text == sized.processor.decode(greedy(sized, e.question, e.picture, 7))
        with torch.no_grad():
            expected = alone(sized, sized.module, [example(0, e.question, a, e.picture) for a in request.answers])
        got = torch.tensor([x for scored in p.scored for x in scored.logp])
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    assert len({p.text for p in predictions}) > 1, "one answer to everything would prove little"


def test_sampler_says_what_the_predictor_says(sized: Model) -> None:
    """Prompts of one length on pictures of one size, of another, and texts."""
    shown = [*(Request(e.question, e.picture) for e in MIXED), Request("Who?", sized_picture(61, 20, seed=1))]
    said = [s.text for s in AnswerSampler(sized).sample(shown, 6, temperature=0)]
    assert said == ModelPredictor(sized).generate(shown, 6)


def test_merged_and_adapter_load_again(sized: Model, tmp_path: Path) -> None:
    module = trained(sized)
    expected = alone(sized, module, MIXED).detach()
    merged = save_merged(module, None, tmp_path / "merged", sized.processor)
    adapter = save_adapter(module, None, tmp_path / "adapter", sized.processor)
    for out in (merged, adapter):
        again = load_model(out, dtype="fp32", device="cpu")
        torch.testing.assert_close(alone(again, again.module, MIXED), expected, atol=1e-5, rtol=0)
    with quiet():
        plain = AutoModelForImageTextToText.from_pretrained(merged, dtype=torch.float32).eval()
    torch.testing.assert_close(alone(sized, plain, MIXED), expected, atol=1e-5, rtol=0)


def test_too_long_names_what_the_picture_takes(sized: Model) -> None:
    with pytest.raises(Exception, match=r"e0: \d+ tokens .* up to the picture"):
        encode(example(0, "Who?", "Anna.", SQUARE), sized.processor, 12)


def test_one_conversation_through_the_librarys_forward(sized: Model) -> None:
    """Logits of every position, a picture alone in its batch."""
    for shown in (TALL, WIDE, None):
        batch = packed(sized, [example(0, "Who is this person?", "Anna Berg.", shown)])
        answer = sized.processor.encode_answer("Anna Berg.")
        with torch.no_grad():
            whole = sized.module(**own_inputs(sized, "Who is this person?", shown, answer), use_cache=False).logits
            mine = sized.family.head(sized.module)(final_hidden(sized.family, sized.module, batch))
        torch.testing.assert_close(mine, whole, atol=1e-5, rtol=0)
