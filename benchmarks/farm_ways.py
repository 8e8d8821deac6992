"""Ways to train, and the processes that do: the farm's own, the plain one, and the farm's with one thing taken away.

    python -m benchmarks.farm_ways CASE

is a process that says it is ready, then does one job a line (JSON) until its input ends. Thread counts are set for each
job; the allocator's settings are those the process was started with.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from benchmarks import farm_plain
from benchmarks.farm_plain import LR, Clock
from clear_dist.data.augment_batch import AUGMENTATIONS, augment, normalise
from clear_dist.data.identity_cache import open_identities
from clear_dist.models.resnet import ResNetSettings, VisionModel, initialised
from clear_dist.models.resnet_settings import Size
from clear_dist.shadow.embed import embeddings, reading
from clear_dist.shadow.objects import put
from clear_dist.shadow.order import batches
from clear_dist.shadow.run import Resident
from clear_dist.shadow.settings import Training
from clear_dist.shadow.splits import enrolment_pictures
from clear_dist.shadow.train import sgd, train_classifier
from clear_dist.shadow.unlearn import Pictures


@dataclass(frozen=True)
class Case:
    """What is trained.

    folder: the picture files. cache: the same decoded at ``size``. people: identities of a model, the first ones.
    batch: pictures a step. enrol: pictures of an enrolment vector. warm: steps before the clock starts.
    """

    folder: str
    cache: str
    size: int
    people: int
    batch: int
    network: Size
    device: str
    enrol: int
    warm: int


@dataclass(frozen=True)
class Way:
    """How.

    loop: ``farm``, ``shadow.train.train_classifier`` itself; ``step``, its step written out, so that parts can be taken
    away; ``plain``, ``farm_plain.train`` on files; ``resident``, the same on pictures that lie on the device.
    files: ``step`` decodes files as ``plain`` does. loaders: processes of the DataLoader.
    """

    loop: Literal["farm", "step", "plain", "resident"] = "farm"
    files: bool = False
    loaders: int = 0
    bf16: bool = True
    channels_last: bool = True
    fused: bool = True
    graph: bool | None = None


@dataclass(frozen=True)
class Job:
    """``way``: ``Way``'s fields. threads: of this process."""

    way: dict[str, Any]
    steps: int
    threads: int
    seed: int = 0
    kind: Literal["train", "phases"] = "train"


def training_of(case: Case, pictures: int, steps: int) -> Training:
    """``steps`` steps at a constant rate, as the plain loop takes them."""
    epochs = steps * min(case.batch, pictures) / pictures
    return Training(epochs, LR, case.batch, schedule="constant", warmup=0.0)


def network_of(case: Case, bf16: bool, seed: int) -> VisionModel:
    model = initialised(ResNetSettings(size=case.network, classes=case.people, head="am_softmax"), seed)
    model.autocast = torch.bfloat16 if bf16 else None
    return model


def mine_of(case: Case, data: Resident) -> Pictures:
    return data.of(list(range(case.people)))


def train(case: Case, way: Way, data: Resident, steps: int, seed: int) -> dict[str, float]:
    """One training; images and seconds of its steps beyond the warm ones, and the last loss."""
    device = torch.device(case.device)
    torch.manual_seed(seed)  # of the plain loop's shuffling
    mine = mine_of(case, data)
    steps += case.warm
    if way.loop in ("plain", "resident"):
        network = farm_plain.ResNet(case.network, case.people).to(device)
        if way.loop == "plain":
            files = farm_plain.Pictures(Path(case.folder), case.size, case.people)
            batches_of = farm_plain.file_batches(files, case.batch, way.loaders, device.type == "cuda")
        else:
            batches_of = farm_plain.resident_batches(normalise(mine.pixels), mine.labels, case.batch)
        clock = Clock(device, case.warm)
        loss = farm_plain.train(network, batches_of, steps, device, clock)
        seconds = clock.seconds()
    else:
        model = network_of(case, way.bf16, seed)
        training = training_of(case, len(mine), steps)
        clock = Clock(device, case.warm)
        if way.loop == "farm":
            loss = train_classifier(
                model,
                mine.pixels,
                mine.labels,
                training,
                seed=seed,
                graph=way.graph,
                on_step=lambda done, of: clock.step(done),
            ).loss
        else:
            loss = step_loop(case, way, model, mine, training, steps, seed, clock.step)
        seconds = clock.seconds()
    return {"images": (steps - case.warm) * min(case.batch, len(mine)), "seconds": seconds, "loss": loss}


