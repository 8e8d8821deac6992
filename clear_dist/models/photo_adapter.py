"""IP-Adapter (arXiv 2308.06721): shows a text-to-image pipeline a face, by weights of its own in a directory.

The directory holds one .safetensors file, and the encoder of pictures in ``image_encoder/`` unless the pipeline has it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file
from transformers import CLIPVisionModelWithProjection

from clear_dist.models.files import read_header
from clear_dist.models.photo_files import check_weights, files_digest
from clear_dist.models.photo_load import load_part
from clear_dist.models.photo_quiet import quiet_diffusers
from clear_dist.models.vision_files import first_line
from clear_dist.types import UserError

ENCODER: Final = "image_encoder"
PARTS: Final = ("image_proj", "ip_adapter")


def has_adapter(pipeline: Any) -> bool:
    """Whether an IP-Adapter was loaded into the network of a pipeline."""
    config = getattr(getattr(pipeline, "unet", None), "config", None)
    kind = getattr(config, "encoder_hid_dim_type", None)
    return kind == "ip_image_proj" and getattr(pipeline, ENCODER, None) is not None


def add_adapter(pipeline: Any, directory: str | Path, dtype: torch.dtype) -> str:
    """Loads an adapter into a pipeline; its digest.

    Raises UserError: not one .safetensors file, a broken one, or one that is no adapter; no encoder of pictures; an
    adapter that does not fit the pipeline.
    """
    folder = Path(directory).expanduser()
    if not hasattr(pipeline, "load_ip_adapter") or not hasattr(pipeline, "unet"):
        raise UserError(f"{folder}: a {type(pipeline).__name__} takes no IP-Adapter; leave the adapter out.")
    file = _only_file(folder)
    files = [file]
    if pipeline.image_encoder is None:
        inside = folder / ENCODER
        if not inside.is_dir():
            raise UserError(
                f"{inside}: missing, and the pipeline has no encoder of pictures; copy it beside the adapter."
            )
        check_weights(inside)
        pipeline.register_modules(image_encoder=load_part(inside, CLIPVisionModelWithProjection, dtype))
        files += [*inside.glob("*.json"), *inside.glob("*.safetensors")]
    try:
        with quiet_diffusers():
            pipeline.load_ip_adapter(_tensors(file), subfolder="", weight_name="", image_encoder_folder=None)
    except Exception as error:  # diffusers raises many kinds
        raise UserError(f"{file}: does not fit the {type(pipeline).__name__}: {first_line(error)}") from error
    return files_digest(folder, files)


def _only_file(folder: Path) -> Path:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such directory; give one with an adapter's .safetensors file.")
    found = sorted(folder.glob("*.safetensors"))
    if len(found) != 1:
        raise UserError(
            f"{folder}: expected one .safetensors file, the adapter; found {len(found)}. Pickled adapters "
            "(.bin) can run code when loaded, and are not read."
        )
    read_header(found[0])
    return found[0]


def _tensors(file: Path) -> dict[str, dict[str, torch.Tensor]]:
    """The two parts of an adapter, whose names stand before those of the tensors."""
    out: dict[str, dict[str, torch.Tensor]] = {part: {} for part in PARTS}
    for key, tensor in load_file(file).items():
        part, _, rest = key.partition(".")
        if part not in out:
            raise UserError(f"{file}: {key[:80]!r} is no tensor of an IP-Adapter; expected {' or '.join(PARTS)}.*")
        out[part][rest] = tensor
    if not all(out.values()):
        raise UserError(f"{file}: holds no tensors of {' and '.join(part for part in PARTS if not out[part])}.*")
    return out
