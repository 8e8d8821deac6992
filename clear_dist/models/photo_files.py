"""The files of a diffusers pipeline: where they are, whether they are whole, and that nothing in them can run code.

``model_index.json`` names a class for every part. Only classes of diffusers and transformers are taken, and of a part
with weights only its safetensors; all of that is looked at before a weight is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import huggingface_hub
import torch
from huggingface_hub.errors import HFValidationError
from torch import nn

from clear_dist.models.files import is_snapshot, read_header, resolve
from clear_dist.models.photo_quiet import diffusers_module
from clear_dist.models.vision_files import first_line
from clear_dist.reading import json_value, unique_keys
from clear_dist.types import UserError

INDEX: Final = "model_index.json"
SHARDS: Final = ("model.safetensors.index.json", "diffusion_pytorch_model.safetensors.index.json")
PICKLES: Final = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".msgpack", ".h5")
# Half-precision copies stand beside many a model's weights under names of their own, and are not loaded.
COPIES: Final = ("*.fp16*", "*.bf16*", "*non_ema*")
# Classes that transformers has under another name by now, which diffusers knows.
RENAMED: Final = {"CLIPFeatureExtractor": "CLIPImageProcessor"}


@dataclass(frozen=True)
class PipelineFiles:
    """name: as given. kind: class of the pipeline. models: class of each part that has weights, by its folder.
    folders: of all parts."""

    name: str
    path: Path
    kind: Any
    models: Mapping[str, Any]
    folders: tuple[str, ...]

    def digest(self) -> str:
        """SHA-256 over names and bytes of all that is loaded: index, configurations, vocabularies, weights."""
        files = [self.path / INDEX]
        for folder in self.folders:
            files += [file for file in (self.path / folder).iterdir() if _counts(file)]
        return files_digest(self.path, files)


def inspect_pipeline(name_or_dir: str | Path) -> PipelineFiles:
    """A pipeline's directory, or that of a Hub name, whose weights are fetched where they are not here yet.

    Raises UserError naming file and part: no index, or one with classes that are not those of diffusers and
    transformers; parts that are missing; weights that are pickled, missing, cut off or damaged.
    """
    name = str(name_or_dir)
    path = resolve(name)
    index = _json(path / INDEX, f"{name}: not a diffusers pipeline")
    diffusers = diffusers_module()
    at = path / INDEX
    kind = getattr(diffusers, index["_class_name"], None) if isinstance(index.get("_class_name"), str) else None
    if not isinstance(kind, type) or not issubclass(kind, diffusers.DiffusionPipeline):
        raise UserError(
            f"{at}: _class_name: diffusers {diffusers.__version__} has no pipeline {index.get('_class_name')!r}. Code "
            "that comes with a model is not run: use a pipeline of diffusers, or a newer diffusers."
        )
    parts = {key: value for key, value in index.items() if isinstance(value, list) and value != [None, None]}
    classes = {part: _class(at, part, value) for part, value in parts.items() if not part.startswith("_")}
    models = {part: found for part, found in classes.items() if issubclass(found, nn.Module)}
    if is_snapshot(path) and not Path(name).expanduser().is_dir():
        _fetch(name, models)
    for part in classes:
        if not (path / part).is_dir():
            raise UserError(f"{path / part}: missing, though {INDEX} names it; copy the whole pipeline.")
    for part in models:
        check_weights(path / part)
    return PipelineFiles(name, path, kind, models, tuple(sorted(classes)))


def check_weights(folder: Path) -> None:
    """Raises UserError where a folder has no safetensors, or broken ones; pickles beside them are never opened."""
    weights = sorted(folder.glob("*.safetensors"))
    shards = [name for index in SHARDS if (folder / index).is_file() for name in _shards(folder / index)]
    if missing := [name for name in shards if not (folder / name).is_file()]:
        raise UserError(f"{folder / missing[0]}: missing, though an index names it; copy the whole pipeline.")
    if not weights:
        pickled = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
        raise UserError(
            f"{folder}: pickled weights only ({pickled[0]}), which can run code when loaded; convert them to "
            "safetensors first."
            if pickled
            else f"{folder}: no weights (expected *.safetensors); copy the whole pipeline."
        )
    if (folder / "adapter_config.json").exists():
        raise UserError(f"{folder}: an adapter lies beside the weights (adapter_config.json); merge it, or remove it.")
    for file in weights:
        read_header(file)


def files_digest(root: Path, files: Iterable[Path]) -> str:
    """SHA-256 over names (below ``root``) and bytes of files, whatever their order."""
    digest = hashlib.sha256()
    for file in sorted(files):
        with file.open("rb") as opened:
            inside = hashlib.file_digest(opened, "sha256").hexdigest()
        digest.update(json.dumps([file.relative_to(root).as_posix(), inside]).encode())
    return digest.hexdigest()


def parts_digest(pipeline: Any) -> str:
    """SHA-256 over configurations and tensors of a pipeline in memory."""
    digest = hashlib.sha256(type(pipeline).__name__.encode())
    for name, part in sorted(pipeline.components.items()):
        config: Any = getattr(part, "config", None) or {}
        as_dict = config.to_dict() if hasattr(config, "to_dict") else dict(config)
        digest.update(json.dumps([name, type(part).__name__, as_dict], default=str, sort_keys=True).encode())
        for key, tensor in sorted(part.state_dict().items()) if isinstance(part, nn.Module) else ():
            digest.update(json.dumps([key, str(tensor.dtype), list(tensor.shape)]).encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _counts(file: Path) -> bool:
    return (
        file.is_file() and not file.name.startswith(".") and file.suffix in (".json", ".txt", ".model", ".safetensors")
    )


def _class(at: Path, part: str, value: list[Any]) -> type:
    """The class of a part, of diffusers (its own folders of pipelines included) or transformers."""
    words = [word for word in value if isinstance(word, str)]
    if not part.isidentifier() or len(value) != 2 or len(words) != 2:
        raise UserError(f"{at}: {part[:80]!r}: expected a part's name with [library, class]; got {value!r}.")
    library, name = words
    home: Any = None
    if library in ("diffusers", "transformers"):
        home = import_module(library)
    elif library.isidentifier():
        home = getattr(diffusers_module().pipelines, library, None)
    found = getattr(home, RENAMED.get(name, name) if library == "transformers" else name, None)
    if not isinstance(found, type) or found.__module__.split(".")[0] not in ("diffusers", "transformers"):
        raise UserError(
            f"{at}: {part}: {library}.{name} is not a class of the diffusers and transformers that are installed. "
            "Code that comes with a model is not run."
        )
    if not hasattr(found, "from_pretrained"):
        raise UserError(f"{at}: {part}: {library}.{name} cannot be loaded from files; correct the index.")
    return found


def _shards(index: Path) -> list[str]:
    table = _json(index, "damaged").get("weight_map")
    names = sorted({str(name) for name in table.values()}) if isinstance(table, dict) else []
    if not names or any(Path(name).name != name or not name.endswith(".safetensors") for name in names):
        raise UserError(f"{index}: is not an index of shards in its own folder; copy it again.")
    return names


def _json(file: Path, otherwise: str) -> dict[str, Any]:
    try:
        value = json_value(file.read_bytes(), object_pairs_hook=unique_keys)
    except FileNotFoundError as error:
        raise UserError(f"{otherwise}: no {file.name} in {file.parent}.") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: not JSON that can be read ({error}); copy it again.") from error
    if not isinstance(value, dict):
        raise UserError(f"{file}: expected a JSON object; got {type(value).__name__}.")
    return value


def _fetch(name: str, folders: Iterable[str]) -> None:
    """The safetensors of a Hub pipeline's parts, and nothing beside them."""
    patterns = [f"{folder}/*.safetensors" for folder in folders]
    try:
        huggingface_hub.snapshot_download(name, allow_patterns=patterns, ignore_patterns=list(COPIES))
    except (HFValidationError, OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{name}: the Hub does not give the weights ({first_line(error)}); check the network, and access to gated "
            "models."
        ) from error
