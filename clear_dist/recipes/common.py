"""What every training recipe starts with: ranks, output directory, data, and checks before any weight is loaded."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from clear_dist.config import EvaluateConfig, FinetuneConfig, TrainFields
from clear_dist.data.encode import encode
from clear_dist.data.load import Dataset, load_dataset
from clear_dist.data.sources import splits_of
from clear_dist.engine.ds_config import AUTO, check_ds_config, load_ds_config
from clear_dist.engine.trackers import check_tracker
from clear_dist.engine.world import World, gather, only_on_main
from clear_dist.models import ModelInfo, inspect_model
from clear_dist.services.progress import say, task
from clear_dist.services.rundir import claim_output, copy_progress, is_complete, read_run, resume_source
from clear_dist.types import Example, UserError

T = TypeVar("T")


def on_main_first(world: World, work: Callable[[], T]) -> T:
    """``work`` on rank 0, then on the others (who find its files made); a mistake that one of them finds is all ranks'.

    Without this, a rank that stops on an error leaves the others waiting for it.
    """
    results: list[T] = []
    only_on_main(world, lambda: results.append(work()))
    mistake: str | None = None
    if not world.main:
        try:
            results.append(work())
        except UserError as error:
            mistake = str(error)
    for rank, found in enumerate(gather(world, mistake)):
        if found is not None:
            raise UserError(f"rank {rank}, not rank 0: {found}")
    return results[0]


def check_before_loading(config: TrainFields, *, base: bool = True) -> None:
    """Everything that can be refused without data, ranks or weights: DeepSpeed file, tracker, the directory to go on
    from, and, where the ``base`` is trained from, the model directory."""
    if config.ds != AUTO:  # what auto picks is ours
        check_ds_config(load_ds_config(config.ds), f"--ds {config.ds}")
    check_tracker(config.tracker)
    if config.resume not in ("auto", "never"):
        resume_source(Path(config.resume), config)
    if base:
        inspect_model(model_dir(config.model, "--model"))


def check_examples(sets: Mapping[Any, Sequence[Example]], info: ModelInfo, max_length: int) -> None:
    """Encode every prompt with every answer that is learned or scored: none is refused after hours of training.

    Raises:
        UserError: a sequence longer than ``max_length``, a picture for a model that sees none, words that the
            model's tokenizer does not know.
    """
    tokenizer = info.processor.tokenizer
    unknown = None if tokenizer.unk_token_id == info.processor.eos_id else tokenizer.unk_token_id
    for example in (e for rows in sets.values() for e in rows):
        for answer in dict.fromkeys((example.answer, example.paraphrase, *example.perturbed, *example.options)):
            if not answer:
                continue
            encoded = encode(replace(example, answer=answer), info.processor, max_length)
            if unknown is not None and (unknown in encoded.answer or unknown in encoded.rest):
                text = answer if unknown in encoded.answer else example.question
                raise UserError(
                    f"{example.id}: the tokenizer of {info.name} does not know every word of {text!r}. Use a model "
                    "with a tokenizer for such text; `clear-dist model new --text-from DATA` makes one."
                )


def spells(text: str, info: ModelInfo) -> bool:
    """Whether the model's tokenizer knows every word of a question."""
    tokenizer = info.processor.tokenizer
    unknown = None if tokenizer.unk_token_id == info.processor.eos_id else tokenizer.unk_token_id
    _, rest = info.processor.encode_prompt(text, with_picture=False)
    return unknown is None or unknown not in rest


def model_dir(name: str | Path, flag: str) -> str | Path:
    """A model named by a run directory is that run's ``model/`` or ``adapter/``; anything else is itself."""
    path = Path(name)
    if not path.is_dir() or (path / "config.json").is_file() or (path / "adapter_config.json").is_file():
        return name
    for inside in ("model", "adapter"):
        if (path / inside).is_dir():
            return path / inside
    if read_run(path) is not None:
        raise UserError(f"{flag} {path}: a run directory without model/ or adapter/: the run did not finish.")
    return name


