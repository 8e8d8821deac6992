"""Two ranks' tensors of one parameter, and files of tensors with any header somebody might give them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from clear_dist.engine.checkpoint_files import file_name
from clear_dist.engine.checkpoint_tensors import WEIGHT, Held, Part, write_tensors

NAMES = [file_name(0), file_name(1)]
WHOLE = 6
"""Elements of the parameter ``a``: four are the first rank's, two the second's."""


def write_ranks(folder: Path) -> list[bytes]:
    """Both files, each element's weight its place; returns their bytes."""
    return [_write(folder / name, start, count) for name, start, count in zip(NAMES, (0, 4), (4, 2), strict=True)]


def _write(path: Path, start: int, count: int) -> bytes:
    values = torch.arange(start, start + count, dtype=torch.float32)
    kept = {WEIGHT: values, "exp_avg": values.bfloat16(), "step": torch.tensor(3.0)}
    held = [Held(f"{key}/a", value.dtype, tuple(value.shape), lambda v=value: v) for key, value in kept.items()]
    write_tensors(path, [Part("a", start, count, WHOLE)], held)
    return path.read_bytes()


def unpacked(content: bytes) -> tuple[dict[str, Any], bytes]:
    """(header, data) of a file's bytes."""
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def packed(header: Any, data: bytes) -> bytes:
    """A file's bytes with this header, whatever JSON it is."""
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def with_parts(content: bytes, parts: str) -> bytes:
    """The file with another text where it says what its parts are."""
    header, data = unpacked(content)
    return packed({**header, "__metadata__": {"parts": parts}}, data)
