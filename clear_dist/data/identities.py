"""Pictures of identities, decoded once and kept resident as uint8: what shadow models are trained on.

``load_identities`` lists a source (``data.identity_source``), decodes it in threads, cuts every picture to a square,
and keeps the result in a cache (``data.identity_cache``) that processes on a host map into memory together.

Symbols: N pictures, I identities.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from clear_dist.data.identity_cache import VERSION, DamagedCache, digest_of, write_identities
from clear_dist.data.identity_cache import Identities as Identities  # noqa: PLC0414 (re-exported)
from clear_dist.data.identity_cache import open_identities as open_identities  # noqa: PLC0414 (re-exported)
from clear_dist.data.identity_listing import Listing, Open, Reason, SourceChanged, natural
from clear_dist.data.identity_source import list_source
from clear_dist.data.identity_twins import same_pictures
from clear_dist.types import UserError

SIZES: Final = (8, 512)  # least and most side
_CHUNK = 16  # pictures a thread takes at a time


def load_identities(
    source: str | Path,
    size: int,
    cache: Path | None = None,
    workers: int | None = None,
    on_bad: Literal["skip", "fail"] = "skip",
    on_progress: Callable[[int, int], None] | None = None,
    min_images: int = 2,
) -> Identities:
    """Every picture of a source as ``size`` x ``size`` RGB; from the cache where it is the same as before.

    source: a folder or a zip with one subfolder for each identity, a directory in CLEAR's layout (config ``full``),
    ``clear-mini``, or ``clear-mini:PEOPLExPICTURES``. A picture is scaled so that its shorter side is ``size``
    (bicubic, antialiased) and cut about its middle. cache: folder to keep the result in, ``identities`` in
    ``data.clear.cache_directory()`` where None. workers: threads, one for each processor where None; the result does
    not depend on it. on_bad: whether what is no picture is skipped and listed, or refused. on_progress: called with
    (pictures done, pictures). min_images: identities with fewer good pictures are left out, and listed. So is the same
    picture, or the same identity, under two names (``data.identity_twins``).

    Raises UserError: size out of range, a source that is nothing known or changes under way, a bad picture where
    ``on_bad`` is "fail", nothing left, a cache that cannot be written.
    """
    if not SIZES[0] <= size <= SIZES[1]:
        raise UserError(f"size: expected a side of {SIZES[0]} to {SIZES[1]} pixels; got {size}.")
    if min_images < 1:
        raise UserError(f"min_images: expected at least 1; got {min_images}.")
    if cache is None:
        from clear_dist.data.clear import cache_directory

        cache = cache_directory() / "identities"
    workers = _threads(workers)
    listing = list_source(source, workers)
    if listing.skipped and on_bad == "fail":
        raise _bad(source, listing.skipped)
    key = json.dumps([VERSION, listing.content, size, min_images])
    file = cache / f"{hashlib.sha256(key.encode()).hexdigest()}.safetensors"
    notes: tuple[str, ...] = ()
    if file.exists():
        try:
            kept = open_identities(file)
        except DamagedCache as error:
            notes = (f"{error} It has been made anew.",)
        else:
            if kept.skipped and on_bad == "fail":
                raise _bad(source, kept.skipped)
            return replace(kept, source=str(source))
    made = _decoded(listing, str(source), size, workers, on_bad == "fail", on_progress, min_images)
    write_identities(made, file)
    return replace(open_identities(file), notes=notes)


def _threads(workers: int | None) -> int:
    if workers is None:
        available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(available, 16)
    if workers < 1:
        raise UserError(f"workers: expected at least 1; got {workers}.")
    return workers


def _bad(source: str | Path, skipped: Sequence[Reason]) -> UserError:
    first, reason = skipped[0]
    more = f" So are {len(skipped) - 1} more." if len(skipped) > 1 else ""
    return UserError(
        f"{source}: {first} is bad: {reason.rstrip('.')}.{more} Mend or remove it, or have bad pictures skipped."
    )


def _decoded(
    listing: Listing,
    source: str,
    size: int,
    workers: int,
    fail: bool,
    on_progress: Callable[[int, int], None] | None,
    min_images: int,
) -> Identities:
    total = len(listing.ids)
    pixels = np.zeros((total, 3, size, size), dtype=np.uint8)
    good = np.zeros(total, dtype=bool)
    skipped = list(listing.skipped)
    for done, (i, found) in enumerate(_in_threads(listing.pictures(size), size, workers), start=1):
        if isinstance(found, UserError):
            skipped.append((listing.ids[i], str(found).removeprefix(f"{listing.ids[i]}: ")))
            if fail:
                raise _bad(source, skipped)
        else:
            pixels[i], good[i] = found, True
        if on_progress is not None:
            on_progress(done, total)
    contents = [
        hashlib.sha256(p.data).digest() if there else None for p, there in zip(pixels, good.tolist(), strict=True)
    ]
    doubled, twins = same_pictures(listing.names, listing.ids, contents)
    if doubled and fail:
        raise _bad(source, doubled)
    skipped += doubled
    of_twins, of_doubled = {name for name, _ in twins}, {name for name, _ in doubled}
    for i in range(total):
        good[i] &= listing.names[i] not in of_twins and listing.ids[i] not in of_doubled
    counts = Counter(name for name, there in zip(listing.names, good.tolist(), strict=True) if there)
    names = tuple(sorted((name for name in counts if counts[name] >= min_images), key=natural))
    left_out = tuple(twins) + tuple(
        (name, f"{counts[name]} of the {min_images} pictures that are needed")
        for name in dict.fromkeys(listing.names)
        if counts[name] < min_images and name not in of_twins
    )
    if not names:
        bad = f" {len(skipped)} files are no pictures, such as {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        raise UserError(
            f"{source}: no identity with at least {min_images} pictures; found {len(set(listing.names))} identities "
            f"with {int(good.sum())} good pictures in all.{bad}"
        )
    number = {name: label for label, name in enumerate(names)}
    kept = np.array([i for i in range(total) if good[i] and listing.names[i] in number], dtype=np.int64)
    if len(kept) < total:
        pixels = pixels[kept]
    ids = tuple(listing.ids[i] for i in kept)
    labels = torch.tensor([number[listing.names[i]] for i in kept], dtype=torch.int64)
    tensor = torch.from_numpy(pixels)
    digest = digest_of(tensor, labels, names, ids)
    return Identities(tensor, labels, names, ids, digest, source, tuple(sorted(skipped)), left_out)


def _in_threads(
    pictures: Iterator[tuple[int, Open]], size: int, workers: int
) -> Iterator[tuple[int, NDArray[np.uint8] | UserError]]:
    """(i, pixels or what is wrong), in order, a few chunks of pictures ahead.

    Threads, not processes: PIL lets go of the interpreter while it decodes and resizes, and a spawned process imports
    torch for two seconds, longer than one thread takes for 4,000 small pictures. Drawing people is Python and gains
    nothing from threads; at a millisecond a picture, once, that is let be.
    """
    Image.preinit()  # once, before threads do so together

    def chunks() -> Iterator[list[tuple[int, Open]]]:
        while chunk := list(islice(pictures, _CHUNK)):
            yield chunk

    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        ahead: deque[Future[list[tuple[int, NDArray[np.uint8] | UserError]]]] = deque()
        try:
            for chunk in chunks():
                ahead.append(pool.submit(_squares, chunk, size))
                if len(ahead) > 2 * workers:
                    yield from ahead.popleft().result()
            while ahead:
                yield from ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def _squares(chunk: list[tuple[int, Open]], size: int) -> list[tuple[int, NDArray[np.uint8] | UserError]]:
    found: list[tuple[int, NDArray[np.uint8] | UserError]] = []
    for i, open_picture in chunk:
        try:
            found.append((i, square(open_picture(), size)))
        except SourceChanged:
            raise
        except UserError as error:
            found.append((i, error))
    return found


def square(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """uint8 [3, size, size]: the largest square about the middle of an RGB picture, scaled (bicubic, antialiased)."""
    width, height = image.size
    side = min(width, height)
    if (width, height) != (size, size):
        left, top = (width - side) / 2, (height - side) / 2
        # Much larger pictures are first averaged down to about three times the size: far cheaper, hardly different.
        image = image.resize(
            (size, size), Image.Resampling.BICUBIC, (left, top, left + side, top + side), reducing_gap=3.0
        )
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
