"""What a farm of shadow models is made of: plain values, written into farm.json and read back from it.

Everything here decides numbers, and is part of the keys of the tasks it concerns. What does not (how many workers,
which executor) is not here.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

from pydantic import TypeAdapter, ValidationError

from clear_dist.data.augment_batch import AUGMENTATIONS
from clear_dist.errors import UserError

Design = Literal["matched", "fixed_block", "random_half"]
Enrolment = Literal["held_out", "paper"]
Precision = Literal["bf16", "fp32"]
Schedule = Literal["cosine", "linear", "constant"]


@dataclass(frozen=True)
class Network:
    """A ResNet without its number of identities, which every task sets itself; see ``models.resnet``."""

    size: Literal["18", "34", "50", "tiny"] = "18"
    stem: Literal["standard", "small"] = "standard"
    head: Literal["am_softmax", "softmax"] = "am_softmax"
    embedding_size: int | None = None
    scale: float = 30.0
    margin: float = 0.4


class _Sgd(Protocol):
    """What trainings and unlearning share."""

    @property
    def epochs(self) -> float: ...
    @property
    def lr(self) -> float: ...
    @property
    def batch(self) -> int: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def momentum(self) -> float: ...
    @property
    def warmup(self) -> float: ...
    @property
    def augment(self) -> str: ...


def _check(sgd: _Sgd) -> None:
    """Raises ValueError naming the number that is out of range."""
    limits = {
        "epochs": (0 < sgd.epochs < math.inf, "above 0"),
        "lr": (0 < sgd.lr < math.inf, "above 0"),
        "batch": (sgd.batch >= 2, "at least 2"),
        "weight_decay": (0 <= sgd.weight_decay < math.inf, "at least 0"),
        "momentum": (0 <= sgd.momentum < 1, "in [0, 1)"),
        "warmup": (0 <= sgd.warmup < math.inf, "at least 0"),
        "augment": (sgd.augment in AUGMENTATIONS, f"one of {', '.join(AUGMENTATIONS)}"),
    }
    for name, (good, expected) in limits.items():
        if not good:
            raise ValueError(f"{name}: expected {expected}, got {getattr(sgd, name)}")


@dataclass(frozen=True)
class Training:
    """SGD with momentum on cross-entropy. epochs: passes over the pictures; batch: pictures a step; warmup: as
    ``engine.schedule.lr_factor`` takes it; augment: a name of ``data.augment_batch.AUGMENTATIONS``."""

    epochs: float
    lr: float
    batch: int
    weight_decay: float = 5e-5
    momentum: float = 0.9
    schedule: Schedule = "cosine"
    warmup: float = 0.1
    augment: str = "none"

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True)
class Unlearning:
    """One method on a vision model.

    objective: the equation, as ``methods.parse_objective`` reads it. epochs: passes over the retain pictures, or over
    the forget pictures where the objective looks at those alone. repeat: how often an epoch shows a forget picture.
    batchnorm: ``train``, statistics of the batch, all views together; ``frozen``, those the original ended with.
    perturb: standard deviation, relative to each weight tensor's own, of seeded noise added before the first step (what
    starts at a stationary point needs a push). augment: what the reference sees on AUGMENTED. stages: those that are
    trained, without stem and head (RMU's); None: everything.
    """

    objective: str
    epochs: float
    lr: float
    batch: int
    repeat: int = 1
    batchnorm: Literal["train", "frozen"] = "train"
    weight_decay: float = 5e-5
    momentum: float = 0.9
    schedule: Schedule = "constant"
    warmup: float = 0.0
    perturb: float = 0.0
    augment: str = "photo"
    stages: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        _check(self)
        if self.repeat < 1:
            raise ValueError(f"repeat: expected at least 1, got {self.repeat}")
        if self.perturb < 0:
            raise ValueError(f"perturb: expected at least 0, got {self.perturb:g}")


@dataclass(frozen=True)
class FarmSettings:
    """A whole farm.

    images, digest: the name of where pictures came from, without its folder, and the SHA-256 of what was read. size:
    their side in pixels. pretrain: identities set aside for pretraining (0: none). pretrain_images: pictures of other
    identities for it, with their digest. weights: a network to start from instead, with the SHA-256 of its file.
    models: shadow models, N.
    forget, holdout: identities of each. identities: how many a shadow model learns; None: half of those attacked.
    enrol: pictures that make an enrolment vector. trace: methods whose models are watched epoch by epoch.
    threads: CPU threads of a task: they decide the last bits.
    """

    images: str
    digest: str
    size: int
    models: int
    forget: int
    holdout: int
    pretrain: int
    shadow: Training
    pretraining: Training
    methods: dict[str, Unlearning]
    identities: int | None = None
    pretrain_images: str | None = None
    pretrain_digest: str | None = None
    weights: str | None = None
    weights_digest: str | None = None
    design: Design = "matched"
    enrolment: Enrolment = "held_out"
    enrol: int = 5
    network: Network = field(default_factory=Network)
    trace: tuple[str, ...] = ()
    precision: Precision = "bf16"
    keep: Literal["logits", "embeddings", "weights"] = "logits"
    threads: int = 1
    seed: int = 0


_SETTINGS = TypeAdapter(FarmSettings)


def to_json(settings: FarmSettings) -> dict[str, Any]:
    """JSON-ready."""
    return _SETTINGS.dump_python(settings, mode="json")


def from_json(values: Any) -> FarmSettings:
    """The inverse of ``to_json``. Raises UserError naming the field."""
    try:
        return _SETTINGS.validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(
            f"farm.json: settings.{where}: {first['msg']}; it was written by another version, or by hand"
        ) from error


def plain(value: Any) -> dict[str, Any]:
    """A settings part as a JSON-ready mapping."""
    return asdict(value)
