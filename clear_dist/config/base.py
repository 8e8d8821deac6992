"""What every configuration shares: how it is digested, which data it names and which model."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from clear_dist.reading import is_file

ForgetSplit = Literal["forget01", "forget05", "forget10"]
Preset = Literal["mini", "paper", "clear_code", "tofu"]
# Where a run is kept, how it is watched, what is made ahead: two runs that differ only here give the same numbers.
NOT_IDENTITY = frozenset(
    {
        *("out", "resume", "dry_run", "tracker", "checkpoint_every", "keep_checkpoints", "hang_minutes"),
        *("reference_cache", "tower_cache", "prefetch", "deterministic"),
    }
)

# Fields that may name a file whose contents decide a run's numbers.
CONTENTS = ("ds", "forget_file", "idk_answers", "objective")


def opt(default: Any, group: str, description: str, metavar: str | None = None, **ranges: float) -> Any:
    """A field with its place on the help page; ``ranges`` are pydantic's gt, ge, lt, le."""
    extra: dict[str, Any] = {"group": group} | ({"metavar": metavar} if metavar else {})
    return Field(default, description=description, json_schema_extra=extra, **ranges)  # pyright: ignore[reportArgumentType, reportCallIssue]


# What a field's metavar says where text may name a place on disk.
_PLACES = frozenset({"DIR", "FILE", "PATH", "ZIP"})
LONGEST_NAME, LONGEST_PATH = 255, 4095  # bytes, as Linux has it


def _no_path(name: str) -> str | None:
    """Why no file can have this name; None where one can."""
    if "\0" in name:
        return "holds a zero byte, which no path can"
    try:
        encoded = os.fsencode(name)
    except UnicodeEncodeError:
        return "holds half of a character, which no path can"
    longest = max(map(len, encoded.split(b"/")))
    if longest > LONGEST_NAME or len(encoded) > LONGEST_PATH:
        return f"is too long for a path: {longest:,} bytes between slashes, {len(encoded):,} in all"
    return None


class Config(BaseModel):
    """What every recipe's configuration shares."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)
    recipe: ClassVar[str]

    @model_validator(mode="after")
    def _paths_can_be(self) -> Config:
        """Refused here, a path cannot fail deep inside a run, on whatever looks at it first."""
        for name, field in type(self).model_fields.items():
            extra = field.json_schema_extra
            places = _PLACES & set(str(extra.get("metavar")).split("|")) if isinstance(extra, dict) else set()
            value = getattr(self, name)
            for item in value if isinstance(value, tuple) else (value,):
                is_path = isinstance(item, Path) or (places and isinstance(item, str))
                if is_path and (why := _no_path(str(item))):
                    raise ValueError(f"`{name}` {str(item)[:40]!r} {why}")
        return self

    def identity(self) -> dict[str, Any]:
        """The fields that decide a run's numbers, JSON-ready."""
        return self.model_dump(mode="json", exclude=set(NOT_IDENTITY))

    def digest(self) -> str:
        """SHA-256 over recipe, identity and the contents of the files it names: equal digests, equal runs."""
        parts: dict[str, Any] = {"recipe": self.recipe, **self.identity()}
        for name in CONTENTS:
            file = getattr(self, name, None)
            if file is not None and "(" not in str(file) and is_file(file):
                parts[name] = hashlib.sha256(Path(file).read_bytes()).hexdigest()
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def run_dir(self) -> Path:
        """``out``, or a directory under ``runs/`` that belongs to this very configuration."""
        out: Path | None = getattr(self, "out", None)
        return out if out is not None else Path("runs") / f"{self.recipe.replace('_', '-')}-{self.digest()[:8]}"


class DataFields(Config):
    """Which data, and who is to be forgotten."""

    data: str = opt(
        "clear-mini", "data", "dataset in CLEAR's layout: a directory, a Hub name, or clear-mini", "DIR|HUB|clear-mini"
    )
    tofu: str | None = opt(
        None, "data", "TOFU's wrong answers and paraphrases (default: tofu/ in the dataset)", "DIR|HUB|none"
    )
    forget: ForgetSplit | None = opt(
        None, "data", "a split the dataset publishes (default: forget10, unless people are named)"
    )
    forget_names: tuple[str, ...] = opt((), "data", "people to forget; everyone else is retained", '"NAME;NAME"')
    forget_file: Path | None = opt(None, "data", "the same from a file: a name or row id a line", "FILE")
    modality: Literal["text", "visual", "both"] = opt(
        "both", "data", "train on questions without a picture, with one, or both"
    )
    eval_modality: Literal["text", "visual", "both"] | None = opt(
        None, "evaluation", "what is asked afterwards (default: what is trained on)"
    )
    holdout: int = opt(0, "data", "retain people, drawn by the seed, kept out of both sets", "N", ge=0)
    unseen: int | None = opt(
        None,
        "data",
        "pictures of each person kept out of training (default: those the dataset marks)",
        "N",
        ge=0,
    )
    on_bad_data: Literal["fail", "skip"] = opt(
        "fail", "data", "a broken row or picture: stop and name it, or leave it out and list it"
    )
    max_length: int = opt(512, "layout", "longest sequence, in tokens, image tokens included", "N", ge=8)
    questions_per_picture: int = opt(4, "training", "questions that may share one picture in a batch", "N", ge=1)
    layout: Literal["dense", "varlen", "padded"] = opt(
        "dense", "layout", "packed with a block-diagonal mask, packed for flash-attention, or one sequence a row"
    )

    @model_validator(mode="before")
    @classmethod
    def _split_names(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("forget_names"), str):
            names = tuple(name.strip() for name in values["forget_names"].split(";") if name.strip())
            return {**values, "forget_names": names}
        return values

    @model_validator(mode="after")
    def _one_way_to_name_people(self) -> DataFields:
        given = [f for f in ("forget", "forget_names", "forget_file") if getattr(self, f)]
        if len(given) > 1:
            raise ValueError(
                f"{' and '.join(f'`{name}`' for name in given)} both say who is to be forgotten: give one of them"
            )
        return self

    @property
    def forget_split(self) -> ForgetSplit | None:
        """The named split in force; None where people are named one by one."""
        return None if self.forget_names or self.forget_file else self.forget or "forget10"


class ModelFields(Config):
    """Which model, in which precision, and which of its weights move."""

    model: str = opt("tiny", "model", "model directory, Hub name, or tiny (the shipped base)", "DIR|HUB|tiny")
    dtype: Literal["auto", "fp32", "bf16"] = opt("auto", "layout", "auto: bf16 on GPUs, fp32 on CPU")
    base_weights: Literal["auto", "full", "nf4"] = opt(
        "auto",
        "layout",
        "weights of the decoder's blocks beneath LoRA: as they are stored, or in 4 bits by bitsandbytes, which nothing "
        "is merged into (auto: as the adapter at hand was made; models that are compared alike)",
    )
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = opt(
        "auto", "layout", "auto: flash-attention where it is installed and the layout allows it, sdpa otherwise"
    )
    seed: int = opt(0, "run", "seed of everything drawn", "N", ge=0)
    deterministic: bool = opt(
        False,
        "run",
        "same seed, same bits, on the same device, ranks and threads: on a GPU only kernels that add in a fixed order, "
        "which are slower; on CPUs this is so anyway",
    )
