"""The base model of CLEAR-mini, from nothing: what ``clear_dist/assets/mini_base`` was made with.

Two phases. First the vision tower learns to tell visible attributes apart (linear heads that are thrown away);
without it the whole hardly learns to look. Then everything learns descriptions, captions, questions about visible
attributes, the names and facts of ten real people, and a few facts of the world. Strangers are nobody.
"""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from clear_dist import config as configs
from clear_dist.data.encode import Encoded
from clear_dist.data.mini.base import CLASS_NAMES, BaseData, BaseQA, base_examples
from clear_dist.data.mini.people import CLASSES
from clear_dist.data.mini.text import vocabulary_texts
from clear_dist.data.mini.world import STREAM
from clear_dist.data.packing import pack
from clear_dist.models import (
    Model,
    final_hidden,
    load_model,
    save_model_dir,
    tiny_llava,
    unwrap,
    weights_digest,
    word_tokenizer,
)
from clear_dist.services.progress import Task, say, task
from clear_dist.types import Picture

STRANGERS, PER_REAL = 8000, 40
VISION_STEPS, VISION_BATCH, VISION_LR = 2500, 64, 4e-3
STEPS, PICTURES, QUESTIONS, LR = 3000, 16, 4, 2e-3
TEXT_SHARE, REAL_SHARE = 0.15, 0.3
# How often each kind of question on a picture is drawn; a person's name is worth more than the wall's colour.
KIND_WEIGHTS = {
    "describe": 2.0,
    "private": 1.0,
    "information": 0.6,
    "caption": 2.0,
    "paraphrase": 0.5,
    "name": 1.5,
    "attribute": 0.6,
}
NAMED_WEIGHTS = {**KIND_WEIGHTS, "name": 5.0, "caption": 4.0, "paraphrase": 1.5}


RECIPE: dict[str, object] = {
    "stream": STREAM,
    "strangers": STRANGERS,
    "per_real": PER_REAL,
    "vision": [VISION_STEPS, VISION_BATCH, VISION_LR],
    "whole": [STEPS, PICTURES, QUESTIONS, LR],
    "shares": [TEXT_SHARE, REAL_SHARE],
    "weights": [KIND_WEIGHTS, NAMED_WEIGHTS],
    "threads": 1,
}


