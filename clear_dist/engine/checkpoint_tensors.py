"""One rank's file of a checkpoint: safetensors, written tensor by tensor and read slice by slice.

A file holds *parts* of parameters, each a range of the flattened parameter that the rank kept. ``KEY/NAME`` is the
part of parameter NAME: ``weight`` its value in the precision it is trained in, ``exp_avg`` and whatever else the
optimiser keeps for every element, all [count]; what it keeps once, such as AdamW's ``step``, is a scalar. The file's
metadata says where each part begins: ``parts`` = {NAME: [start, count, elements of the whole parameter]}.

The format is JSON and numbers (huggingface.co/docs/safetensors): there is nothing in it that could run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clear_dist.errors import UserError
from clear_dist.reading import json_value, unique_keys

from .checkpoint_files import Damaged, File, hashed_file

WEIGHT = "weight"
_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
}
_BLOCK = 1 << 22  # elements brought to the CPU at a time


@dataclass(frozen=True)
class Part:
    """Elements ``start`` to ``start + count`` of the flattened parameter ``name``, which has ``whole`` of them."""

    name: str
    start: int
    count: int
    whole: int


@dataclass(frozen=True)
class Held:
    """A tensor to be written, as ``KEY/NAME``: its type and shape now, its values when they are asked for."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    values: Callable[[], Tensor]


