"""The Predictor that evaluation is given: one pass over trees scores all answers and starts all continuations.

A picture is read once for all its questions, a question once for all its answers, and decoding goes on from the keys
and values of that very pass. On several ranks that share a sharded model (ZeRO-3), every pass and every decoding step
is a collective: ranks with less to do run empty ones, so that all make the same calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from clear_dist.data.encode import encode
from clear_dist.data.packing import PixelCache
from clear_dist.data.tree import Asked, Tree, grow
from clear_dist.engine.world import World
from clear_dist.models import Model, final_hidden
from clear_dist.models.decode import Decoding, empty_cache, prompt_places, start, step
from clear_dist.models.family import FLASH, unwrap
from clear_dist.ops import token_stats
from clear_dist.ops.moments import logp_moments
from clear_dist.types import Example, Prediction, Request, Scored

T = TypeVar("T")
Inside = Callable[[Callable[[nn.Module], T]], T]  # runs a function of the model's module where its weights are whole
TOKENS = {"cpu": 16_384, "cuda": 32_768}  # of one pass
DROP = 0.75  # finished rows leave the batch once no more than this share goes on


class ModelPredictor:
    """A model on this process's device, whole or sharded over the ranks.

    token_budget: tokens of one pass, shared ones counted once (default: by device); row_length: tokens of a row that
    holds several trees; max_length: of a prompt with one answer; on_progress: called with the number of requests newly
    done; inside, world: of a sharded model (``engine.shard``), whose ranks must call ``predict`` equally often.
    """

    def __init__(
        self,
        model: Model,
        *,
        row_length: int = 512,
        token_budget: int | None = None,
        max_length: int = 4096,
        on_progress: Callable[[int], None] | None = None,
        inside: Inside[Any] | None = None,
        world: World | None = None,
    ) -> None:
        self.model = model
        module = unwrap(model.module)
        if model.family.decoder(module).config._attn_implementation == FLASH:
            module.set_attn_implementation("sdpa")  # trees need a mask, which flash-attention does not take
        self._inside: Inside[Any] = inside or (lambda work: work(model.module))
        self._device = model.device if world is None else world.device
        self._world = world if inside is not None and world is not None and world.size > 1 else None
        self._pixels = PixelCache(model.processor)
        self._row_length, self._max_length = row_length, max_length
        self._token_budget = token_budget or TOKENS.get(self._device.type, TOKENS["cuda"])
        self._done = on_progress or (lambda count: None)

    @torch.no_grad()
    def predict(self, requests: Sequence[Request], max_new_tokens: int) -> list[Prediction]:
        """See ``types.Predictor``. Raises UserError naming the request whose prompt or answer cannot be encoded."""
        self.model.module.eval()
        asked = [self._asked(request, f"request {i}") for i, request in enumerate(requests)]
        out: list[Prediction] = [Prediction([])] * len(requests)
        chunks = list(self._chunks(asked))
        for number in range(self._most(len(chunks))):
            chunk = chunks[number] if number < len(chunks) else []
            tree = grow(
                [asked[i] for i in chunk], self.model.processor, row_length=self._row_length, pixels=self._pixels
            )
            for i, prediction in zip(chunk, self._passed(tree, max_new_tokens), strict=True):
                out[i] = prediction
            self._done(len(chunk))
        return out

    def score(self, requests: Sequence[Request]) -> list[list[Scored]]:
        """Every answer of every request; nothing is generated."""
        return [prediction.scored for prediction in self.predict(requests, 0)]

    def generate(self, requests: Sequence[Request], max_new_tokens: int) -> list[str]:
        """Greedy continuations; answers are not looked at."""
        bare = [Request(request.question, request.picture) for request in requests]
        return [prediction.text or "" for prediction in self.predict(bare, max_new_tokens)]

    def _asked(self, request: Request, name: str) -> Asked:
        processor, length = self.model.processor, self._max_length
        example = Example(
            id=name, set="forget", kind="qa", question=request.question, answer="x", picture=request.picture
        )
        if request.answers:
            return Asked.of([encode(replace(example, answer=a), processor, length) for a in request.answers])
        bare = encode(example, processor, length)
        return Asked(bare.picture, bare.prefix, bare.rest, layout=bare.layout)

    def _chunks(self, asked: Sequence[Asked]) -> Iterable[list[int]]:
        """Requests cut into passes of about ``token_budget`` tokens; those on one picture stand together."""
        groups: dict[object, list[int]] = {}
        for i, request in enumerate(asked):
            groups.setdefault(i if request.picture is None else request.picture.digest, []).append(i)
        chunk: list[int] = []
        tokens = 0
        for members in groups.values():
            begun = False  # whether the picture is in this chunk already
            for i in members:
                prefix = len(asked[i].prefix)
                if chunk and tokens + asked[i].length - (prefix if begun else 0) > self._token_budget:
                    yield chunk
                    chunk, tokens, begun = [], 0, False
                tokens += asked[i].length - (prefix if begun else 0)
                chunk.append(i)
                begun = True
        if chunk:
            yield chunk

    def _passed(self, tree: Tree, max_new_tokens: int) -> list[Prediction]:
        """One pass over a tree, and decoding from it."""
        batch = tree.batch.to(self._device)
        family, never = self.model.family, self.model.processor.image_id
        firsts = _first_answers(tree)

        def read(module: nn.Module) -> tuple[dict[str, Tensor], Decoding | None]:
            cache = empty_cache() if max_new_tokens else None
            final = final_hidden(family, module, batch, cache)
            h_TD = final.flatten(0, 1)[batch.score_index]
            head = family.head(module)
            head(h_TD[:0])  # under ZeRO-3 a module's weights are whole from its forward on
            values = token_stats(h_TD, head.weight, batch.targets, want=("logp", "top1"), wide=True)
            values["mean"], values["std"] = logp_moments(h_TD[firsts.to(h_TD.device)], head.weight)
            if cache is None:
                return values, None
            places = [b.places.tolist() for b in tree.branches] or [[0]]  # no question: one row to keep in step
            prompts = prompt_places([b.row for b in tree.branches] or [0], places, self._device)
            return values, start(family, module, cache, final, prompts, never, batch.rotary_ids)

        values, decoding = self._inside(read)
        texts: list[str | None] = [None] * len(tree.branches)
        if decoding is not None:
            texts = list(self._decoded(decoding, len(tree.branches), max_new_tokens))
        scored = _scored(tree, {name: value.tolist() for name, value in values.items()})
        return [Prediction(s, texts[b]) for s, b in zip(scored, tree.branch_of, strict=True)]

    def _decoded(self, decoding: Decoding, count: int, max_new_tokens: int) -> list[str]:
        """Decode until every row of every rank has ended, rows that have leaving the batch on the way."""
        eos, never = self.model.processor.eos_id, self.model.processor.image_id
        said: list[list[int]] = [[] for _ in range(count)]
        rows = list(range(count))
        going = set(rows)
        for new in range(1, max_new_tokens + 1):
            for row, token in zip(rows, decoding.last.tolist(), strict=False):  # a row to keep in step says nothing
                if row in going and token != eos:
                    said[row].append(token)
                going -= {row} if token == eos else set()
            if new == max_new_tokens or not self._most(len(going)):
                break
            if going and len(going) <= DROP * len(rows):
                kept = [i for i, row in enumerate(rows) if row in going]
                decoding.keep(torch.tensor(kept, device=self._device))
                rows = [rows[i] for i in kept]
            self._inside(lambda module: step(self.model.family, module, decoding, never))
        return [self.model.processor.decode(tokens) for tokens in said]

    def _most(self, count: int) -> int:
        """The largest ``count`` of the ranks that keep step; a collective."""
        if self._world is None:
            return count
        box = torch.tensor([count], device=self._device)
        torch.distributed.all_reduce(box, op=torch.distributed.ReduceOp.MAX)
        return int(box.item())


def _first_answers(tree: Tree) -> Tensor:
    """[T1] places among the scored tokens of each request's first answer."""
    places: list[int] = []
    at = 0
    for lengths in tree.lengths:
        if lengths:
            places += range(at, at + lengths[0])
        at += sum(lengths)
    return torch.tensor(places, dtype=torch.long)


def _scored(tree: Tree, values: dict[str, list[float]]) -> list[list[Scored]]:
    """Per request and answer, from the values of all scored tokens."""
    out: list[list[Scored]] = []
    at = first = 0
    for lengths in tree.lengths:
        answers: list[Scored] = []
        for number, length in enumerate(lengths):
            logp, top1 = values["logp"][at : at + length], [bool(v) for v in values["top1"][at : at + length]]
            if number == 0:
                moments = (values["mean"][first : first + length], values["std"][first : first + length])
                first += length
                answers.append(Scored(logp, top1, *moments))
            else:
                answers.append(Scored(logp, top1))
            at += length
        out.append(answers)
    return out
