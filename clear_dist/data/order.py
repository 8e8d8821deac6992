"""In which order examples are seen, and which rank sees which: a function of the seed, never of the ranks."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from clear_dist.types import Example, Kind

# Who a person is matters more than the shirt worn: names and captions come first more often.
KIND_WEIGHTS: Mapping[Kind, float] = {"name": 4.0, "caption": 4.0}


class Order:
    """An endless stream of example numbers: epoch after epoch, each a fresh seeded permutation.

    Units are permuted, not examples: the examples on one picture are shuffled and cut into runs of at most
    ``questions_per_picture`` that stay together, so that packing can share the picture; a text example is a unit
    of its own. Every epoch holds every example once, or, with ``one_run_per_picture``, one run of every picture,
    drawn anew each epoch.

    Args:
        examples: the view's examples; the stream holds their indices.
        seed, view: with the epoch, all that the order depends on.
        questions_per_picture: length of a run.
        kind_weights: kind -> weight (1 where absent) for drawing, without replacement, which of a picture's
            examples come first. Default: ``KIND_WEIGHTS``.
        one_run_per_picture: of every picture only the first run counts.

    The stream has no state: resuming is the same call.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        seed: int,
        view: str,
        questions_per_picture: int = 4,
        kind_weights: Mapping[Kind, float] | None = None,
        *,
        one_run_per_picture: bool = False,
    ) -> None:
        assert questions_per_picture >= 1
        weights = KIND_WEIGHTS if kind_weights is None else kind_weights
        assert all(weight > 0 for weight in weights.values()), "a kind's weight must be positive"
        self._seed = (seed, zlib.crc32(view.encode()))
        self._run = questions_per_picture
        self._one_run = one_run_per_picture
        # Every picture gets a number; a text example counts as a picture of its own.
        numbers: dict[str, int] = {}
        keys = [f"text:{i}" if e.picture is None else e.picture.digest for i, e in enumerate(examples)]
        self._picture = np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
        self._weight = np.array([weights.get(e.kind, 1.0) for e in examples], dtype=np.float64)
        sizes = np.bincount(self._picture) if len(examples) else np.zeros(0, dtype=np.int64)
        self.examples_per_epoch = int(np.minimum(sizes, self._run).sum()) if one_run_per_picture else len(examples)
        self._epoch = lru_cache(maxsize=4)(self._permute)

    def take(self, start: int, count: int) -> list[int]:
        """Indices at the stream positions ``start .. start + count - 1``, over as many epochs as that takes."""
        assert start >= 0 and count >= 0
        size = self.examples_per_epoch
        if size == 0:
            return []
        out: list[int] = []
        while len(out) < count:
            epoch, offset = divmod(start + len(out), size)
            out.extend(self._epoch(epoch)[offset : offset + count - len(out)].tolist())
        return out

    def runs(self, indices: Sequence[int]) -> list[list[int]]:
        """Neighbouring indices on the same picture, together: what ``share`` tries not to separate."""
        out: list[list[int]] = []
        for index in indices:
            if out and self._picture[out[-1][-1]] == self._picture[index]:
                out[-1].append(index)
            else:
                out.append([index])
        return out

    def _permute(self, epoch: int) -> np.ndarray:
        """[examples_per_epoch] int64: one epoch's order."""
        rng = np.random.default_rng([*self._seed, epoch])
        # Weighted draw without replacement: sort by exponential waiting times of rate weight.
        waiting = rng.exponential(size=len(self._picture)) / self._weight
        by_picture = np.lexsort((waiting, self._picture))
        picture = self._picture[by_picture]
        first = np.searchsorted(picture, picture, side="left")
        place = np.arange(len(picture)) - first  # within its picture
        if self._one_run:
            kept = place < self._run
            by_picture, picture, place = by_picture[kept], picture[kept], place[kept]
        starts = place % self._run == 0
        unit = np.cumsum(starts) - 1
        rank = rng.permutation(int(starts.sum()))
        return by_picture[np.lexsort((place, rank[unit]))]


def share(runs: Sequence[Sequence[int]], parts: int, part: int) -> list[int]:
    """The share ``part`` of ``parts`` (ranks x accumulation steps) of one step's examples of one view.

    ``runs`` are the step's examples, those on one picture together (``Order.runs``). Shares are contiguous and
    nearly equal; a cut moves to the next border between runs where that costs at most a quarter of a share.
    The shares of all parts, in order, are the whole; some are empty when there are fewer examples than parts.
    """
    assert parts >= 1 and 0 <= part < parts
    flat = [index for run in runs for index in run]
    borders = np.concatenate([[0], np.cumsum([len(run) for run in runs])]) if runs else np.zeros(1, dtype=np.int64)

    def cut(k: int) -> int:
        if k in (0, parts):
            return 0 if k == 0 else len(flat)
        ideal = k * len(flat) // parts
        nearest = int(borders[np.argmin(np.abs(borders - ideal))])
        return nearest if abs(nearest - ideal) * 4 * parts <= len(flat) else ideal

    return flat[cut(part) : cut(part + 1)]
