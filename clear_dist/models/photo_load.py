"""A diffusers pipeline from its files, part by part, so that weights a part lacks are found rather than drawn anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from clear_dist.models.photo_files import PipelineFiles
from clear_dist.models.photo_quiet import quiet_diffusers
from clear_dist.models.vision_files import first_line
from clear_dist.types import UserError


def device_named(device: torch.device | str) -> torch.device:
    """``auto`` is the GPU where there is one. Raises UserError on what is no device."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise UserError(f"device: expected auto, cpu or cuda; got {device!r}.") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device: {device} was asked for, but torch sees no GPU here; use cpu or auto.")
    return found


def load_pipeline(files: PipelineFiles, dtype: torch.dtype) -> Any:
    """The pipeline ``inspect_pipeline`` looked at, on the CPU. Raises UserError naming what cannot be loaded."""
    models = {part: load_part(files.path / part, kind, dtype) for part, kind in files.models.items()}
    try:
        with quiet_diffusers():
            return files.kind.from_pretrained(files.path, local_files_only=True, use_safetensors=True, **models)
    except Exception as error:  # diffusers and transformers raise many kinds
        raise UserError(f"{files.path}: cannot be loaded as a {files.kind.__name__}: {first_line(error)}") from error


def load_part(folder: Path, kind: Any, dtype: torch.dtype) -> nn.Module:
    """A model of diffusers or transformers, in evaluation mode, on the CPU. Raises UserError naming its folder."""
    try:
        with quiet_diffusers():
            module, report = kind.from_pretrained(
                folder, dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
    except Exception as error:
        raise UserError(f"{folder}: cannot be loaded as a {kind.__name__}: {first_line(error)}") from error
    if missing := sorted(report["missing_keys"]):
        raise UserError(
            f"{folder}: the weights lack {len(missing)} tensors config.json asks for (first: {missing[0]}); "
            "configuration and weights do not belong together."
        )
    return module.eval()
