"""Files of a StyleGAN2: ``config.json`` and ``model.safetensors``, both checked before a weight is used.

Names of tensors are those of the widely used PyTorch conversion (rosinality/stylegan2-pytorch), its ``g_ema`` and ``d``
before a dot. A pickle is not read: it can run code.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from clear_dist.errors import nearest
from clear_dist.models.files import read_header
from clear_dist.models.stylegan2_layers import RATE, Networks, empty_networks, fir_kernel
from clear_dist.reading import is_file, json_value, unique_keys
from clear_dist.types import UserError

CONFIG, WEIGHTS = "config.json", "model.safetensors"
SIZES = tuple(2**power for power in range(3, 11))
_PICKLES = (".pt", ".pkl", ".pth", ".pickle", ".ckpt", ".bin")
_FLOATS = {"F64", "F32", "F16", "BF16"}
_LARGEST_CONFIG = 1 << 20  # bytes
_RANGES = {"style_dim": 4096, "mapping_layers": 64, "channel_max": 512}


@dataclass(frozen=True)
class StyleGAN2Settings:
    """What a StyleGAN2 is, apart from its weights; the defaults are configuration F of the paper.

    size: pixels of a side. style_dim: length of z and w. mapping_layers: from z to w. channel_multiplier: 2, or 1
    for configurations A to E. channel_max: of any layer.

    Raises:
        UserError: a field outside its range.
    """

    size: int
    style_dim: int = 512
    mapping_layers: int = 8
    channel_multiplier: int = 2
    channel_max: int = 512

    def __post_init__(self) -> None:
        for name, choices in (("size", SIZES), ("channel_multiplier", (1, 2))):
            value = getattr(self, name)
            if type(value) is not int or value not in choices:
                raise UserError(f"{name}: expected one of {', '.join(map(str, choices))}; got {value!r}")
        for name, most in _RANGES.items():
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= most:
                raise UserError(f"{name}: expected a whole number from 1 to {most}; got {value!r}")

    def channels(self, side: int) -> int:
        """Of the layers at side x side pixels."""
        return min(self.channel_max, (16384 // side) * self.channel_multiplier)


def find_directory(name: str | Path) -> Path:
    """The directory of a model. Raises UserError where it, or its weights, are not there or are a pickle."""
    try:
        path = Path(name).expanduser()
        if path.suffix.lower() in _PICKLES and is_file(path):
            raise UserError(_convert(path))
        if not path.is_dir():
            raise UserError(f"{path}: no such directory; expected one with {CONFIG} and {WEIGHTS}")
        if not is_file(path / WEIGHTS):
            pickles = sorted(file for file in path.iterdir() if file.suffix.lower() in _PICKLES)
            raise UserError(
                _convert(pickles[0]) if pickles else f"{path / WEIGHTS}: missing; copy the whole model directory"
            )
    except (OSError, RuntimeError) as error:  # RuntimeError: the home of somebody who has none
        raise UserError(f"{name}: cannot be looked into ({error}); check the name and who may read it") from error
    return path


def read_settings(directory: Path) -> StyleGAN2Settings:
    """From ``config.json``, which may leave out all but ``size``.

    Raises:
        UserError: no such file, no JSON object, an unknown field, a wrong value.
    """
    file = directory / CONFIG
    if not is_file(file):
        raise UserError(f'{file}: missing; write {{"size": 1024}} into it, or what the size of the pictures is')
    try:
        if file.stat().st_size > _LARGEST_CONFIG:
            raise ValueError(f"more than {_LARGEST_CONFIG >> 20} MiB")
        values = json_value(file.read_bytes(), object_pairs_hook=unique_keys)
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as JSON ({error}); write it again") from error
    if not isinstance(values, dict) or "size" not in values:
        raise UserError(f'{file}: expected an object with at least a size, such as {{"size": 1024}}')
    return _settings(values, file)


def _settings(values: dict[str, Any], file: Path) -> StyleGAN2Settings:
    names = [field.name for field in fields(StyleGAN2Settings)]
    if strange := [name for name in values if name not in names]:
        raise UserError(f"{file}: {strange[0]!r} is no field{nearest(strange[0], names)}; expected {', '.join(names)}")
    try:
        return StyleGAN2Settings(**values)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error


def _convert(file: Path) -> str:
    first = ""
    if file.suffix.lower() in (".pkl", ".pickle"):
        first = "make NVIDIA's .pkl a .pt with `convert_weight.py --disc` of rosinality/stylegan2-pytorch, then "
    source = str(file.with_suffix(".pt") if first else file)
    return (
        f"{file}: is a pickle, which can run code when loaded. If you trust where it is from, {first}convert it and "
        f'give the directory of the new file, with a {CONFIG} of {{"size": 1024}} (or its size) beside it:\n'
        "  import torch; from safetensors.torch import save_file\n"
        f"  parts = torch.load({source!r}, map_location='cpu', weights_only=True)\n"
        "  save_file({f'{part}.{name}': tensor.contiguous() for part in ('g_ema', 'd')\n"
        f"             for name, tensor in parts[part].items()}}, {WEIGHTS!r})"
    )


def read_networks(directory: Path, settings: StyleGAN2Settings) -> Networks:
    """Both networks with the weights of ``model.safetensors``, fp32, on the CPU, without gradients.

    Names, shapes and kinds are checked by the file's header, before anything of the size of the weights is read.

    Raises:
        UserError: a file that cannot be read as safetensors; a tensor missing, unknown, of another shape, not of
            floats, or with a value that is no finite fp32.
    """
    networks = empty_networks(settings)
    expected = {name: tensor.shape for name, tensor in networks.state_dict().items()}
    file = directory / WEIGHTS
    try:
        _compare(file, read_header(file), expected, networks.g_ema.sides)
        with safe_open(file, framework="pt") as stored:
            weights = {name: stored.get_tensor(name).to(torch.float32) for name in expected}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file}: cannot be read as safetensors ({error}); fetch the file again") from error
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise UserError(f"{file}: {name} has values that are no finite fp32; fetch or convert the file again")
    networks.load_state_dict(weights, assign=True)
    return networks.requires_grad_(False)


def _compare(file: Path, header: Mapping[str, Any], expected: Mapping[str, torch.Size], sides: Sequence[int]) -> None:
    """Fixed noise of the file's is let through: older conversions lack it, and nothing here uses it."""
    missing = [name for name in expected if name not in header]
    if missing and not any(name.startswith("d.") for name in header):
        raise UserError(f"{file}: lacks {missing[0]}; no tensor starts with d., convert the discriminator, too")
    if missing:
        raise UserError(
            f"{file}: lacks {len(missing)} tensors that {CONFIG} asks for (first: {missing[0]}); configuration and "
            "weights do not belong together"
        )
    noise = {f"g_ema.noises.noise_{i}": (1, 1, side, side) for i, side in enumerate(sides)}
    shapes = {**expected, **noise}
    if strange := sorted(name for name in header if name not in shapes):
        raise UserError(
            f"{file}: has {len(strange)} tensors that {CONFIG} does not ask for (first: {strange[0]}); correct {CONFIG}"
            ", or leave them out"
        )
    for name, entry in header.items():
        if list(shapes[name]) != entry["shape"] or entry["dtype"] not in _FLOATS:
            raise UserError(
                f"{file}: {name} is {entry['dtype']} {entry['shape']}; {CONFIG} asks for floats {list(shapes[name])}"
            )


