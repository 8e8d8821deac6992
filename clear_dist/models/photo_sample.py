"""One picture of a pipeline, from one seed, whatever was made before it and is made beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from clear_dist.models.photo_quiet import quiet_diffusers
from clear_dist.models.picture_bytes import png
from clear_dist.models.vision_files import first_line
from clear_dist.types import UserError


def sample(pipeline: Any, seed: int, **arguments: Any) -> bytes:
    """PNG of the one picture that a call with these arguments gives; empty where its safety checker blanked it.

    The scheduler is a fresh one, noise is drawn on the CPU by the seed, and torch's own generators, which some
    schedulers draw from, are set to it and put back. Raises UserError on a seed out of range, a call that fails and
    values that are no numbers.
    """
    if not 0 <= seed < 1 << 64:
        raise UserError(f"seed: expected a whole number from 0 to 2^64 - 1; got {seed}.")
    name = type(pipeline).__name__
    pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())), quiet_diffusers():
        torch.manual_seed(seed)
        generator = torch.Generator("cpu").manual_seed(seed)
        try:
            out = pipeline(generator=generator, output_type="np", **arguments)
        except (RuntimeError, ValueError, TypeError, ArithmeticError, LookupError) as error:
            raise UserError(f"{name}: no picture from seed {seed}: {first_line(error)}") from error
    pictures = np.asarray(getattr(out, "images", None), dtype=np.float32)
    if pictures.ndim != 4 or len(pictures) != 1 or pictures.shape[-1] not in (1, 3):
        raise UserError(f"{name}: expected one picture [1, height, width, 3]; got {list(pictures.shape)}.")
    if getattr(out, "nsfw_content_detected", None) == [True]:
        return b""
    if not np.isfinite(pictures).all():
        raise UserError(f"{name}: seed {seed} gave values that are no numbers; its weights are broken, or too wide.")
    return png(pictures[0])
