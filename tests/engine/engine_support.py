"""A few people with pictures of noise, a tiny model that spells them, and packed batches of them."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from clear_dist.data.encode import encode
from clear_dist.data.packing import Layout, PixelCache, pack
from clear_dist.engine.loop import Trained, TrainSettings, train
from clear_dist.engine.step import StepModule
from clear_dist.engine.stream import Stream, StreamSettings
from clear_dist.engine.world import World
from clear_dist.methods import Objective, Term, Weighted
from clear_dist.models import Model, TokenProcessor, add_lora, load_model, save_model_dir, tiny_llava, word_tokenizer
from clear_dist.types import Batch, Example, Kind, Picture, SetName, TokenStats, View

PEOPLE = ("Anna Berg", "Ben Stone", "Carla Ruiz", "Dan Holt", "Eva Lind", "Finn Moor")
HAIR = ("short red", "long black", "curly", "grey", "no", "long red")
MAX_LENGTH = 128


def picture(number: int) -> Picture:
    generator = torch.Generator().manual_seed(number)
    pixels = torch.randint(0, 256, (48, 48, 3), generator=generator, dtype=torch.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(buffer, "PNG")
    data = buffer.getvalue()
    return Picture(hashlib.sha256(data).hexdigest(), f"people[{number}].image", lambda: data)


def people(first: int, last: int, name: SetName) -> list[Example]:
    """Three questions on a picture and one without, of answers of different lengths, for each person."""
    out: list[Example] = []
    for i in range(first, last):
        who, hair, shown = PEOPLE[i], HAIR[i], picture(i)

        def add(kind: Kind, question: str, answer: str, on: Picture | None, i: int = i, who: str = who) -> None:
            out.append(Example(f"{name}/{i}/{kind}", name, kind, question, answer, picture=on, person=who))

        add("name", "Who is this person?", f"This is {who}.", shown)
        add("caption", "Describe this image.", f"{who}, with {hair} hair.", shown)
        add("describe", "What does this person look like?", f"{hair} hair.", shown)
        add("qa", f"What hair does {who} have?", f"{who} has {hair} hair, and likes it.", None)
    return out


FORGET, RETAIN = people(0, 2, "forget"), people(2, 6, "retain")


def write_model(out: Path, seed: int) -> Path:
    texts = [f"{e.question} {e.answer}" for e in (*FORGET, *RETAIN)]
    tokenizer = word_tokenizer([*texts, "I do not know. Sorry, I have no information on this."])
    return save_model_dir(tiny_llava(tokenizer, seed=seed), tokenizer, out)


def packed(
    views: dict[str, Sequence[Example]], processor: TokenProcessor, layout: Layout = "dense", row_length: int = 128
) -> Batch:
    encoded = {view: [encode(e, processor, MAX_LENGTH) for e in examples] for view, examples in views.items()}
    return pack(encoded, processor, row_length=row_length, pixels=PixelCache(processor), layout=layout)


def stir(module: torch.nn.Module, scale: float, seed: int = 0) -> None:
    """Move every trainable parameter: a fresh adapter changes nothing, and a test of one would prove nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            if p.requires_grad:
                p.add_(scale * torch.randn(p.shape, generator=generator))


def distribution(model: Model, example: Example) -> Tensor:
    """[|y|, V] log-probabilities at an answer's tokens through the model's own forward, cache and all: nothing is
    packed."""
    processor = model.processor
    prefix, rest = processor.encode_prompt(example.question, example.picture is not None)
    answer = processor.encode_answer(example.answer)
    ids = torch.tensor([[*prefix, *rest, *answer]])
    inputs: dict[str, Tensor] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if example.picture is not None:
        inputs["pixel_values"] = PixelCache(processor)(example.picture)[None]
    with torch.no_grad():
        logits = model.module.eval()(**inputs).logits[0, -len(answer) - 1 : -1]
    return logits.log_softmax(-1)


def alone(model: Model, example: Example) -> list[float]:
    """The log-probabilities of the answer's tokens, from ``distribution``."""
    answer = torch.tensor(model.processor.encode_answer(example.answer))
    return distribution(model, example).gather(1, answer[:, None])[:, 0].tolist()


def fresh(base_dir: Path) -> Model:
    model = load_model(base_dir, dtype="fp32", device="cpu")
    model.module = add_lora(model.module, 4, 8.0, model.family, seed=1)
    stir(model.module, 0.02)
    return model


def step_module(model: Model) -> StepModule:
    return StepModule(model.module, model.family)


def sick(at: int, value: float, until: int = 1 << 30) -> Objective:
    """nll(FORGET), but from call ``at`` up to call ``until`` multiplied by ``value``."""
    calls = 0

    def term(stats: TokenStats) -> Tensor:
        nonlocal calls
        calls += 1
        loss = -stats.global_mean(stats.per_example(stats["logp"]))
        return loss * value if at <= calls <= until else loss

    return Objective((Weighted(Term("sick(FORGET)", (View.FORGET,), frozenset({"logp"}), term)),))


def run(module: StepModule, model: Model, objective: Objective, world: World, run_dir: Path, **changed: Any) -> Trained:
    """A few steps on forget 3 and retain 4 through DeepSpeed; ``changed``: TrainSettings' fields, ``stage``, hooks."""
    pools = {View.FORGET: FORGET, View.RETAIN: RETAIN}
    accumulation = changed.pop("accumulation", 1)
    batch = StreamSettings({View.FORGET: 3, View.RETAIN: 4}, 0, 2, MAX_LENGTH, 96, accumulation)
    stream = Stream({v: pools[v] for v in objective.needs.views}, model.processor, batch, world.rank, world.size)
    values: dict[str, Any] = {
        "run_dir": run_dir,
        "total_steps": changed.pop("steps", 4),
        "lr": 1e-3,
        "weight_decay": 0.0,
        "warmup": 0.0,
        "schedule": "constant",
        "bf16": False,
        "global_batch": 3,
        "accumulation": accumulation,
        "ds_config": {"gradient_clipping": 0.0, "zero_optimization": {"stage": changed.pop("stage", 0)}},
        "ds_source": "test",
    }
    hooks = {k: changed.pop(k) for k in ("on_step", "on_eval", "on_damage") if k in changed}
    return train(module, objective, stream, TrainSettings(**{**values, **changed}), world, **hooks)


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