def run(config: configs.ModelBaseConfig) -> None:
    """Train, save a Hugging Face directory to ``config.out``, and write ``base.json`` beside the weights."""
    torch.set_num_threads(1)  # the same number of threads gives the same bits
    with task("drawing pictures", STRANGERS + 10 * PER_REAL) as bar:
        data = base_examples(config.seed, STRANGERS, PER_REAL, on_progress=lambda n, of: bar and bar.update(n))
    tokenizer = word_tokenizer(vocabulary_texts())
    save_model_dir(tiny_llava(tokenizer, config.seed), tokenizer, config.out)
    model = load_model(config.out, dtype="fp32", device="cpu")
    pixels = torch.stack([model.processor.pixels(Image.fromarray(p)) for p in data.pictures])
    torch.manual_seed(config.seed)
    with task("vision tower", VISION_STEPS) as bar:
        accuracy = pretrain_vision(model, data, pixels, config.seed, bar)
    with task("the whole model", STEPS) as bar:
        loss = train_language(model, data, pixels, config.seed, bar)
    unwrap(model.module).save_pretrained(config.out)
    facts = {
        "v": 1,
        "recipe": RECIPE,
        "seed": config.seed,
        "weights": weights_digest(config.out),
        "attribute_accuracy": round(accuracy, 4),
        "final_loss": round(loss, 4),
        "parameters": sum(p.numel() for p in model.module.parameters()),
    }
    (config.out / "base.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    say(f"base written to {config.out}; visible attributes {accuracy:.3f}, final loss {loss:.3f}")


def pretrain_vision(model: Model, data: BaseData, pixels: Tensor, seed: int, bar: Task | None) -> float:
    """Train the tower with one linear head per attribute on the mean patch; returns accuracy on held-out strangers."""
    tower = model.family.tower(model.module)
    assert tower is not None
    rng = np.random.default_rng(seed)
    held_out = 400
    shape: Any = tower.config
    heads = nn.ModuleList([nn.Linear(shape.hidden_size, len(CLASSES[name])) for name in CLASS_NAMES])
    parameters = [*tower.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, VISION_LR, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, VISION_LR, total_steps=VISION_STEPS, pct_start=0.1)
    labels = torch.from_numpy(data.labels)

    def logits(rows: np.ndarray) -> list[Tensor]:
        h = tower(pixels[torch.from_numpy(rows)]).last_hidden_state[:, 1:].mean(1)
        return [head(h) for head in heads]

    for step in range(VISION_STEPS):
        rows = rng.integers(held_out, len(pixels), VISION_BATCH)
        out = logits(rows)
        loss = torch.stack([F.cross_entropy(z, labels[rows, a]) for a, z in enumerate(out)]).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if bar is not None:
            bar.update(step + 1, f"loss {loss.item():.3f}")
    with torch.no_grad():
        out = logits(np.arange(held_out))
        right = torch.stack([z.argmax(1) == labels[:held_out, a] for a, z in enumerate(out)])
    return float(right.float().mean())


def train_language(model: Model, data: BaseData, pixels: Tensor, seed: int, bar: Task | None) -> float:
    """Train the whole model on packed questions; returns the mean loss of the last hundred steps."""
    model.module.train()
    rng = random.Random(seed)
    encoded = _Encoder(model)
    named = [i for i, person in enumerate(data.people) if person is not None]
    strangers = [i for i, person in enumerate(data.people) if person is None]
    parameters = list(model.module.parameters())
    optimizer = torch.optim.AdamW(parameters, LR, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=STEPS + 1, pct_start=0.08)
    losses: list[float] = []
    for step in range(STEPS):
        if (step * 0.618034) % 1 < TEXT_SHARE:  # low-discrepancy: text steps evenly spread
            chosen = [encoded(qa) for qa in rng.choices(data.texts, k=PICTURES * QUESTIONS)]
        else:
            pictures = [rng.choice(named if rng.random() < REAL_SHARE else strangers) for _ in range(PICTURES)]
            chosen = [encoded(qa) for p in pictures for qa in _questions(data, p, rng)]
        batch = pack({"base": chosen}, model.processor, row_length=128, pixels=lambda p: pixels[int(p.digest)])
        h = final_hidden(model.family, model.module, batch).flatten(0, 1)[batch.score_index]
        loss = F.cross_entropy(model.family.head(model.module)(h), batch.targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if bar is not None:
            bar.update(step + 1, f"loss {losses[-1]:.3f}")
    model.module.eval()
    return float(np.mean(losses[-100:]))


def _questions(data: BaseData, picture: int, rng: random.Random) -> list[BaseQA]:
    told = data.by_picture[picture]
    weights = NAMED_WEIGHTS if data.people[picture] is not None else KIND_WEIGHTS
    keys = [rng.random() ** (1.0 / weights[qa.kind]) for qa in told]  # weighted draw without replacement
    order = sorted(range(len(told)), key=lambda i: -keys[i])
    return [told[i] for i in order[:QUESTIONS]]


class _Encoder:
    """Token ids of base questions, worked out once each."""

    def __init__(self, model: Model) -> None:
        self._processor = model.processor
        self._known: dict[tuple[str, str, int | None], Encoded] = {}

    def __call__(self, qa: BaseQA) -> Encoded:
        key = (qa.question, qa.answer, qa.picture)
        if key not in self._known:
            prefix, rest = self._processor.encode_prompt(qa.question, qa.picture is not None)
            digest = None if qa.picture is None else str(qa.picture)
            picture = None if digest is None else Picture(digest, f"base[{digest}]", lambda: b"")
            answer = self._processor.encode_answer(qa.answer)
            prefix, rest, answer = (np.asarray(x, np.int64) for x in (prefix, rest, answer))
            self._known[key] = Encoded(f"{digest}/{qa.kind}", digest, picture, prefix, rest, answer)
        return self._known[key]
