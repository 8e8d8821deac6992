"""What a frozen vision tower makes of the pictures, computed once: the steps then start at the projector.

The tower's weights never move, with LoRA or without, so neither does its output. Ranks share the pictures before the
first step and give each other the results; afterwards no rank runs the tower, whatever its batches hold, and all go on
running the same modules (ZeRO-3). Kept is what the projector is given: right whether the projector trains or not, and
for LLaVA-1.5 a quarter of the size of what comes out of it (576 x 1024 against 576 x 4096 numbers a picture).
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from clear_dist.data.images import decode
from clear_dist.data.packing import PixelCache, pack
from clear_dist.methods import Needs
from clear_dist.models import Family
from clear_dist.types import Picture, Processor, UserError

from .prefetch import prefetched
from .reference_files import raise_together
from .step import StepModule
from .stream import Stream
from .world import World, gather

SHARE = 0.25  # of a host's free memory: what all its ranks may keep together where nobody has asked for a cache
PICTURES = {"cpu": 8, "cuda": 32}  # of one pass of a rank; passes are filled up, so that all are of one shape
NOTHING = Needs((), {}, frozenset())


class TowerCache:
    """Pictures -> ``Batch.tower_features``.

    rows: digest -> row of ``features`` [N, n, D_tower], in host memory. seconds: what making them took.
    """

    def __init__(self, rows: Mapping[str, int], features: Tensor, seconds: float) -> None:
        self._rows, self._features, self.seconds = rows, features, seconds

    def __len__(self) -> int:
        return len(self._rows)

    def __call__(self, pictures: Sequence[Picture]) -> Tensor:
        """[P, n, D_tower]; a zero dummy where there is no picture."""
        if not pictures:
            return self._features.new_zeros(1, *self._features.shape[1:])
        return self._features[torch.tensor([self._rows[picture.digest] for picture in pictures])]

    @property
    def bytes(self) -> int:
        return self._features.numel() * self._features.element_size()


def why_not(module: StepModule) -> str | None:
    """Why the tower's output cannot be kept; None where it can. Call it while all weights are whole."""
    family, tower = module.family, module.family.tower(module.student)
    if tower is None:
        return "the model has no vision tower"
    if not family.cached_tower:
        return f"{family.name} models cut every picture their own way, and only towers with one output size are kept"
    if any(p.requires_grad for p in tower.parameters()):
        return "the vision tower is trained"
    if _random(tower):
        return "the vision tower has dropout, so its output is another one every time"
    if module.reference is not None and not _same_tower(family, tower, module.reference):
        return "the reference has another vision tower"
    return None


def pictures_of(stream: Stream, steps: range) -> tuple[dict[str, Picture], int]:
    """(digest -> picture, in the order of their first use; how often a step reads one) over some steps."""
    found: dict[str, Picture] = {}
    uses = 0
    for step in steps:
        pictures = stream.pictures(step)
        uses += len(pictures)
        found |= {digest: p for digest, p in pictures.items() if digest not in found}
    return found, uses


def build_tower_cache(
    engine: Any,
    pictures: Mapping[str, Picture],
    processor: Processor,
    world: World,
    *,
    share: float = SHARE,
    progress: Callable[[int, int], None] | None = None,
) -> TowerCache | None:
    """Run the tower once over ``pictures``; None where the result would fill more than ``share`` of a host's free
    memory, kept by each of its ranks. A collective; every rank gives the same pictures.

    Args:
        engine: a ``StepModule``, or the DeepSpeed engine around it (any ZeRO stage).
        progress: called with (pictures done, pictures in all).

    Raises:
        UserError: on every rank: a picture that cannot be read.
    """
    began = time.perf_counter()
    module = getattr(engine, "module", engine)
    training = module.training
    engine.eval()
    try:
        features = _run(engine, list(pictures.values()), processor, world, share, progress)
    finally:
        engine.train(training)
    if features is None:
        return None
    rows = {digest: row for row, digest in enumerate(pictures)}
    return TowerCache(rows, features, time.perf_counter() - began)


