"""Generation for prompts of one length: KV cache, early stop, no padding; greedy, or sampled with a seed a row.

Sampling uses the Gumbel-max form: argmax(log p + g), with g independent standard Gumbel noise, is a draw from p. The
noise of a row comes from a generator of its own, so an answer depends on its prompt and its seed alone: not on its
neighbours in the batch, on the number of ranks, or on the global random state, which is never touched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList
from transformers.generation.logits_process import LogitsProcessor, TemperatureLogitsWarper, TopPLogitsWarper

from clear_dist.models.family import unwrap
from clear_dist.models.model import Model
from clear_dist.models.processor import TokenProcessor


@dataclass(frozen=True)
class Sampling:
    """temperature > 0; top_p in (0, 1], the smallest set of tokens that holds so much probability; seeds: one a row."""

    seeds: tuple[int, ...]
    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        assert self.temperature > 0 and 0 < self.top_p <= 1, (self.temperature, self.top_p)


class _Gumbel(LogitsProcessor):
    """Adds Gumbel noise to log-probabilities, from a generator a row on the CPU: the same on every device."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        del input_ids
        assert len(self._generators) == scores.shape[0]
        rows = [torch.empty(scores.shape[1]).exponential_(generator=g) for g in self._generators]
        # -log of an exponential is Gumbel; a 0 would make it infinite, and NaN where a token is ruled out.
        noise = -torch.stack(rows).clamp_(min=torch.finfo(torch.float32).tiny).log()
        return scores.float().log_softmax(-1) + noise.to(scores.device)


@torch.no_grad()
def generate(
    model: Model,
    prompts: Sequence[Sequence[int]],
    pixel_values: Tensor | None,
    max_new_tokens: int,
    *,
    image_inputs: Mapping[str, Tensor] | None = None,
    synced: bool = False,
    sampling: Sampling | None = None,
    forbidden: Sequence[Sequence[int]] = (),
) -> list[list[int]]:
    """Continuations, EOS removed; greedy unless ``sampling`` is given.

    Args:
        model: its module plain or wrapped by PEFT; runs in eval mode.
        prompts: n lists of ids, all of one length (so nothing is padded and no mask can be wrong).
        pixel_values: [n, 3, H, W] float32, one picture a prompt, or the patches of all, joined; or None.
        image_inputs: what the tower is told beside the pixels, as ``Batch.image_inputs``.
        max_new_tokens: at most so many new tokens. A result of fewer has ended by itself.
        synced: every rank keeps stepping until all are done (ZeRO-3, where a step gathers parameters).
        sampling: draw instead of taking the most probable token.
        forbidden: sequences of ids that no continuation may contain; EOS alone cannot be forbidden.
    """
    if not prompts:
        return []
    assert len({len(p) for p in prompts}) == 1, "prompts of one call must have one length"
    assert sampling is None or len(sampling.seeds) == len(prompts), "one seed a prompt"
    module: Any = unwrap(model.module)
    device, eos_id, image_id = model.device, model.processor.eos_id, model.processor.image_id
    ids = torch.tensor([list(p) for p in prompts], dtype=torch.long, device=device)
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if pixel_values is not None:
        told = dict(image_inputs or {})
        assert all(len(x) == len(ids) for x in (told.values() if told else [pixel_values])), "one picture a prompt"
        inputs |= {name: x.to(device) for name, x in told.items()}
        inputs |= model.family.generation_inputs(ids, image_id)
        inputs["pixel_values"] = pixel_values.to(device=device, dtype=module.dtype)
    if sampling is not None:
        # After the library's own processors, so what they rule out (-inf) stays out.
        inputs["logits_processor"] = LogitsProcessorList(_warpers(sampling))
    # A configuration of our own: a directory's sampling settings would make generation random, or warn.
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=eos_id,
        pad_token_id=model.processor.pad_id,
        use_cache=True,
        suppress_tokens=None if image_id is None else [image_id],  # a placeholder is never an answer
        bad_words_ids=[list(sequence) for sequence in forbidden] or None,
    )
    kept, module.generation_config = module.generation_config, config
    training = module.training
    module.eval()
    try:
        out = module.generate(**inputs, generation_config=config, synced_gpus=synced)
    finally:
        module.generation_config = kept
        module.train(training)
    return [_until(row, eos_id) for row in out[:, ids.shape[1] :].tolist()]


def spellings(processor: TokenProcessor, phrases: Sequence[str]) -> list[list[int]]:
    """Token sequences that spell a phrase, for ``forbidden``: at the start of an answer, inside it and behind a
    bracket; in its own case, in lower and upper case and with capitals. A tokenizer may know further ways: check what
    comes out."""
    tokenizer = processor.tokenizer

    def plain(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])  # type: ignore[arg-type]

    bracket = plain("(")
    found: dict[tuple[int, ...], None] = {}
    for phrase in phrases:
        for form in dict.fromkeys((phrase, phrase.lower(), phrase.upper(), phrase.capitalize(), phrase.title())):
            ways = [processor.encode_answer(form)[:-1], plain(form), plain(f" {form}")]
            glued = plain(f"({form}")
            if glued[: len(bracket)] == bracket:
                ways.append(glued[len(bracket) :])
            for ids in ways:
                if ids and tokenizer.unk_token_id not in ids and ids != [processor.eos_id]:
                    found[tuple(ids)] = None
    return [list(ids) for ids in found]


def _warpers(sampling: Sampling) -> list[LogitsProcessor]:
    out: list[LogitsProcessor] = []
    if sampling.temperature != 1.0:
        out.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_p < 1.0:
        out.append(TopPLogitsWarper(sampling.top_p))
    return [*out, _Gumbel(sampling.seeds)]


def _until(ids: list[int], eos_id: int) -> list[int]:
    return ids[: ids.index(eos_id)] if eos_id in ids else ids
