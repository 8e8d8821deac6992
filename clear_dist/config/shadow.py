"""A farm of shadow models: what is trained, on whom, by which machines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import model_validator

from .base import Config, opt
from .flags import from_flags


class ShadowFarmConfig(Config):
    """Train shadow models, gold models and unlearned models for the attacks U-LIRA and U-MIA. Finished tasks are kept:
    the same command goes on where it stopped, and more methods may be named later."""

    recipe: ClassVar[str] = "shadow_farm"
    images: str = opt(
        "clear-mini",
        "data",
        "pictures of identities: a folder of folders, a zip of one, a directory in CLEAR's layout, or clear-mini"
        "[:PEOPLExPICTURES], which is drawn",
        "DIR|ZIP|CLEAR|clear-mini",
    )
    size: int | None = opt(None, "data", "side of the pictures in pixels (default: the preset's)", "N", ge=16, le=512)
    forget: int | None = opt(None, "data", "identities to forget", "N", ge=1)
    holdout: int | None = opt(
        None, "data", "identities that models which learn the forget identities never see", "N", ge=1
    )
    identities: int | None = opt(
        None, "data", "identities a shadow model learns (default: half of those that are attacked)", "N", ge=2
    )
    design: Literal["matched", "fixed_block", "random_half"] | None = opt(
        None,
        "data",
        "who learns what: matched, half of the models all forget identities and others, half others alone, as gold "
        "does; fixed_block, these also all held out, as CLEAR's code; random_half, random halves of everyone (default: "
        "matched, with --preset paper fixed_block)",
    )
    pretrain_identities: int | None = opt(
        None, "data", "identities set aside to pretrain on (default: three of ten; 0: none)", "N", ge=0
    )
    pretrain: str | None = opt(
        None, "data", "pictures of other identities to pretrain on, instead of setting some aside", "DIR|ZIP|CLEAR"
    )
    on_bad_data: Literal["fail", "skip"] = opt(
        "skip", "data", "a picture that cannot be read: stop and name it, or leave it out and list it"
    )
    weights: str | None = opt(
        None, "model", "a pretrained ResNet to start from: directory, .safetensors file or Hub name", "DIR|FILE|HUB"
    )
    network: Literal["tiny", "18", "34", "50"] | None = opt(None, "model", "ResNet-18, -34, -50, or a tiny one")
    stem: Literal["standard", "small"] = opt("standard", "model", "first layers: 7x7 and pooling, or 3x3 at full size")
    head: Literal["am_softmax", "softmax"] = opt("am_softmax", "model", "classifier, and with it the loss of training")
    methods: str = opt(
        "retain_ft,npo,scrub_bio",
        "method",
        "names of `clear-dist methods` that fit pictures, comma-separated; all; or none",
        "A,B,C",
    )
    tune: dict[str, str] = opt(
        {},
        "method",
        "METHOD.FIELD=VALUE: epochs, lr, batch, repeat, batchnorm, schedule, perturb, objective, ...",
        "KEY=VALUE",
    )
    trace: str = opt(
        "grad_orth", "method", "methods whose models are watched epoch by epoch (figure 5), or none", "A,B,C"
    )
    preset: Literal["mini", "paper"] = opt(
        "mini", "training", "numbers for what is not given; paper: CLEAR's vision part"
    )
    models: int | None = opt(
        None, "training", "shadow models, an even number; half of them see who is forgotten", "N", ge=4
    )
    epochs: float | None = opt(None, "training", "passes over a shadow model's pictures", "X", gt=0)
    lr: float | None = opt(None, "training", "peak learning rate of a shadow model", "X", gt=0)
    batch: int | None = opt(None, "training", "pictures a step", "N", ge=2)
    augment: Literal["none", "shift", "photo"] | None = opt(
        None, "training", "how training pictures are moved: not at all, as suits characters, or photographs"
    )
    pretrain_epochs: float | None = opt(None, "training", "passes of the pretraining", "X", gt=0)
    pretrain_lr: float | None = opt(None, "training", "peak learning rate of the pretraining", "X", gt=0)
    pretrain_augment: Literal["none", "shift", "photo"] | None = opt(None, "training", "the same of the pretraining")
    enrolment: Literal["held_out", "paper"] | None = opt(
        None,
        "evaluation",
        "whether pictures that enrol an identity are attacked too (paper) or never (default held_out)",
    )
    enrol: int = opt(5, "evaluation", "pictures whose mean embedding enrols an identity", "N", ge=1)
    precision: Literal["bf16", "fp32"] = opt("bf16", "layout", "of the networks' products; sums and losses are fp32")
    executor: Literal["local", "ray", "slurm"] = opt(
        "local", "layout", "processes of this machine, a Ray cluster, or a job on one node of Slurm"
    )
    workers: int | None = opt(
        None,
        "layout",
        "tasks at a time (default: one a core; on GPUs one a GPU; on Ray what the cluster has)",
        "N",
        ge=1,
    )
    gpus: float | None = opt(
        None,
        "layout",
        "GPUs of a worker; .25 puts four on each (default: 1 where this machine has one, else 0)",
        "X",
        ge=0,
    )
    task_minutes: float | None = opt(
        None, "layout", "a task that takes longer has failed, and is tried again (default: any time)", "X", gt=0
    )
    ray_address: str | None = opt(None, "layout", "address of a Ray cluster (default: one is started here)", "ADDRESS")
    slurm_partition: str | None = opt(None, "layout", "where the job of --executor slurm goes", "NAME")
    slurm_minutes: int = opt(240, "layout", "how long that job may run", "N", ge=1)
    keep: Literal["logits", "embeddings", "weights"] = opt(
        "logits",
        "output",
        "what is kept of every model beside its logits; weights that unlearning starts from are always",
    )
    seed: int = opt(0, "run", "seed of everything drawn", "N", ge=0)
    dry_run: bool = opt(False, "run", "list the tasks, train nothing")
    out: Path = opt(..., "run", "directory of the farm", "DIR")

    @model_validator(mode="before")
    @classmethod
    def _split_lists(cls, values: Any) -> Any:
        return from_flags(values, comma=("methods", "trace"), pairs=("tune",))

    @model_validator(mode="after")
    def _one_way_to_start(self) -> ShadowFarmConfig:
        given = [f for f in ("weights", "pretrain") if getattr(self, f)] + ["pretrain_identities"] * bool(
            self.pretrain_identities
        )
        if len(given) > 1:
            raise ValueError(
                f"{' and '.join(f'`{n}`' for n in given)} both say what models start from: give one of them"
            )
        return self


class FarmStatusConfig(Config):
    """How far a farm is: tasks by kind, models per hour, what is left, what failed and why."""

    recipe: ClassVar[str] = "farm_status"
    farm: Annotated[Path, "positional"] = opt(..., "run", "directory of the farm", "DIR")
