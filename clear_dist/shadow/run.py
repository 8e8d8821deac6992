"""What a worker does with a task: from its spec, and the weights of its parents, to readings of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clear_dist.data.identities import Identities
from clear_dist.data.identity_cache import open_identities
from clear_dist.errors import UserError
from clear_dist.methods import Objective, parse_objective
from clear_dist.models.resnet import ResNetSettings, VisionModel, initialised
from clear_dist.models.resnet_files import load_resnet, model_from, state_of
from clear_dist.shadow.embed import embeddings, reading
from clear_dist.shadow.settings import Network, Training, Unlearning
from clear_dist.shadow.splits import enrolment_pictures
from clear_dist.shadow.task import Outcome, Task
from clear_dist.shadow.train import train_classifier
from clear_dist.shadow.unlearn import Pictures, unlearn

Weights = Mapping[str, Mapping[str, Tensor]]
HEAD = "fc."  # of torchvision's names: the classifier


class Resident:
    """A data set on the device: pictures as bytes, decoded once for all tasks of a worker."""

    def __init__(self, data: Identities, device: torch.device) -> None:
        self.digest = data.digest
        self.pixels = data.pixels.to(device)
        self.labels = data.labels
        self.rows: dict[int, list[int]] = {}
        for at, label in enumerate(data.labels.tolist()):
            self.rows.setdefault(label, []).append(at)

    def of(self, identities: Sequence[int], names: Sequence[int] | None = None) -> Pictures:
        """Pictures of these identities; their labels are places in ``names`` (default: in ``identities``)."""
        place = {identity: n for n, identity in enumerate(identities if names is None else names)}
        at = [row for identity in identities for row in self.rows[identity]]
        labels = torch.tensor([place[i] for i in identities for _ in self.rows[i]])
        return Pictures(self.pixels[torch.tensor(at, device=self.pixels.device)], labels.to(self.pixels.device))


def make_runner(
    cache: str, digest: str, pretrain_cache: str | None = None, weights: str | None = None
) -> Callable[[Task, Weights], Outcome]:
    """The function that does tasks, made once in every worker.

    Args:
        cache, pretrain_cache: files of ``data.identities``. weights: a network to start from.

    Raises:
        UserError: a cache is gone, damaged or of other pictures.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = Resident(open_identities(Path(cache)), device)
    if data.digest != digest:
        raise UserError(f"{cache}: holds other pictures than the farm was planned on; start the farm again")
    other = data if pretrain_cache is None else Resident(open_identities(Path(pretrain_cache)), device)
    given = None if weights is None else state_of(load_resnet(weights))

    def run(task: Task, parents: Weights) -> Outcome:
        torch.set_num_threads(int(task.spec["threads"]))
        return _KINDS[task.kind](task, parents, other if task.kind == "pretrain" else data, given)

    return run


def _network(spec: Mapping[str, Any], classes: int) -> ResNetSettings:
    network = Network(**spec["network"])
    return ResNetSettings(
        size=network.size,
        stem=network.stem,
        classes=classes,
        head=network.head,
        embedding_size=network.embedding_size,
        scale=network.scale,
        margin=network.margin,
    )


def _start(task: Task, parents: Weights, classes: int, given: Mapping[str, Tensor] | None) -> VisionModel:
    """The network a training starts from: the pretrained one under a new head, or a new one."""
    settings = _network(task.spec, classes)
    new = initialised(settings, int(task.spec["seed"]))
    trunk = parents[task.parents[0]] if task.parents else given
    if trunk is None:
        return new
    kept = {name: tensor for name, tensor in trunk.items() if not name.startswith(HEAD)}
    head = {name: tensor for name, tensor in state_of(new).items() if name.startswith(HEAD)}
    return model_from(settings, kept | head, "the pretrained network")


def _train(task: Task, parents: Weights, data: Resident, given: Mapping[str, Tensor] | None) -> Outcome:
    """pretrain, shadow, gold."""
    spec = task.spec
    identities = spec["identities"]
    pictures = data.of(sorted(data.rows) if identities is None else identities)
    model = _start(task, parents, int(pictures.labels.max()) + 1, given)
    model.autocast = _autocast(spec)
    trained = train_classifier(
        model, pictures.pixels, pictures.labels, Training(**spec["training"]), seed=int(spec["seed"])
    )
    tensors = {} if task.kind == "pretrain" else _reader(task, data)(model)
    metrics = {"loss": trained.loss, "steps": float(trained.steps), "pictures": float(len(pictures))}
    return Outcome(tensors, _kept(task, model), metrics)


def _unlearn(task: Task, parents: Weights, data: Resident, given: Mapping[str, Tensor] | None) -> Outcome:
    del given
    spec = task.spec
    identities, forget = list(spec["identities"]), set(spec["forget"])
    original = model_from(_network(spec, len(identities)), dict(parents[task.parents[0]]))
    original.autocast = _autocast(spec)
    original.to(device=data.pixels.device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    method = Unlearning(**spec["method"])
    read = _reader(task, data)
    trace: list[dict[str, Tensor]] = []
    done: list[float] = []

    def watch(epoch: float, model: VisionModel) -> None:
        done.append(epoch)
        trace.append(read(model))

    model = unlearn(
        original,
        data.of([i for i in identities if i in forget], identities),
        data.of([i for i in identities if i not in forget], identities),
        method,
        objective_of(method),
        seed=int(spec["seed"]),
        on_epoch=watch if spec["trace"] else None,
    )
    tensors = read(model)
    if trace:
        tensors |= {f"trace/{name}": torch.stack([t[name] for t in trace]) for name in ("logit", "predicted")}
        tensors["trace/progress"] = torch.tensor(done, dtype=torch.float64)
    return Outcome(tensors, _kept(task, model), {})


def objective_of(method: Unlearning) -> Objective:
    """The equation of a method, with the stages it trains (which its text does not say)."""
    objective = parse_objective(method.objective)
    return objective if method.stages is None else objective.training(tuple(method.stages))


def _reader(task: Task, data: Resident) -> Callable[[VisionModel], dict[str, Tensor]]:
    """What reads a model: logit and nearest identity of every attacked picture, identities counted as ``attacked``
    lists them. Pictures are gathered once, however often a run is watched."""
    pictures = data.of(list(task.spec["attacked"]))
    labels = pictures.labels.cpu()
    enrolled = enrolment_pictures(labels.tolist(), int(task.spec["enrol"]), int(task.spec["enrol_seed"]))

    def read(model: VisionModel) -> dict[str, Tensor]:
        vectors = embeddings(model, pictures.pixels)
        found = reading(vectors, labels.numpy().astype(np.int64), np.asarray(enrolled))
        return {**found, "embedding": torch.from_numpy(vectors)} if task.spec["embeddings"] else found

    return read


def _kept(task: Task, model: VisionModel) -> dict[str, Tensor] | None:
    return state_of(model) if task.keep_weights else None


def _autocast(spec: Mapping[str, Any]) -> torch.dtype | None:
    return torch.bfloat16 if spec["precision"] == "bf16" else None


_KINDS = {"pretrain": _train, "shadow": _train, "gold": _train, "unlearn": _unlearn}
