"""The files of a model: where they are, whether they are whole, what they weigh, what they contain."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any, TypeGuard

import huggingface_hub
from huggingface_hub.errors import HFValidationError

from clear_dist.reading import json_value, unique_keys
from clear_dist.types import UserError

TINY = Path(__file__).resolve().parent.parent / "assets" / "mini_base"
SMALL_FILES = ["*.json", "*.model", "*.jinja", "*.txt"]
_MAX_HEADER = 100 * 1024 * 1024  # safetensors' own limit


def resolve(name: str) -> Path:
    """A model's directory: ``tiny`` is the shipped base, an existing path is itself, the rest is a Hub name.

    Of a Hub model only the small files are fetched (configuration, tokenizer); ``fetch_weights`` gets the rest.
    """
    if name == "tiny":
        if not (TINY / "config.json").is_file():
            raise UserError("tiny: the shipped base model is missing from the installation; install the package again")
        return TINY
    path = Path(name).expanduser()
    if path.is_dir():
        return path.resolve()
    if path.exists():
        raise UserError(f"{name}: is a file; expected a model directory or a Hub name")
    looks_local = name.startswith(("/", ".", "~")) or name.count("/") != 1 or "\\" in name
    if looks_local:
        raise UserError(f"{name}: no such directory; give a model directory, a Hub name (owner/name) or 'tiny'")
    return _snapshot(name, SMALL_FILES)


def fetch_weights(name: str, path: Path) -> None:
    """Complete a Hub snapshot with its safetensors; nothing to do for a local directory."""
    if name != "tiny" and not Path(name).expanduser().is_dir() and is_snapshot(path):
        _snapshot(name, [*SMALL_FILES, "*.safetensors"])


def _snapshot(name: str, patterns: list[str]) -> Path:
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=patterns))
    except (HFValidationError, OSError, ValueError, RuntimeError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{name}: no such directory, and the Hub does not give a model of this name ({first}); "
            "check the name, the network, and access to gated models"
        ) from error


def is_snapshot(path: Path) -> bool:
    """Whether a directory is the Hub's cache, where weights may not have been fetched yet."""
    return "/snapshots/" in path.as_posix()


def weight_files(path: Path, *, complete: bool = True) -> list[Path]:
    """The safetensors of a directory. ``complete``: every shard an index names must be there, and at least one."""
    index = path / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{index}: is not an index of shards (no readable weight_map); copy it again") from error
        if outside := [n for n in names if Path(n).name != n]:
            raise UserError(f"{index}: names {outside[0]!r}, which is no file of this directory; copy it again")
        files = [path / n for n in names]
    else:
        files = sorted(path.glob("model*.safetensors"))
    if not complete:
        return [f for f in files if f.is_file()]
    for file in files:
        if not file.is_file():
            raise UserError(f"{file}: missing, though {index.name} names it; copy the whole model directory")
    if not files and list(path.glob("pytorch_model*.bin")):
        raise UserError(
            f"{path}: has pickled weights only (pytorch_model.bin), which can run code when loaded; "
            "convert them to safetensors first"
        )
    if not files:
        raise UserError(f"{path}: no weights (expected model.safetensors or model.safetensors.index.json)")
    return files


def weight_totals(files: Sequence[Path]) -> tuple[int, int, tuple[str, ...]]:
    """(parameters, bytes, dtypes) of safetensors, from their headers."""
    count = size = 0
    dtypes: set[str] = set()
    for file in files:
        for entry in read_header(file).values():
            count += prod(entry["shape"])
            start, end = entry["data_offsets"]
            size += end - start
            dtypes.add(entry["dtype"])
    return count, size, tuple(sorted(dtypes))


def read_header(file: Path) -> dict[str, Any]:
    """Tensor name -> {dtype, shape, data_offsets} of a safetensors file, checked against the file's length.

    Raises UserError for a file that is cut off or none (a Git LFS pointer, mostly).
    """
    total = file.stat().st_size
    with file.open("rb") as f:
        start = f.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or not 2 <= length <= min(total - 8, _MAX_HEADER):
            raise UserError(f"{file}: is not a safetensors file, or cut off (a Git LFS pointer?); fetch it again")
        try:
            header = json_value(f.read(length), object_pairs_hook=unique_keys)
        except ValueError as error:
            raise UserError(f"{file}: its safetensors header is damaged; fetch the file again") from error
    if not isinstance(header, dict):
        raise UserError(f"{file}: its safetensors header is no object; fetch the file again")
    header.pop("__metadata__", None)
    if bad := [name for name, entry in header.items() if not _is_entry(entry)]:
        raise UserError(f"{file}: its safetensors header is damaged at {bad[0][:80]!r}; fetch the file again")
    end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if 8 + length + end != total:
        raise UserError(f"{file}: has {total} bytes, its header promises {8 + length + end}; fetch the file again")
    return header


def _is_entry(entry: Any) -> bool:
    """Whether an entry has dtype, shape and a range of bytes, each of its kind."""
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        return False
    offsets = entry.get("data_offsets")
    if not _is_counts(entry.get("shape")) or not _is_counts(offsets):
        return False
    return len(offsets) == 2 and offsets[0] <= offsets[1]


def _is_counts(part: object) -> TypeGuard[list[int]]:
    return isinstance(part, list) and all(type(n) is int and n >= 0 for n in part)


def weights_digest(directory: Path) -> str:
    """SHA-256 over the tensors of a directory's safetensors: names, dtypes, shapes and bytes.

    Independent of sharding order, metadata and header spacing; adapters count too.
    """
    files = sorted(Path(directory).glob("*.safetensors"))
    if not files:
        raise UserError(f"{directory}: no safetensors to take a digest of")
    entries = []
    for file in files:
        with file.open("rb") as f:
            base = 8 + int.from_bytes(f.read(8), "little")
        entries += [(name, entry, file, base) for name, entry in read_header(file).items()]
    digest = hashlib.sha256()
    for name, entry, file, base in sorted(entries, key=lambda e: e[0]):
        digest.update(json.dumps([name, entry["dtype"], entry["shape"]]).encode())
        start, end = entry["data_offsets"]
        with file.open("rb") as f:
            f.seek(base + start)
            left = end - start
            while left and (block := f.read(min(left, 1 << 22))):
                digest.update(block)
                left -= len(block)
    return digest.hexdigest()