def write_tensors(path: Path, parts: Sequence[Part], tensors: Sequence[Held]) -> File:
    """Write ``path``, fsynced, with never more than a block of a tensor in memory beside what is held already.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    header: dict[str, Any] = {
        "__metadata__": {"parts": json.dumps({p.name: [p.start, p.count, p.whole] for p in parts})}
    }
    end = 0
    for held in tensors:
        begin, size = end, torch.Size(held.shape).numel() * held.dtype.itemsize
        end = begin + size
        header[held.name] = {"dtype": _NAMES[held.dtype], "shape": list(held.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with hashed_file(path) as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for held in tensors:
            values = held.values().detach().reshape(-1)
            for block in values.split(_BLOCK):
                data = block.to("cpu").contiguous().view(torch.uint8)
                file.write(data.numpy().data)
    assert file.bytes == 8 + len(text) + end, "a tensor is not what its header says"
    return File(path.name, file.bytes, file.sha256)


@dataclass(frozen=True)
class _Source:
    reader: Any  # safetensors' open file
    start: int
    count: int


def _damaged(path: Path, why: str) -> Damaged:
    """What a file holds is quoted as in a ``UserError``: printable, and not longer than a person reads."""
    return Damaged(str(UserError(f"{path}: {why}")))


class SavedTensors:
    """All ranks' files of a checkpoint, open: any range of any parameter, however it was cut.

    Raises:
        Damaged: a file holds something else, or the parts do not make up whole parameters. Names the file.
    """

    def __init__(self, paths: Sequence[Path], readers: Sequence[Any]) -> None:
        self._sources: dict[str, list[_Source]] = {}
        self._scalars: dict[str, list[str]] = {}
        self.keys: dict[str, list[str]] = {}
        self.wholes: dict[str, int] = {}
        for path, reader in zip(paths, readers, strict=True):
            try:
                self._take(reader)
            except (ValueError, KeyError) as error:
                raise _damaged(path, f"not a checkpoint's ({type(error).__name__}: {error})") from None
        for name, sources in self._sources.items():
            sources.sort(key=lambda s: s.start)
            ends = [0, *(s.start + s.count for s in sources)]
            if [s.start for s in sources] != ends[:-1] or ends[-1] != self.wholes[name]:
                raise _damaged(paths[0].parent, f"the files together do not hold each element of {name} once")

    def _take(self, reader: Any) -> None:
        parts = json_value((reader.metadata() or {})["parts"], object_pairs_hook=unique_keys)
        keys: dict[str, list[str]] = {}
        for tensor in sorted(reader.keys()):
            key, _, name = tensor.partition("/")
            keys.setdefault(name, []).append(key)
        if not isinstance(parts, dict) or keys.keys() != parts.keys():
            raise ValueError("parts and tensors differ")
        for name, entry in parts.items():
            start, count, whole = _numbers(name, entry)
            if WEIGHT not in keys[name]:
                raise ValueError(f"no {WEIGHT} of {name}")
            scalars = _kept_once(reader, name, keys[name], count)
            known = self.keys.setdefault(name, keys[name]), self.wholes.setdefault(name, whole)
            if known != (keys[name], whole) or self._scalars.setdefault(name, scalars) != scalars:
                raise ValueError(f"{name} is another parameter in another file")
            self._sources.setdefault(name, []).append(_Source(reader, start, count))

    def scalar(self, name: str, key: str) -> Tensor | None:
        """What the optimiser keeps once; None where ``key`` is kept for every element."""
        source = self._sources[name][0]
        found = source.reader.get_slice(f"{key}/{name}")
        return None if found.get_shape() else source.reader.get_tensor(f"{key}/{name}")

    def slices(self, part: Part, key: str) -> Iterator[tuple[int, Tensor]]:
        """(offset in the part, values on the CPU): pieces that together are all of ``part``."""
        for source in self._sources[part.name]:
            low, high = max(part.start, source.start), min(part.start + part.count, source.start + source.count)
            if low < high:
                saved = source.reader.get_slice(f"{key}/{part.name}")
                yield low - part.start, saved[low - source.start : high - source.start]


def _numbers(name: str, entry: Any) -> tuple[int, int, int]:
    """Where a part lies: (start, count, whole). Raises ValueError."""
    if not isinstance(entry, list) or len(entry) != 3 or any(type(number) is not int for number in entry):
        raise ValueError(f"{name} is {entry!r}, expected three whole numbers")
    start, count, whole = entry
    if not 0 <= start < start + count <= whole:
        raise ValueError(f"{name} is {entry!r}, expected elements of a parameter that has them")
    return start, count, whole


def _kept_once(reader: Any, name: str, keys: Sequence[str], count: int) -> list[str]:
    """Which of a part's tensors are kept once. Raises ValueError where one is neither that nor [count]."""
    found = []
    for key in keys:
        saved = reader.get_slice(f"{key}/{name}")
        shape, kind = list(saved.get_shape()), saved.get_dtype()
        if shape not in ([], [count]) or (key == WEIGHT and shape != [count]):
            raise ValueError(f"{key} of {name} is {shape}, expected [{count}]")
        if kind not in _NAMES.values():
            raise ValueError(f"{key} of {name} is {kind}, expected {', '.join(_NAMES.values())}")
        found += [] if shape else [key]
    return found


@contextmanager
def open_tensors(folder: Path, names: Sequence[str]) -> Iterator[SavedTensors]:
    """The files ``names`` of a checkpoint, open for reading. Raises Damaged."""
    from contextlib import ExitStack

    from safetensors import SafetensorError, safe_open

    with ExitStack() as opened:
        readers = []
        for name in names:
            try:
                readers.append(opened.enter_context(safe_open(folder / name, framework="pt", device="cpu")))
            except (SafetensorError, OSError) as error:
                raise _damaged(folder / name, f"not safetensors ({error})") from None
        yield SavedTensors([folder / name for name in names], readers)


def expected(tensors: Mapping[str, int], saved: SavedTensors) -> str | None:
    """What the parameters ({name: elements}) and a checkpoint do not have in common; None where they agree."""
    for name, whole in tensors.items():
        if name not in saved.wholes:
            return f"holds no {name}"
        if saved.wholes[name] != whole:
            return f"{name} has {saved.wholes[name]:,} elements there, {whole:,} here"
    more = sorted(saved.wholes.keys() - tensors.keys())
    return f"holds {more[0]}, which is not trained here" if more else None
