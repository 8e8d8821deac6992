"""The Predictor that evaluation is given: scoring through packed batches, generation in equal-length groups."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from clear_dist.data.encode import Encoded, encode
from clear_dist.data.packing import PixelCache, pack
from clear_dist.models import Model, final_hidden, generate
from clear_dist.models.generate import Sampling, spellings
from clear_dist.ops import token_stats
from clear_dist.types import Example, Request


@dataclass(frozen=True)
class Said:
    """A continuation. ended: by itself, not because no more tokens were allowed."""

    text: str
    ended: bool


class ModelPredictor:
    """A whole model on this process's device.

    token_budget: tokens of one packed scoring batch; generation_batch: prompts generated together (equal lengths,
    so no padding); on_progress: called with the number of requests newly done.
    """

    def __init__(
        self,
        model: Model,
        *,
        row_length: int = 512,
        token_budget: int = 16_384,
        generation_batch: int = 64,
        max_length: int = 4096,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        self.model = model
        self._pixels = PixelCache(model.processor)
        self._row_length, self._token_budget = row_length, token_budget
        self._generation_batch, self._max_length = generation_batch, max_length
        self._done = on_progress or (lambda count: None)

    @torch.no_grad()
    def score(self, requests: Sequence[Request]) -> list[list[list[float]]]:
        """Per request, per answer: log-probabilities (natural) of its tokens, EOS included, fp32."""
        module = self.model.module.eval()
        out: list[list[list[float]]] = [[[] for _ in r.answers] for r in requests]
        for chunk in self._chunks(requests):
            batch = pack(
                {"score": [e for _, _, e in chunk]},
                self.model.processor,
                row_length=self._row_length,
                pixels=self._pixels,
                share=self.model.shares_prefixes,
            ).to(self.model.device)
            h_TD = final_hidden(self.model.family, module, batch).flatten(0, 1)[batch.score_index]
            head = self.model.family.head(module).weight
            logp = token_stats(h_TD, head, batch.targets, want=("logp",), wide=True)["logp"]
            pieces = logp.split(torch.bincount(batch.token_example, minlength=len(chunk)).tolist())
            for (request, answer, _), piece in zip(chunk, pieces, strict=True):
                out[request][answer] = piece.tolist()
            self._done(len({r for r, _, _ in chunk}))
        return out

    def _chunks(self, requests: Sequence[Request]) -> list[list[tuple[int, int, Encoded]]]:
        """(request, answer, encoded) triples, cut into batches of about ``token_budget`` tokens; the answers on one
        picture stay together where they fit, because they share its prefix."""
        chunks: list[list[tuple[int, int, Encoded]]] = [[]]
        tokens = 0
        for r, request in enumerate(requests):
            encoded = [self._encode(request, a, f"request {r}") for a in range(len(request.answers))]
            size = sum(e.length for e in encoded)
            if chunks[-1] and tokens + size > self._token_budget:
                chunks.append([])
                tokens = 0
            chunks[-1] += [(r, a, e) for a, e in enumerate(encoded)]
            tokens += size
        return [c for c in chunks if c]

    def _encode(self, request: Request, answer: int, name: str) -> Encoded:
        example = Example(
            id=name,
            set="forget",
            kind="qa",
            question=request.question,
            answer=request.answers[answer],
            picture=request.picture,
        )
        return encode(example, self.model.processor, self._max_length)

    def generate(self, requests: Sequence[Request], max_new_tokens: int) -> list[str]:
        """Greedy continuations. Prompts of equal length run together, without padding."""
        return [said.text for said in self._continue(requests, max_new_tokens, None, ())]

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
        groups: dict[tuple[int, bool], list[int]] = {}
        for i, request in enumerate(requests):
            prefix, rest = processor.encode_prompt(request.question, request.picture is not None)
            prompts.append([*prefix, *rest])
            groups.setdefault((len(prompts[-1]), request.picture is not None), []).append(i)
        out = [Said("", True)] * len(requests)
        for (_, with_picture), members in groups.items():
            for start in range(0, len(members), self._generation_batch):
                chunk = members[start : start + self._generation_batch]
                pixels = None
                if with_picture:
                    pictures = [requests[i].picture for i in chunk]
                    pixels = torch.stack([self._pixels(p) for p in pictures if p is not None])
                drawn = sampling and replace(sampling, seeds=tuple(sampling.seeds[i] for i in chunk))
                ids = generate(
                    self.model,
                    [prompts[i] for i in chunk],
                    pixels,
                    max_new_tokens,
                    sampling=drawn,
                    forbidden=forbidden,
                )
                for i, tokens in zip(chunk, ids, strict=True):
                    out[i] = Said(processor.decode(tokens), len(tokens) < max_new_tokens)
                self._done(len(chunk))
        return out
