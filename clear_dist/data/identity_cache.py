"""Decoded pictures of identities, and the one safetensors file they are kept in, mapped by as many processes as like.

Tensors ``pixels`` uint8 [N, 3, size, size] and ``labels`` int64 [N]; metadata ``described``, a JSON object of all else
in ``Identities``, and ``sha256`` of that text. Pixels and labels are checked against the digest described. A file
appears under its name when it is complete and on disk; who finishes last wins, with the same bytes.

Symbols: N pictures, I identities.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from clear_dist.data.identity_listing import Reason
from clear_dist.types import UserError

VERSION: Final = 2  # raised whenever pixels, order or ids of a source change: caches and digests depend on it


@dataclass(frozen=True)
class Identities:
    """Pictures with whose they are.

    pixels: uint8 [N, 3, size, size], RGB. labels: int64 [N] in [0, I), ascending. names: I, in natural order ("a9"
    before "a10"). ids: N, "name/file", unique. digest: SHA-256 over size, names, ids, labels and pixels.
    source: as given. skipped: (id, why) of what is no picture. left_out: (name, why) of identities with too few, or
    that are there under another name.
    file: the cache that ``pixels`` are mapped from. notes: what else the user should know.
    """

    pixels: Tensor
    labels: Tensor
    names: tuple[str, ...]
    ids: tuple[str, ...]
    digest: str
    source: str
    skipped: tuple[Reason, ...] = ()
    left_out: tuple[Reason, ...] = ()
    file: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        return int(self.pixels.shape[-1])


def digest_of(pixels: Tensor, labels: Tensor, names: tuple[str, ...], ids: tuple[str, ...]) -> str:
    """``Identities.digest``: the same whatever source, cache or number of threads the pictures came by."""
    header = json.dumps([VERSION, pixels.shape[-1], names, ids])
    found = hashlib.sha256(header.encode())
    for tensor in (labels, pixels):
        found.update(tensor.contiguous().numpy().data)
    return found.hexdigest()


class DamagedCache(UserError):
    """A cache whose content is not what was written."""


def open_identities(file: Path) -> Identities:
    """A cache, mapped and checked. Processes that open it share its pages as long as they do not write to them.

    Raises DamagedCache (a UserError) where the content is not what was written, or there is no such file.
    """
    try:
        with safe_open(file, framework="pt", device="cpu") as opened:
            metadata = opened.metadata() or {}
            text = metadata.get("described", "")
            if hashlib.sha256(text.encode()).hexdigest() != metadata.get("sha256"):
                raise DamagedCache(f"{file}: the description of this cache is damaged.")
            pixels, labels = opened.get_tensor("pixels"), opened.get_tensor("labels")
        found: dict[str, Any] = json.loads(text)
        names, ids = tuple(found["names"]), tuple(found["ids"])
        skipped, left_out = (tuple((a, b) for a, b in found[key]) for key in ("skipped", "left_out"))
        identities = Identities(
            pixels, labels, names, ids, found["digest"], found["source"], skipped, left_out, file=Path(file)
        )
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, DamagedCache):
            raise
        raise DamagedCache(f"{file}: this cache cannot be read ({type(error).__name__}: {error}).") from error
    sound = pixels.dtype == torch.uint8 and pixels.ndim == 4 and labels.dtype == torch.int64
    if not sound or digest_of(pixels, labels, names, ids) != identities.digest:
        raise DamagedCache(f"{file}: the pictures in this cache are damaged.")
    return identities


def write_identities(identities: Identities, file: Path) -> None:
    """Publish a cache: written aside, brought to disk, moved into place. Raises UserError where that fails."""
    described = json.dumps(
        {
            "names": identities.names,
            "ids": identities.ids,
            "digest": identities.digest,
            "source": identities.source,
            "skipped": identities.skipped,
            "left_out": identities.left_out,
        }
    )
    metadata = {"described": described, "sha256": hashlib.sha256(described.encode()).hexdigest()}
    parts = {"labels": (identities.labels, "I64"), "pixels": (identities.pixels, "U8")}
    header: dict[str, Any] = {"__metadata__": metadata}
    at = 0
    for name, (tensor, dtype) in parts.items():
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [at, at + tensor.nbytes]}
        at += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    part: Path | None = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # Not by the library, which would hold all of it in memory once more, and hide what is wrong with the disk.
        with tempfile.NamedTemporaryFile(dir=file.parent, prefix="making-", suffix=".part", delete=False) as out:
            part = Path(out.name)
            out.write(len(text).to_bytes(8, "little") + text)
            for tensor, _ in parts.values():
                out.write(tensor.contiguous().numpy().data)
            out.flush()
            os.fsync(out.fileno())
        part.chmod(0o644)
        os.replace(part, file)
        part = None
    except OSError as error:
        raise UserError(
            f"{file.parent}: the decoded pictures ({at / 1e6:.0f} MB) cannot be kept here ({error.strerror or error}). "
            "Make room, or name another cache folder."
        ) from error
    finally:
        if part is not None:
            part.unlink(missing_ok=True)