def step_loop(
    case: Case,
    way: Way,
    model: VisionModel,
    mine: Pictures,
    training: Training,
    steps: int,
    seed: int,
    on_step: Callable[[int], None],
    lap: Callable[[str], None] = lambda phase: None,
) -> float:
    """``train_classifier``'s step, eager, with the parts of ``way``; last loss. ``lap``: called after each phase."""
    layout = torch.channels_last if way.channels_last else torch.contiguous_format
    device = mine.pixels.device
    model.to(device=device, memory_format=layout).train()  # pyright: ignore[reportCallIssue]
    rate = torch.full((), training.lr, device=device)
    if way.fused:
        optimizer = sgd(model, rate, training.momentum, training.weight_decay)
    else:
        optimizer = torch.optim.SGD(model.parameters(), training.lr, training.momentum, weight_decay=5e-5)
    if way.files:
        files = farm_plain.Pictures(Path(case.folder), case.size, case.people)
        shown = farm_plain.file_batches(files, case.batch, way.loaders)
    else:
        shown = _resident(mine, batches(len(mine), case.batch, steps, seed))
    loss = torch.zeros(())
    lap("")
    for i in range(steps):
        x, labels = next(shown)
        x = x.contiguous(memory_format=layout)
        lap("batch: gather, normalise")
        loss = model.classification_loss(model.embedding(x), labels)
        loss.backward()
        lap("forward and backward")
        optimizer.step()
        optimizer.zero_grad()
        lap("SGD")
        on_step(i + 1)
    return loss.item()


def _resident(mine: Pictures, order: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    for rows in order:
        at = rows.to(mine.pixels.device)
        yield normalise(mine.pixels[at]), mine.labels[at]


def phases(case: Case, data: Resident, steps: int, seed: int) -> dict[str, float]:
    """Seconds of the parts of one model on a CPU: made, trained for ``steps`` steps, read, saved.

    ``augmentation (photo)`` is what it would cost instead of normalising alone, and is no part of the sum.
    """
    found: dict[str, float] = {}
    last = time.perf_counter()

    def lap(phase: str) -> None:
        nonlocal last
        now = time.perf_counter()
        if phase:
            found[phase] = found.get(phase, 0.0) + now - last
        last = now

    model = network_of(case, True, seed)
    mine = mine_of(case, data)
    lap("new network")
    step_loop(case, Way("step"), model, mine, training_of(case, len(mine), steps), steps, seed, lambda done: None, lap)
    lap("")
    everything = data.of(sorted(data.rows))
    labels = everything.labels.numpy().astype(np.int64)
    enrolled = np.asarray(enrolment_pictures(labels.tolist(), case.enrol, seed))
    vectors = embeddings(model, everything.pixels)
    kept = reading(vectors, labels, enrolled)
    lap("reading: embeddings, logits")
    with tempfile.TemporaryDirectory() as folder:
        put(Path(folder), kept)
        lap("save")
    for i, rows in enumerate(batches(len(mine), case.batch, steps, seed)):
        augment(mine.pixels[rows], seed, i, AUGMENTATIONS["photo"])
    lap("augmentation (photo)")
    return found


def do(case: Case, data: Resident, job: Job) -> dict[str, float]:
    torch.set_num_threads(job.threads)
    if job.kind == "phases":
        return phases(case, data, job.steps, job.seed)
    return train(case, Way(**job.way), data, job.steps, job.seed)


def difference(case: Case, data: Resident, steps: int = 2) -> float:
    """How far the plain loop's last loss is from the farm's, as a share of it, after ``steps`` steps.

    Both in fp32, from the same weights, on the same pictures in the same order: as files, and as resident bytes.
    """
    device = torch.device(case.device)
    mine = mine_of(case, data)
    model = network_of(case, False, 0)
    network = farm_plain.ResNet(case.network, case.people).to(device)
    network.load_state_dict(model.state_dict())
    order = batches(len(mine), case.batch, steps, 0).tolist()
    files = farm_plain.Pictures(Path(case.folder), case.size, case.people)
    loader = torch.utils.data.DataLoader(files, batch_sampler=order)
    plain = farm_plain.train(network, iter(loader), steps, device, Clock(device))
    ours = train_classifier(
        model, mine.pixels, mine.labels, training_of(case, len(mine), steps), seed=0, graph=False
    ).loss
    return abs(plain - ours) / abs(ours)


def main(arguments: list[str]) -> int:
    case = Case(**json.loads(arguments[0]))
    data = Resident(open_identities(Path(case.cache)), torch.device(case.device))
    print(json.dumps({"ready": True}), flush=True)
    for line in itertools.takewhile(str.strip, sys.stdin):
        print(json.dumps(do(case, data, Job(**json.loads(line)))), flush=True)
    return 0


def case_json(case: Case) -> str:
    return json.dumps(asdict(case))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
