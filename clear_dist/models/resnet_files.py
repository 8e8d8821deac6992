"""A vision model's weights: in memory, in files, and those of torchvision, timm and transformers."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from clear_dist.models.files import fetch_weights, read_header, resolve, weight_files
from clear_dist.models.resnet import VisionModel, empty_resnet, initialised
from clear_dist.models.resnet_names import recognised, to_torchvision
from clear_dist.models.resnet_settings import SHAPES, Head, ResNetSettings, Size
from clear_dist.types import UserError

MODEL_TYPE = "clear_dist_resnet"
_PICKLES = {".pth", ".pt", ".bin", ".ckpt", ".pkl", ".tar"}
_COUNTER = "num_batches_tracked"  # of batch normalisation; nothing reads it


def state_of(model: VisionModel) -> dict[str, Tensor]:
    """Name -> weight under torchvision's names: copies on the CPU, contiguous, in the model's precision.

    Running means and variances are among them, counters of batches are not.
    """
    return {
        name: tensor.detach().to("cpu", copy=True).contiguous()
        for name, tensor in model.state_dict().items()
        if not name.endswith(_COUNTER)
    }


def model_from(settings: ResNetSettings, state: Mapping[str, Tensor], origin: str = "the weights") -> VisionModel:
    """The inverse of ``state_of``: a model with these weights, fp32, on the CPU, in evaluation mode. Nothing is drawn.

    Raises:
        UserError: tensors that are missing, too many or of another shape, named after ``origin``. Counters of batches
            are not looked at.
    """
    model = empty_resnet(settings)
    own = model.state_dict()
    given = {name: tensor for name, tensor in state.items() if not name.endswith(_COUNTER)}
    missing = [name for name in own if name not in given and not name.endswith(_COUNTER)]
    if missing:
        raise UserError(
            f"{origin}: lack {len(missing)} tensors that {_described(settings)} has (first: {missing[0]}); "
            "settings and weights do not belong together"
        )
    extra = sorted(set(given) - set(own))
    if extra:
        raise UserError(f"{origin}: have {len(extra)} tensors that {_described(settings)} lacks (first: {extra[0]})")
    for name, tensor in given.items():
        if tensor.shape != own[name].shape or not tensor.is_floating_point():
            raise UserError(
                f"{origin}: {name} is {tensor.dtype} {list(tensor.shape)}; expected floats {list(own[name].shape)} "
                f"for {_described(settings)}"
            )
    counters = {name: torch.zeros_like(tensor) for name, tensor in own.items() if name.endswith(_COUNTER)}
    model.load_state_dict({**given, **counters})
    return model


def _described(settings: ResNetSettings) -> str:
    return f"a ResNet of size {settings.size} with {settings.classes} classes ({settings.head})"


def save_resnet(model: VisionModel, out: Path) -> Path:
    """Write a directory: config.json (``ResNetSettings``) and model.safetensors (``state_of``).

    Each is written beside its place and moved there, the weights first, so that neither is ever half there.
    """
    if out.is_file():
        raise UserError(f"{out}: is a file; expected a directory to write a model to")
    out.mkdir(parents=True, exist_ok=True)
    config = {"model_type": MODEL_TYPE, **asdict(model.settings)}
    weights, settings = out / ".model.safetensors.tmp", out / ".config.json.tmp"
    save_file(state_of(model), weights, metadata={"format": "pt"})
    settings.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    os.replace(weights, out / "model.safetensors")
    os.replace(settings, out / "config.json")
    return out


def load_resnet(source: str | Path, classes: int | None = None, head: Head | None = None, seed: int = 0) -> VisionModel:
    """A ResNet of size 18, 34, 50 or tiny; fp32, in evaluation mode.

    Args:
        source: what ``save_resnet`` wrote; a directory or Hub name of transformers (``microsoft/resnet-18``) or timm
            (``timm/resnet18.a1_in1k``) with safetensors; or one .safetensors file of torchvision, timm or
            transformers, whose size is recognised from its tensors.
        classes: identities to tell apart; None keeps the head as it is, and so does their own number. Any other
            number gets a new head, drawn by ``seed``.
        head: the same for the kind of head; weights from elsewhere have ``softmax``.

    Raises:
        UserError: no such file, directory or Hub name; not a ResNet of these sizes; no, pickled or broken weights;
            weights without a head, and no ``classes`` to make one for.
    """
    path = Path(source).expanduser()
    if path.is_file():
        state = to_torchvision(_read(path), str(path))
        settings = recognised(state, str(path))
    else:
        path = resolve(str(source))
        config = _config(path)
        fetch_weights(str(source), path)
        if config["model_type"] == MODEL_TYPE:
            settings, state = _settings(config, path), _read(_present(path / "model.safetensors"))
        else:
            parts = {name: tensor for file in _whole_weights(path) for name, tensor in _read(file).items()}
            state = to_torchvision(parts, str(path))
            settings = recognised(state, str(path))
            _compare(config, settings, path)
    if "fc.weight" not in state and classes is None:
        raise UserError(f"{path}: the weights have no head (fc or classifier.1); give classes, and a new one is made")
    wanted = replace(
        settings,
        classes=settings.classes if classes is None else classes,
        head=settings.head if head is None else head,
    )
    if "fc.weight" not in state or (wanted.classes, wanted.head) != (settings.classes, settings.head):
        fresh = state_of(initialised(wanted, seed))
        body = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
        state = body | {name: tensor for name, tensor in fresh.items() if name.startswith("fc.")}
    return model_from(wanted, state, str(path))


def _present(file: Path) -> Path:
    if not file.is_file():
        raise UserError(f"{file}: missing; no weights. Copy the whole model directory")
    return file


def _whole_weights(path: Path) -> list[Path]:
    pickled = sorted(path.glob("pytorch_model*.bin"))
    if pickled and not list(path.glob("model*.safetensors*")):
        raise UserError(_convert(pickled[0]))
    return weight_files(path)


def _read(file: Path) -> dict[str, Tensor]:
    if file.suffix in _PICKLES:
        raise UserError(_convert(file))
    read_header(file)
    try:
        return load_file(file)
    except (SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"{file}: cannot be read as safetensors ({error}); fetch the file again") from error


def _convert(file: Path) -> str:
    return (
        f"{file}: is a pickle, which can run code when loaded. Convert it, if you trust where it is from, and give the "
        "new file:\n"
        "  import torch; from safetensors.torch import save_file\n"
        f"  save_file(torch.load({str(file)!r}, weights_only=True), {str(file.with_suffix('.safetensors'))!r})"
    )


def _config(path: Path) -> dict[str, Any]:
    """config.json, with timm's told by its ``architecture``."""
    file = path / "config.json"
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        kind = values.get("model_type") or ("timm" if "architecture" in values else values["model_type"])
    except FileNotFoundError as error:
        raise UserError(f"{file}: missing; expected the directory of a ResNet, or one .safetensors file") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: is not a model's configuration ({error}); copy the model directory again") from error
    if kind not in (MODEL_TYPE, "resnet", "timm"):
        raise UserError(f"{file}: is of a model of type {kind!r}; expected resnet")
    return {**values, "model_type": kind}