def files_digest(directory: Path) -> str:
    """SHA-256 over the SHA-256 of ``config.json`` and that of ``model.safetensors``, in this order."""
    whole = hashlib.sha256()
    for name in (CONFIG, WEIGHTS):
        with (directory / name).open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def write_files(directory: Path, settings: StyleGAN2Settings, weights: Mapping[str, Tensor]) -> Path:
    """Write both, each beside its place and moved there, the weights first, so that neither is ever half there."""
    new = {name: directory / f".{name}.tmp" for name in (WEIGHTS, CONFIG)}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        save_file(dict(weights), new[WEIGHTS], metadata={"format": "pt"})
        new[CONFIG].write_text(json.dumps(asdict(settings), indent=2) + "\n", encoding="utf-8")
        for name, written in new.items():
            os.replace(written, directory / name)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{directory}: a model cannot be written there ({error}); give another directory") from error
    return directory


def random_weights(
    directory: str | Path,
    size: int = 32,
    *,
    style_dim: int = 16,
    mapping_layers: int = 2,
    channel_max: int = 8,
    seed: int = 0,
) -> Path:
    """Write an untrained StyleGAN2, small unless told otherwise, for rehearsals: its pictures are coloured noise.

    Weights are drawn as at the start of a training; so are biases and strengths of noise, which would be 0 there, that
    nothing in the networks is without effect. Returns the directory.

    Raises:
        UserError: a number outside its range; a directory that cannot be written to.
    """
    settings = StyleGAN2Settings(size, style_dim, mapping_layers, channel_max=channel_max)
    draw = torch.Generator().manual_seed(seed)
    weights = {}
    for name, empty in empty_networks(settings).state_dict().items():
        if name.endswith("kernel"):
            weights[name] = fir_kernel(4.0 if name.startswith("g_ema.") else 1.0)
            continue
        values = torch.randn(empty.shape, generator=draw)
        if name.startswith("g_ema.style."):
            values /= RATE
        if name.endswith("bias") or name.endswith("noise.weight"):
            values *= 0.1
        weights[name] = values + 1 if name.endswith("modulation.bias") else values
    return write_files(Path(directory), settings, weights)
