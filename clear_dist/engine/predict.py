"""The Predictor that evaluation is given: scoring through packed batches, generation in equal-length groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from clear_dist.data.encode import Encoded, encode
from clear_dist.data.packing import PixelCache, pack
from clear_dist.models import Model, final_hidden, generate
from clear_dist.ops import token_stats
from clear_dist.types import Example, Request


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
            logp = token_stats(h_TD, head, batch.targets, want=("logp",))["logp"]
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

    @torch.no_grad()
    def generate(self, requests: Sequence[Request], max_new_tokens: int) -> list[str]:
        """Greedy continuations. Prompts of equal length run together, without padding."""
        self.model.module.eval()
        processor = self.model.processor
        prompts: list[list[int]] = []
        groups: dict[tuple[int, bool], list[int]] = {}
        for i, request in enumerate(requests):
            prefix, rest = processor.encode_prompt(request.question, request.picture is not None)
            prompts.append([*prefix, *rest])
            groups.setdefault((len(prompts[-1]), request.picture is not None), []).append(i)
        out = [""] * len(requests)
        for (_, with_picture), members in groups.items():
            for start in range(0, len(members), self._generation_batch):
                chunk = members[start : start + self._generation_batch]
                pixels = None
                if with_picture:
                    pictures = [requests[i].picture for i in chunk]
                    pixels = torch.stack([self._pixels(p) for p in pictures if p is not None])
                ids = generate(self.model, [prompts[i] for i in chunk], pixels, max_new_tokens)
                for i, tokens in zip(chunk, ids, strict=True):
                    out[i] = processor.decode(tokens)
                self._done(len(chunk))
        return out
