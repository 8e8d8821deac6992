"""Results and weights on disk, each under the SHA-256 of its bytes: ``objects/SHA256.safetensors``.

A file appears whole or not at all (temporary name, fsync, rename, fsync of the folder), is never changed afterwards,
and is hashed again whenever it is read. Safetensors bytes depend on names, types, shapes and values alone, so equal
results are one file.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clear_dist.errors import UserError

from .task import KEY

if TYPE_CHECKING:
    from torch import Tensor

OBJECTS, PART = "objects", ".part"


class Damaged(Exception):
    """A file is missing, or is not what its name says."""


@dataclass(frozen=True)
class Ref:
    """An object: the SHA-256 of its bytes (hex), and how many they are."""

    sha256: str
    size: int


def write_whole(path: Path, data: bytes) -> None:
    """Put ``data`` into a file that is seen by others whole or not at all, and survives a power cut.

    Raises:
        UserError: the disk is full or cannot be written; nothing is left behind.
    """
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}{PART}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise UserError(
            f"{path.parent}: {len(data):,} bytes could not be written ({error.strerror or error}); "
            "make room or name another directory, then start again: what is done stays done"
        ) from None
    finally:
        part.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename last: it is an entry of the folder, which has a cache of its own."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def object_path(folder: Path, sha256: str) -> Path:
    """Where an object lies in a farm. A name from a file must look like one before it becomes a path."""
    if not KEY.fullmatch(sha256):
        raise Damaged(f"{sha256[:80]!r} is no SHA-256")
    return folder / OBJECTS / f"{sha256}.safetensors"


def encode(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors as safetensors bytes: on the CPU, row-major, without a word of metadata."""
    import torch
    from safetensors.torch import save

    return save({k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in tensors.items()})


def decode(data: bytes) -> dict[str, Tensor]:
    """What :func:`encode` wrote."""
    from safetensors.torch import load

    return load(data)


def put_bytes(folder: Path, data: bytes) -> Ref:
    """Keep ``data`` in the farm at ``folder``; an intact object of the same content is left as it is."""
    ref = Ref(hashlib.sha256(data).hexdigest(), len(data))
    if not intact(folder, ref):
        write_whole(object_path(folder, ref.sha256), data)
    return ref


def put(folder: Path, tensors: Mapping[str, Tensor]) -> Ref:
    """Keep tensors in the farm at ``folder``.

    Raises:
        UserError: the disk is full or cannot be written.
    """
    return put_bytes(folder, encode(tensors))


def get_bytes(folder: Path, sha256: str) -> bytes:
    """An object's bytes.

    Raises:
        Damaged: it is missing, or its bytes have another hash.
    """
    path = object_path(folder, sha256)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Damaged(f"{path}: {error.strerror}") from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise Damaged(f"{path}: its content has changed")
    return data


def get(folder: Path, sha256: str) -> dict[str, Tensor]:
    """An object's tensors; raises as :func:`get_bytes`."""
    return decode(get_bytes(folder, sha256))


def intact(folder: Path, ref: Ref, deep: bool = True) -> bool:
    """Whether an object is there with its size and, if ``deep``, its hash."""
    try:
        path = object_path(folder, ref.sha256)
        if path.stat().st_size != ref.size:
            return False
        if not deep:
            return True
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == ref.sha256
    except (OSError, Damaged):
        return False


def sweep_parts(folder: Path) -> None:
    """Remove what writers that were killed left half written; only while nobody writes."""
    for part in folder.rglob(f"*{PART}"):
        part.unlink(missing_ok=True)
