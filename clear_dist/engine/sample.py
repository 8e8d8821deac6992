"""Answers drawn at random from a whole model, or greedy ones, with sequences of tokens that must not occur."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from clear_dist.data.encode import encode_prompt
from clear_dist.data.packing import PixelCache, stack_pixels
from clear_dist.data.picture_inputs import image_inputs
from clear_dist.models import Model
from clear_dist.models.generate import Sampling, generate, spellings
from clear_dist.types import ImageLayout, Request


@dataclass(frozen=True)
class Said:
    """A continuation. ended: by itself, not because no more tokens were allowed."""

    text: str
    ended: bool


class AnswerSampler:
    """A whole model on this process's device. batch: prompts generated together (equal lengths, so no padding)."""

    def __init__(self, model: Model, *, batch: int = 64) -> None:
        self.model = model
        self._pixels = PixelCache(model.processor)
        self._batch = batch

    def sample(
        self,
        requests: Sequence[Request],
        max_new_tokens: int,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int = 0,
        forbidden: Sequence[Sequence[int]] = (),
    ) -> list[Said]:
        """Continuations drawn at random, or greedy ones at temperature 0, without the ``forbidden`` token sequences.

        An answer depends on the seed, its question and picture, and on how often these stood in the list before:
        not on the other requests, on batches or on ranks.
        """
        if temperature == 0:
            return self._continue(requests, max_new_tokens, None, forbidden)
        seen: Counter[tuple[str, str]] = Counter()
        seeds: list[int] = []
        for request in requests:
            key = (request.question, request.picture.digest if request.picture else "")
            text = "\0".join((*key, str(seed), str(seen[key])))
            # 63 bits: torch takes signed seeds.
            seeds.append(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1)
            seen[key] += 1
        return self._continue(requests, max_new_tokens, Sampling(tuple(seeds), temperature, top_p), forbidden)

    def spellings(self, phrases: Sequence[str]) -> list[list[int]]:
        """Token sequences that spell the phrases, for ``sample(forbidden=...)``."""
        return spellings(self.model.processor, phrases)

    @torch.no_grad()
    def _continue(
        self,
        requests: Sequence[Request],
        max_new_tokens: int,
        sampling: Sampling | None,
        forbidden: Sequence[Sequence[int]],
    ) -> list[Said]:
        self.model.module.eval()
        processor = self.model.processor
        prompts: list[list[int]] = []
        layouts: list[ImageLayout | None] = []
        groups: dict[tuple[int, bool], list[int]] = {}
        for i, request in enumerate(requests):
            prefix, rest, layout = encode_prompt(processor, request.question, request.picture)
            prompts.append([*prefix, *rest])
            layouts.append(layout)
            groups.setdefault((len(prompts[-1]), request.picture is not None), []).append(i)
        out = [Said("", True)] * len(requests)
        for (_, with_picture), members in groups.items():
            for start in range(0, len(members), self._batch):
                chunk = members[start : start + self._batch]
                pixels, told = None, {}
                if with_picture:
                    pictures = [p for i in chunk if (p := requests[i].picture) is not None]
                    pixels = stack_pixels(pictures, processor, self._pixels)
                    told = image_inputs([x for i in chunk if (x := layouts[i]) is not None], processor)
                drawn = sampling and replace(sampling, seeds=tuple(sampling.seeds[i] for i in chunk))
                ids = generate(
                    self.model,
                    [prompts[i] for i in chunk],
                    pixels,
                    max_new_tokens,
                    image_inputs=told,
                    sampling=drawn,
                    forbidden=forbidden,
                )
                for i, tokens in zip(chunk, ids, strict=True):
                    out[i] = Said(processor.decode(tokens), len(tokens) < max_new_tokens)
        return out