def _run(
    engine: Any,
    pictures: Sequence[Picture],
    processor: Processor,
    world: World,
    share: float,
    progress: Callable[[int, int], None] | None,
) -> Tensor | None:
    """[N, n, D_tower]: every rank runs equally many passes, whatever befalls it, and gets the results of all."""
    size = PICTURES.get(world.device.type, PICTURES["cuda"])
    starts = range(0, max(len(pictures), 1), size * world.size)
    mine = (pictures[start + world.rank * size : start + (world.rank + 1) * size] for start in starts)
    empty = pack({}, processor, row_length=1, pixels=PixelCache(processor))
    kept: Tensor | None = None
    problem: str | None = None
    with prefetched((_pixels(some, size, processor) for some in mine), 2) as passes:
        for start, (pixels, trouble) in zip(starts, passes, strict=True):
            problem = problem or trouble
            out: Tensor = engine(replace(empty, pixel_values=pixels).to(world.device), NOTHING, tower=True)
            if kept is None:
                shape = (len(pictures), *out.shape[1:])
                if not _fits(shape, out, share, world):
                    return None
                kept = torch.empty(shape, dtype=out.dtype)
            for rank, features in enumerate(_of_all(out, world)):
                at = start + rank * size
                kept[at : at + size] = features[: max(0, min(size, len(pictures) - at))]
            if progress is not None:
                progress(min(start + size * world.size, len(pictures)), len(pictures))
    raise_together(world, problem)
    return kept


def _pixels(pictures: Sequence[Picture], size: int, processor: Processor) -> tuple[Tensor, str | None]:
    """([size, 3, H, W], what is wrong with one of the pictures): zeros where there is none that can be read."""
    out = torch.zeros(size, *processor.image_shape)
    for place, picture in enumerate(pictures):
        try:
            out[place] = processor.pixels(decode(picture))
        except UserError as error:
            return out, str(error)
    return out, None


def _of_all(features: Tensor, world: World) -> list[Tensor]:
    """What every rank has computed, on the CPU."""
    if world.size == 1:
        return [features.cpu()]
    raw = features.contiguous().view(torch.uint8)  # not every backend knows every type
    parts = [torch.empty_like(raw) for _ in range(world.size)]
    torch.distributed.all_gather(parts, raw)
    return [part.view(features.dtype).cpu() for part in parts]


def _fits(shape: Sequence[int], like: Tensor, share: float, world: World) -> bool:
    """Whether every rank of every host can keep a tensor of this shape. A collective."""
    need = torch.Size(shape).numel() * like.element_size()
    found = gather(world, (socket.gethostname(), psutil.virtual_memory().available))
    hosts = [host for host, _ in found]
    return all(need * hosts.count(host) <= share * free for host, free in found)


def _random(tower: nn.Module) -> bool:
    """Whether the tower in training mode would not compute the same twice."""
    config: Any = getattr(tower, "config", None)
    settings = {} if config is None else config.to_dict()
    named = [v for k, v in settings.items() if ("dropout" in k or "drop_path" in k) and isinstance(v, int | float)]
    return any(named) or any(m.p > 0 for m in tower.modules() if isinstance(m, nn.Dropout))


def _same_tower(family: Family, tower: nn.Module, reference: nn.Module) -> bool:
    other = family.tower(reference)
    if other is None:
        return False
    ours, theirs = tower.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(t, theirs[name]) for name, t in ours.items())


@contextmanager
def parked(module: StepModule, device: torch.device) -> Iterator[None]:
    """Inside, vision towers that nobody runs leave the GPU to others; ZeRO-3's shards stay where they are."""
    students = [module.student] if module.reference is None else [module.student, module.reference]
    towers = [tower for student in students if (tower := module.family.tower(student)) is not None]
    whole = [t for t in towers if not any(hasattr(p, "ds_id") for p in t.parameters())]
    if device.type != "cpu":
        for tower in whole:
            tower.to("cpu")
    try:
        yield
    finally:
        for tower in whole:
            tower.to(device)
