"""How much faster is an evaluation that computes a picture and a question once?

CLEAR's truth ratio asks a model for the probability of one true and five wrong answers to a question on a picture of
576 tokens. The variants are given the very same questions:

* ``one by one``  a forward pass for every answer, logits of its tokens only: how it is mostly written;
* ``batched``     the answers of a question in one padded batch, the picture repeated in every row;
* ``shared``      the project's: one packed pass over trees, each picture and question once (``data/tree.py``).

Timed twice: scoring alone, and scoring with the model's own answer of ``--new`` tokens, where the first two call
transformers' ``generate`` afterwards and the last goes on from the cache of its scoring pass. Before anything is timed,
log-probabilities must agree (fp32 to 1e-4; bf16 as far as bf16 goes, printed) and, in fp32, so must the answers.
Variants take turns, round by round; ratios are taken within a round. ``--shapes llava-7b`` is LLaVA-1.5-7B's shape with
random weights, for a GPU.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.common import RESULTS, Spread, device_of, interleaved, machine, table, write_results
from clear_dist.data.load import load_dataset
from clear_dist.data.mini.text import vocabulary_texts
from clear_dist.data.packing import PixelCache
from clear_dist.engine.predict import ModelPredictor
from clear_dist.engine.sample import AnswerSampler
from clear_dist.models import Model, word_tokenizer
from clear_dist.models.info import ModelInfo
from clear_dist.models.llava import LLAVA
from clear_dist.models.tiny import SPECIAL, build_llava, llava_config, llava_processor
from clear_dist.types import Request

TOLERANCE = 1e-4
WRONG = 5
SIDE, PATCH = 336, 14  # 24 x 24 = 576 image tokens
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {},
    "llava-7b": {
        "vision_hidden": 1024,
        "vision_layers": 24,
        "vision_heads": 16,
        "vision_intermediate": 4096,
        "hidden": 4096,
        "layers": 32,
        "heads": 32,
        "intermediate": 11008,
        "feature_layer": -2,
    },
}
VOCABULARY = {"tiny": None, "llava-7b": 32064}
Scores = list[list[list[float]]]  # question, answer, token


def make_model(shapes: str, device: torch.device) -> Model:
    """The shape with random weights: fp32 on a CPU, bf16 on a GPU."""
    tokenizer = word_tokenizer(vocabulary_texts())
    vocab = VOCABULARY[shapes] or -(-len(tokenizer) // 8) * 8
    config = llava_config(
        vocab, image_id=SPECIAL.index("<image>"), image_size=SIDE, patch=PATCH, positions=2048, **SHAPES[shapes]
    )
    if device.type == "cuda":
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        try:
            with device:
                module = build_llava(config, seed=0)
        finally:
            torch.set_default_dtype(before)
    else:
        module = build_llava(config, seed=0)
    count = sum(p.numel() for p in module.parameters())
    info = ModelInfo(shapes, Path(shapes), None, LLAVA, config, count, 0, (str(next(module.parameters()).dtype),))
    return Model(module, llava_processor(config, tokenizer), LLAVA, info)


def questions(count: int) -> list[Request]:
    """Captions of CLEAR-mini, each with five captions of other pictures as wrong answers."""
    sets = load_dataset("clear-mini", forget="forget10", seed=0).sets
    rows = [e for name in ("forget", "retain") for e in sets[name] if e.kind == "caption" and e.picture is not None]
    answers = list(dict.fromkeys(e.answer for e in rows))
    out = []
    for i, e in enumerate(rows[:count]):
        others = [answers[(7 * i + 11 * j) % len(answers)] for j in range(2 * WRONG + 2)]
        wrong = tuple(dict.fromkeys(a for a in others if a != e.answer))[:WRONG]
        out.append(Request(e.question, e.picture, (e.answer, *wrong)))
    return out


class Plain:
    """Scoring through the model's own forward; ``together``: a question's answers in one padded batch."""

    def __init__(self, model: Model, together: bool) -> None:
        self.model, self.together = model, together
        self.pixels = PixelCache(model.processor)
        self.sampler = AnswerSampler(model)

    @torch.no_grad()
    def score(self, requests: Sequence[Request]) -> Scores:
        return [
            self._rows(r, r.answers) if self.together else [self._rows(r, (a,))[0] for a in r.answers] for r in requests
        ]

    def both(self, requests: Sequence[Request], new: int) -> tuple[Scores, list[str]]:
        return self.score(requests), self.generate(requests, new)

    def generate(self, requests: Sequence[Request], new: int) -> list[str]:
        groups = [requests] if self.together else [[r] for r in requests]
        return [said.text for group in groups for said in self.sampler.sample(group, new, temperature=0)]

    def _rows(self, request: Request, answers: Sequence[str]) -> list[list[float]]:
        processor, device = self.model.processor, self.model.device
        assert request.picture is not None
        prefix, rest = processor.encode_prompt(request.question, True)
        prompt = [*prefix, *rest]
        encoded = [processor.encode_answer(a) for a in answers]
        longest = max(map(len, encoded))
        ids = torch.full((len(answers), len(prompt) + longest), processor.pad_id)
        mask = torch.zeros_like(ids)
        for i, answer in enumerate(encoded):
            row = torch.tensor([*prompt, *answer])
            ids[i, : len(row)], mask[i, : len(row)] = row, 1
        ids, mask = ids.to(device), mask.to(device)
        pixels = self.pixels(request.picture)[None].expand(len(answers), -1, -1, -1)
        module: Any = self.model.module
        logits: Tensor = module(
            input_ids=ids,
            attention_mask=mask,
            pixel_values=pixels.to(device, module.dtype),
            use_cache=False,
            logits_to_keep=longest + 1,
        ).logits
        logp = logits[:, :-1].float().log_softmax(-1).gather(-1, ids[:, len(prompt) :, None])[..., 0]
        return [values[: len(a)] for values, a in zip(logp.tolist(), encoded, strict=True)]


def check(plain: Plain, shared: ModelPredictor, requests: Sequence[Request], new: int) -> float:
    """Largest difference of a log-probability; in fp32 it must be small, and the answers the same."""
    predictions = shared.predict(requests, new)
    expected = plain.score(requests)
    gap = max(
        abs(x - y)
        for p, e in zip(predictions, expected, strict=True)
        for s, row in zip(p.scored, e, strict=True)
        for x, y in zip(s.logp, row, strict=True)
    )
    if next(plain.model.module.parameters()).dtype == torch.float32:
        if gap > TOLERANCE:
            raise SystemExit(f"shared scoring differs from one by one by {gap:.1e}, more than {TOLERANCE}")
        if [p.text for p in predictions] != plain.generate(requests, new):
            raise SystemExit("decoding from the scoring pass says something else than generate")
    return gap


def bench(model: Model, requests: Sequence[Request], new: int, rounds: int) -> list[dict[str, Any]]:
    single, batched, shared = Plain(model, False), Plain(model, True), ModelPredictor(model)
    gap = check(single, shared, requests, new)
    jobs: dict[str, Mapping[str, Callable[[], object]]] = {
        "scoring": {
            "one by one": lambda: single.score(requests),
            "batched": lambda: batched.score(requests),
            "shared": lambda: shared.score(requests),
        },
        f"scoring and an answer of {new} tokens": {
            "one by one": lambda: single.both(requests, new),
            "batched": lambda: batched.both(requests, new),
            "shared": lambda: shared.predict(requests, new),
        },
    }
    rows = []
    for title, variants in jobs.items():
        for work in variants.values():
            work()  # warm
        took = interleaved({k: partial(_ignore, v) for k, v in variants.items()}, rounds, model.device)
        for name in variants:
            ratios = Spread.of([r["one by one"] / r[name] for r in took])
            rows.append(
                {
                    "shapes": model.info.name,
                    "task": title,
                    "variant": name,
                    "dtype": str(next(model.module.parameters()).dtype).removeprefix("torch."),
                    "questions": len(requests),
                    "answers": sum(len(r.answers) for r in requests),
                    "image_tokens": model.processor.image_tokens,
                    "seconds": Spread.of([r[name] for r in took]).json(),
                    "questions_per_s": len(requests) / Spread.of([r[name] for r in took]).median,
                    "ratio_to_one_by_one": ratios.json(),
                    "largest_difference": gap,
                    "rounds": rounds,
                }
            )
    return rows


def _ignore(work: Callable[[], object], number: int) -> None:
    del number  # every round does the same work
    work()


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    first = rows[0]
    head = ["task", "variant", "seconds", "questions/s", "times one by one"]
    body = [
        [r["task"], r["variant"], _text(r["seconds"]), f"{r['questions_per_s']:.2f}", _text(r["ratio_to_one_by_one"])]
        for r in rows
    ]
    return (
        f"# Shared-prefix evaluation: {first['shapes']}, {first['dtype']}\n\n"
        f"{first['questions']} questions on {first['questions']} pictures of {first['image_tokens']} tokens, "
        f"1 + {WRONG} answers each, {first['rounds']} rounds in turns; median (least-most). Largest difference of a "
        f"log-probability between shared and one by one: {first['largest_difference']:.1e}.\n\n{table(head, body)}"
    )


def _text(spread: Mapping[str, float]) -> str:
    return Spread(spread["median"], spread["min"], spread["max"]).text()


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    labels = [f"{r['variant']}\n{'scoring' if r['task'] == 'scoring' else '+ answer'}" for r in rows]
    axes.bar(range(len(rows)), [r["ratio_to_one_by_one"]["median"] for r in rows], color="#2f6fdd", width=0.6)
    for x, r in enumerate(rows):
        axes.text(
            x,
            r["ratio_to_one_by_one"]["median"],
            f"{r['ratio_to_one_by_one']['median']:.1f}x",
            ha="center",
            va="bottom",
        )
    axes.set_xticks(range(len(rows)), labels)
    axes.set_ylabel("times as fast as one by one")
    axes.margins(y=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=140)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--shapes", choices=[*SHAPES], default="tiny")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument("--new", type=int, default=16, help="tokens of an own answer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = device_of(options.device)
    info = machine(device)
    rows = bench(make_model(options.shapes, device), questions(options.questions), options.new, options.rounds)
    text = markdown(rows)
    print(text)
    name = "bench_eval" if options.shapes == "tiny" else f"bench_eval_{options.shapes}"
    write_results(name, options.out, info, rows, text, partial(draw, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