def open_data(config: TrainFields | EvaluateConfig, world: World) -> Dataset:
    """The dataset of a configuration, read by every rank; rank 0 says what it found.

    To learn everyone, nobody has to be chosen: a dataset without a forget split is then read whole.
    """
    chosen = config.forget or config.forget_split is None
    everyone = isinstance(config, FinetuneConfig) and config.on == "all" and not chosen

    def read() -> Dataset:
        return load_dataset(
            config.data,
            forget=None if everyone and not splits_of(config.data) else config.forget_split or "forget10",
            forget_names=";".join(config.forget_names) if config.forget_names else None,
            forget_file=config.forget_file,
            modality=config.modality,
            eval_modality=config.eval_modality,
            unseen="auto" if config.unseen is None else config.unseen,
            holdout=config.holdout,
            tofu=str(config.tofu) if config.tofu else None,
            seed=config.seed,
            on_bad_data=config.on_bad_data,
            on_progress=decoded,
        )

    with task(f"pictures of {config.data}", 1, world.main) as bar:

        def decoded(done: int, total: int) -> None:
            if bar is not None:
                bar.total = max(total, 1)
                bar.update(done)

        data = on_main_first(world, read)
    _same_everywhere(config.data, data, world)
    forget, retain = data.people["forget"], data.people["retain"]
    named = ", ".join(forget[:6]) + (" ..." if len(forget) > 6 else "")
    whom = f"forget {len(forget)} people ({named}), retain {len(retain)}" if forget else f"{len(retain)} people"
    say(f"{config.data}: {whom}", world.main)
    for line in [*data.skipped, *data.notes]:
        say(f"  note: {line}", world.main)
    if data.leaks:
        say(f"  leakage between forget and retain ({len(data.leaks)}):", world.main)
        for line in data.leaks[:5]:
            say(f"    {line}", world.main)
    return data


def _same_everywhere(source: str, data: Dataset, world: World) -> None:
    """All ranks hold the same examples and have left out the same rows. Raises UserError, on every rank, naming the
    first that differs: one host's copy is damaged, or another version."""
    held = gather(world, (data.digest, data.skipped))
    digest, skipped = held[0]
    for rank, (other, theirs) in enumerate(held):
        if (other, theirs) != (digest, skipped):
            only = [f"rank {rank}: {line}" for line in theirs if line not in skipped]
            only += [f"rank 0: {line}" for line in skipped if line not in theirs]
            why = f" ({'; '.join(only[:3])})" if only else ""
            raise UserError(
                f"{source}: rank {rank} reads other data than rank 0{why}. Make the copies on all hosts the same: "
                "training needs the same rows in the same order everywhere."
            )


def is_finished(out: Path, config: TrainFields | EvaluateConfig) -> bool:
    """Whether ``out`` holds this very run, complete, so that nothing is left to do."""
    same = (read_run(out) or {}).get("digest") == config.digest()
    return same and is_complete(out) and config.resume == "auto"


def claim(config: Any, world: World, out: Path) -> bool:
    """Make ``out`` this run's; True if it continues one begun before. Rank 0 decides for all."""
    resume = getattr(config, "resume", "never")

    def take() -> bool:
        _CLAIMS.append(claim_output(out, config, resume))
        if resume in ("auto", "never"):
            return _CLAIMS[-1].state == "resume"
        source = resume_source(Path(resume), config)
        if source.resolve() != out.resolve():
            copy_progress(source, out)
        return True

    return only_on_main(world, take)


_CLAIMS: list[Any] = []  # locks live as long as the process


def release_claim(out: Path) -> None:
    """Let go of one run directory; a run inside another (an original on its way to the cache) keeps the outer one."""
    for claim_ in [c for c in _CLAIMS if c.out == out]:
        _CLAIMS.remove(claim_)
        claim_.release()


def training_digest(examples: Sequence[Example]) -> str:
    """SHA-256 over what is learned, whatever the order and the split it came through."""
    keys = sorted(f"{e.picture.digest if e.picture else ''}\x1f{e.question}\x1f{e.answer}" for e in examples)
    return hashlib.sha256("\x1e".join(keys).encode()).hexdigest()


def canonical(examples: Sequence[Example]) -> list[Example]:
    """An order that does not depend on which split the examples came through."""
    return sorted(examples, key=lambda e: (e.picture.digest if e.picture else "", e.question, e.answer))


class Stopwatch:
    """Seconds by part of a run, for summary.json."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - began


def limited(sets: Mapping[Any, Sequence[Example]], limit: int | None) -> dict[Any, list[Example]]:
    """At most ``limit`` examples of each set, evenly spread, so that every person and kind stays represented."""
    if limit is None:
        return {name: list(rows) for name, rows in sets.items()}
    out = {}
    for name, rows in sets.items():
        count = min(limit, len(rows))
        out[name] = [rows[i * len(rows) // count] for i in range(count)] if count else []
    return out
