"""The grid of a scale study: read, checked against what there is, its models as directories with a config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from clear_dist.config.scale import INLINE, MOST_POINTS, NAMED, Grid, InlineModel, Mix
from clear_dist.errors import UserError, nearest
from clear_dist.methods import METHODS
from clear_dist.models.meta import meta_model, named_shapes
from clear_dist.models.new import SCALES, count, find_config, make_config, parse_count
from clear_dist.planner.hardware import gpu_of
from clear_dist.reading import json_value, unique_keys, yaml_value

_WORDS = {"int": "a whole number", "float": "a number", "string": "text", "tuple": "a list", "dict": "a mapping"}
_SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


@dataclass(frozen=True)
class Study:
    """models: what the report calls one -> a named shape, or a directory."""

    grid: Grid
    models: Mapping[str, str]


def read_grid(path: Path) -> Grid:
    """The grid of a YAML or JSON file.

    Raises:
        UserError: no such file, not YAML or JSON, or a wrong value: every one, by its dotted field, with what was
            expected and what was meant, where a name is near.
    """
    if not path.is_file():
        raise UserError(f"--grid {path}: no such file; benchmarks/grids/ has examples")
    try:
        text = path.read_text(encoding="utf-8")
        values = json_value(text, object_pairs_hook=unique_keys) if path.suffix == ".json" else yaml_value(text)
    except OSError as error:
        raise UserError(f"--grid {path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        kind = "JSON" if path.suffix == ".json" else "YAML"
        raise UserError(f"--grid {path}: not valid {kind}: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"--grid {path}: expected a mapping of fields, got {type(values).__name__}; models is required")
    try:
        grid = Grid.model_validate(values)
    except ValidationError as error:
        found = error.errors()
        # A list whose items are wrong counts as empty, too.
        inside = {e["loc"][:1] for e in found if len(e["loc"]) > 1}
        told = [e for e in found if e["type"] != "too_short" or e["loc"] not in inside]
        raise UserError("\n       ".join(f"{path}: {_message(e)}" for e in told)) from None
    _check_names(grid, path)
    return grid


def _message(error: ErrorDetails) -> str:
    parts = [str(part) for part in error["loc"] if part not in (INLINE, NAMED)]
    where, kind, got = ".".join(parts), str(error["type"]), error["input"]
    if not parts or kind == "value_error":
        text = str(error["msg"]).removeprefix("Value error, ")
        return f"{where}: {text}" if where else text
    owner: type[BaseModel] = {"models": InlineModel, "mixes": Mix}.get(parts[0], Grid) if len(parts) > 1 else Grid
    field = owner.model_fields.get(parts[-1]) or Grid.model_fields.get(parts[0])
    if kind == "extra_forbidden":
        known = owner.model_fields
        return f"{where}: no such field{nearest(parts[-1], known)}; there are {', '.join(known)}"
    if kind == "missing":
        return f"{where} is required: {field.description if field else ''}"
    if kind == "too_short":
        return f"{where}: is empty; expected at least one: {field.description if field else ''}"
    if kind == "literal_error":
        choices = _choices(field.annotation if field else None)
        return f"{where}: expected one of {', '.join(choices)}, got {got!r}{nearest(str(got), choices)}"
    context = error.get("ctx", {})
    if bound := next((f"{sign} {context[key]:g}" for key, sign in _SIGNS.items() if key in context), None):
        return f"{where}: expected a number {bound}, got {got!r}"
    expected = next((words for name, words in _WORDS.items() if kind.startswith(name)), field and field.description)
    return f"{where}: expected {expected}, got {got!r}"


def _choices(annotation: Any) -> list[str]:
    """Words of a Literal, wherever it stands in an annotation."""
    inner = get_args(annotation)
    if inner and all(isinstance(word, str) for word in inner):
        return list(inner)
    return next((found for part in inner if (found := _choices(part))), [])


def _check_names(grid: Grid, path: Path) -> None:
    for number, name in enumerate(grid.methods):
        if name not in METHODS:
            hint = nearest(name, METHODS)
            raise UserError(f"{path}: methods.{number}: unknown method {name}{hint}; known: {', '.join(METHODS)}")
    if grid.gpu != "auto":
        try:
            gpu_of(grid.gpu)
        except UserError as error:
            raise UserError(f"{path}: {str(error).replace('--gpu', 'gpu')}") from None
    labels = [label_of(model) for model in grid.models]
    if twice := next((label for i, label in enumerate(labels) if label in labels[:i]), None):
        raise UserError(f"{path}: models: {twice} is there twice; give one of them a name")
    if grid.size > MOST_POINTS:
        raise UserError(
            f"{path}: the grid has {grid.size:,} points, more than {MOST_POINTS:,}: models x gpus x stages x methods x "
            "mixes x scaling; make some of these lists shorter, or several studies of it"
        )


def label_of(model: str | InlineModel) -> str:
    """What the report calls a model: a directory by its last part."""
    if isinstance(model, InlineModel):
        return model.label
    return model if model in named_shapes() else Path(model).name or model


def placed(grid: Grid, path: Path, folder: Path) -> Study:
    """The grid with its models where they can be read: for those it describes, ``folder/LABEL/config.json`` is written.

    Raises:
        UserError: a name that is neither a shape nor a directory, a size that no model has.
    """
    models: dict[str, str] = {}
    for number, model in enumerate(grid.models):
        try:
            if isinstance(model, InlineModel):
                home = folder / _folder_name(model.label)
                home.mkdir(parents=True, exist_ok=True)
                _config_of(model).save_pretrained(home)
                models[model.label] = str(home)
            else:
                meta_model(model, lora_r=None, full=False)
                models[label_of(model)] = model
        except UserError as error:
            raise UserError(f"{path}: models.{number}: {str(error).removeprefix('--model ')}") from None
    return Study(grid, models)


def _folder_name(label: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in label).lstrip(".") or "_"


def _config_of(model: InlineModel) -> Any:
    """As ``clear-dist model new`` would make it. Raises UserError."""
    if model.params is not None:
        target = parse_count(model.params)
        scale = next(s for s in SCALES if target < s.below)
        vocab = model.vocab or scale.vocab
        return find_config(model.arch, target, scale, vocab, model.layers, model.hidden, model.image_size)
    assert model.hidden is not None and model.layers is not None
    config = None
    for scale in SCALES:
        vocab = model.vocab or scale.vocab
        config = make_config(model.arch, scale, vocab, model.hidden, model.layers, model.image_size)
        if count(config) < scale.below:
            break
    return config