def _settings(config: dict[str, Any], path: Path) -> ResNetSettings:
    names = [field.name for field in fields(ResNetSettings)]
    own = {name: value for name, value in config.items() if name != "model_type"}
    wrong = sorted(set(own) ^ set(names))
    if wrong:
        raise UserError(f"{path / 'config.json'}: {wrong[0]}: missing or unknown; it has {', '.join(names)}")
    try:
        return ResNetSettings(**own)
    except UserError as error:
        raise UserError(f"{path / 'config.json'}: {error}") from error


def _compare(config: dict[str, Any], found: ResNetSettings, path: Path) -> None:
    """Refuse a configuration of another network than the weights are of: a stride leaves no trace in weights."""
    file = path / "config.json"
    if config["model_type"] == "timm":
        name = str(config["architecture"]).split(".")[0]
        if name != f"resnet{found.size}":
            raise UserError(f"{file}: architecture {name!r} is not supported; the weights are of a resnet{found.size}")
        return
    size: Size = found.size
    shape = SHAPES[size]
    expansion = 4 if shape.bottleneck else 1
    # What transformers' ResNetConfig takes where the file says nothing.
    expected: dict[str, tuple[Any, Any]] = {
        "depths": ([3, 4, 6, 3], list(shape.blocks)),
        "hidden_sizes": ([256, 512, 1024, 2048], [expansion * width for width in shape.widths]),
        "embedding_size": (64, shape.widths[0]),
        "layer_type": ("bottleneck", "bottleneck" if shape.bottleneck else "basic"),
        "hidden_act": ("relu", "relu"),
        "downsample_in_first_stage": (False, False),
        "downsample_in_bottleneck": (False, False),
    }
    for name, (default, right) in expected.items():
        value = config.get(name, default)
        if value != right and not (name == "downsample_in_bottleneck" and not shape.bottleneck):
            raise UserError(
                f"{file}: {name} is {value!r}, but the weights do not fit config.json or the network is not supported: "
                f"a ResNet of size {size}, which they are of, has {right!r}"
            )
