"""Checkpoints of a run: saved and verified by all ranks together, loaded on any number of them.

What a checkpoint is on disk: ``checkpoint_files``; what is in it: ``checkpoint_tensors``; where it comes from in an
engine: ``checkpoint_state``. Every rank writes, hashes and reads again its own file. What one rank finds is told to
all, so that none waits for another that gave up.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clear_dist.types import UserError

from .checkpoint_files import (
    Damaged,
    File,
    Manifest,
    Stopped,
    file_name,
    file_problem,
    folder_name,
    fresh_staging,
    prune,
    publish,
    published,
    read_manifest,
)
from .checkpoint_state import held_here, put_back, set_counters, trained_elements, weights_from_masters
from .checkpoint_tensors import SavedTensors, expected, open_tensors, write_tensors
from .world import World, agree, gather, only_on_main


class Checkpoints:
    """The checkpoints of one run directory, as this rank has them. ``save``, ``load``, ``finish`` are collectives."""

    def __init__(self, folder: Path, world: World, keep: int = 2) -> None:
        """keep: how many good ones stay."""
        assert keep >= 1
        self._folder, self._world, self._keep = folder, world, keep
        self._bad: set[str] = set()  # names of those found damaged, and found whole by reading them again
        self._proved: set[str] = set()
        self._reading: _Reading | None = None
        self._told: list[str] = []

    def told(self) -> list[str]:
        """What was found damaged since the last call, for the log; the same on every rank."""
        told, self._told = self._told, []
        return told

    def save(self, engine: Any, step: int) -> None:
        """Publish the state after ``step`` optimiser steps, then read it again in the background.

        Raises:
            UserError: on all ranks, where one could not write; nothing is published and what was there stays.
        """
        self._judge()
        staging = only_on_main(self._world, lambda: _writing(self._folder, step, lambda: fresh_staging(self._folder)))
        problem: str | None = None
        file: File | None = None
        try:
            with held_here(engine, self._world.rank, self._world.size) as (parts, tensors):
                file = write_tensors(staging / file_name(self._world.rank), parts, tensors)
        except OSError as error:
            problem = f"rank {self._world.rank}: {error.strerror or error}"
        found: list[tuple[File, str | None]] = gather(self._world, (file, problem))
        stage = int(engine.zero_optimization_stage())
        manifest = Manifest(step, self._world.size, stage, int(engine.skipped_steps), tuple(f for f, _ in found))

        def end() -> None:
            said = next((p for _, p in found if p), None)
            with _clearing(staging):
                if said:
                    raise _unsaved(self._folder, step, said)
                _writing(self._folder, step, lambda: publish(self._folder, manifest))

        only_on_main(self._world, end)
        name = folder_name(step)
        self._bad.discard(name)
        self._proved.discard(name)
        self._prune()
        self._reading = _Reading(self._folder / name, manifest.files[self._world.rank])

    def load(self, engine: Any) -> int:
        """Restore the newest checkpoint that is whole; returns its step.

        Raises:
            UserError: none there, none that is whole (naming each and why), or one of another model.
        """
        for checkpoint, manifest in self._whole():
            problem, other = None, None
            with contextlib.ExitStack() as opened:
                saved: SavedTensors | None = None
                try:
                    saved = opened.enter_context(open_tensors(checkpoint, [file.name for file in manifest.files]))
                    other = expected(trained_elements(engine), saved)
                except Damaged as error:  # files and manifest agree, and still it is none of ours
                    problem = str(error)
                if self._refused(checkpoint, problem):
                    continue
                if other is not None:
                    raise UserError(f"{checkpoint}: of another model ({other}). Give the options it was made with.")
                assert saved is not None
                try:
                    put_back(engine, saved)
                except Exception as error:  # the disk, between verifying and reading
                    problem = f"{checkpoint}: could not be read ({type(error).__name__}: {error})"
                broken = [p for p in gather(self._world, problem) if p]
            if broken:
                raise UserError(f"{broken[0]}. Start again.")
            weights_from_masters(engine)
            set_counters(engine, manifest.step, manifest.skipped)
            self._proved.add(checkpoint.name)
            return manifest.step
        if not self._told:
            raise UserError(
                f"{self._folder}: no checkpoint to resume from. Start without --resume, or name the run that has one."
            )
        raise UserError(
            f"{self._folder}: no checkpoint can be used. {'; '.join(self._told)}. Delete {self._folder} to start over."
        )

    def _whole(self) -> Iterator[tuple[Path, Manifest]]:
        """Checkpoints whose files are what their manifest says, newest first. The ranks share the reading."""

        def listed() -> list[tuple[Path, Manifest | None, str | None]]:
            return [(path, *_manifest(path)) for path in published(self._folder)]

        for checkpoint, manifest, problem in agree(self._world, listed() if self._world.main else None):
            mine = manifest.files[self._world.rank :: self._world.size] if manifest else ()
            found = [p for file in mine if (p := file_problem(checkpoint, file))]
            if not self._refused(checkpoint, problem or ("; ".join(found) or None)) and manifest is not None:
                yield checkpoint, manifest

    def _refused(self, checkpoint: Path, problem: str | None) -> bool:
        """Whether any rank has a problem with it; said once each."""
        problems = list(dict.fromkeys(p for p in gather(self._world, problem) if p))
        if problems:
            self._bad.add(checkpoint.name)
            self._told += problems
        return bool(problems)

    def _judge(self) -> None:
        """What reading the last one again has shown, on all ranks. Waits for it."""
        if self._reading is None:
            return
        checkpoint, problem = self._reading.checkpoint, self._reading.result()
        self._reading = None
        if not self._refused(checkpoint, problem):
            self._proved.add(checkpoint.name)

    def _prune(self) -> None:
        if self._world.main:
            prune(self._folder, self._keep, self._bad, self._proved)

    def finish(self) -> None:
        """Wait until the last one has been read again; then no more than ``keep`` are left."""
        if self._reading is not None:
            self._judge()
            self._prune()

    def close(self) -> None:
        """No thread is left behind. Unlike ``finish`` no collective: the way out when something has failed."""
        if self._reading is not None:
            self._reading.stop()
            self._reading = None


class _Reading:
    """A thread that reads a file again, from the disk as far as possible, and compares."""

    def __init__(self, checkpoint: Path, file: File) -> None:
        self.checkpoint = checkpoint
        self._problem: str | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(file,), name="verify-checkpoint", daemon=True)
        self._thread.start()

    def _read(self, file: File) -> None:
        with contextlib.suppress(Stopped):
            self._problem = file_problem(self.checkpoint, file, cold=True, stop=self._stop)

    def result(self) -> str | None:
        self._thread.join()
        return self._problem

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def _manifest(checkpoint: Path) -> tuple[Manifest | None, str | None]:
    try:
        return read_manifest(checkpoint), None
    except Damaged as error:
        return None, str(error)


def _unsaved(folder: Path, step: int, why: str) -> UserError:
    return UserError(
        f"{folder}: step {step} could not be saved ({why}). What was saved before is untouched: make room, or keep "
        "fewer (--keep-checkpoints 1), and the same command goes on from there."
    )


def _writing(folder: Path, step: int, work: Any) -> Any:
    try:
        return work()
    except OSError as error:
        raise _unsaved(folder, step, error.strerror or str(error)) from None


@contextlib.contextmanager
def _clearing(staging: Path) -> Iterator[None]:
    """Where the block fails, what was staged gives its room back."""
    try:
        yield
    except UserError:
        shutil.rmtree(staging, ignore_errors=True)
        raise
