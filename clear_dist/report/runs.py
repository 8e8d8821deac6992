"""Several runs: which directories are meant, which of them are about the same data, and which belong together as seeds.

Runs are compared where they were asked the same questions. Of two runs that is known

    from the digests of their data (run.json) and the ids of their records, if digests are equal;
    from the records alone (same ids, same questions and right answers on the forget set), if digests differ only
    because another modality was trained on, or one is not known.

Otherwise they are of different data, or nobody knows; both are never ranked together.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from clear_dist.metrics.record import control_name
from clear_dist.reading import json_value
from clear_dist.report.attack_file import Vision, read_attack
from clear_dist.report.run import RunData, read_json, read_run
from clear_dist.report.scan import Key
from clear_dist.report.subject import Block, Subject, log_ratios
from clear_dist.types import UserError

Modality = Literal["text", "visual", "both"]
_SEED = re.compile(r"[-_]?seed[-_]?(\d+)$")
ANCHORS = ("original", "gold")


@dataclass(frozen=True)
class Run:
    """One run among several. name: unique among them. method: of CLEAR's table where it is one of those, else a label.

    vision: its attack.json, a farm of vision models; such a directory need not hold a summary: data is None then.
    """

    name: str
    folder: Path
    data: RunData | None
    vision: Mapping[str, Vision]
    method: str
    modality: Modality
    seed: int | None
    l1: bool
    digest: str | None
    ids: frozenset[Key] | None
    questions: str | None

    @property
    def candidate(self) -> Block | None:
        return None if self.data is None else self.data.block(self.data.candidate)

    @property
    def family(self) -> str:
        """What its seeds share: the name without the seed."""
        if self.seed is None:
            return self.name
        found = _SEED.search(self.name)
        return self.name[: found.start()] if found and int(found[1]) == self.seed and found.start() else self.name

    def config(self, name: str) -> Any:
        found = {} if self.data is None else self.data.facts.get("config")
        return found.get(name) if isinstance(found, Mapping) else None


@dataclass(frozen=True)
class Entry:
    """A line of a leaderboard: one run, or the seeds of one method with the same settings."""

    name: str
    runs: tuple[Run, ...]
    anchors: tuple[Mapping[str, Block], ...]  # run by run: "original", "gold", where there are such
    other: bool = False  # of different data than most: never ranked

    @property
    def first(self) -> Run:
        return self.runs[0]

    @property
    def anchor(self) -> str:
        return f"run-{slug(self.name)}"

    @cached_property
    def subject(self) -> Subject:
        blocks, controls = [], []
        for run in self.runs:
            assert run.data is not None and run.candidate is not None
            blocks.append(run.candidate)
            if (control := run.data.block(control_name(run.data.candidate or ""))) is not None:
                controls.append(control)
        data = self.first.data
        assert data is not None
        ratios = log_ratios(r for r in data.records if r.model == data.candidate)
        return Subject(self.name, "run", tuple(blocks), tuple(controls), ratios, self.anchor)

    def summary(self, i: int = 0) -> dict[str, Any]:
        """A run's summary as one of a single run has it, with original and gold wherever they came from."""
        run = self.runs[i]
        assert run.candidate is not None
        return {"models": {**self.anchors[i], "unlearned": run.candidate}}


def slug(name: str) -> str:
    """A name as an id: letters, digits and hyphens; others by their code point, so that no two become one."""
    return "".join(c if c.isascii() and (c.isalnum() or c == "-") else f"_{ord(c):x}_" for c in name)


def expand(folders: Sequence[Path]) -> list[Path]:
    """Run directories, those of sweeps in their place. Raises UserError on a directory that holds no run."""
    out: list[Path] = []
    for folder in folders:
        if (folder / "sweep.json").is_file():
            out += _sweep(folder)
        elif (folder / "summary.json").is_file() or (folder / "attack.json").is_file():
            out.append(folder)
        else:
            begun = " (the run began, but was never evaluated)" if (folder / "run.json").is_file() else ""
            raise UserError(
                f"{folder}: no summary.json here{begun}; name the directory of a finished run or evaluation, or of a "
                "sweep"
            )
    return list(dict.fromkeys(out))


def _sweep(folder: Path) -> list[Path]:
    path = folder / "sweep.json"
    try:
        rows = json_value(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) and isinstance(row.get("run"), str) for row in rows):
        raise UserError(f'{path}: expected a list of {{"run": NAME, ...}}; run the sweep again')
    found = []
    for row in rows:
        if "summary" not in row:  # failed, or does not apply
            continue
        name = row["run"]
        if name in (".", "..") or "/" in name or "\\" in name:
            raise UserError(f"{path}: run {name!r} is no name of a directory in runs/")
        if not (folder / "runs" / name / "summary.json").is_file():
            raise UserError(f"{folder / 'runs' / name}: sweep.json names this run, but it has no summary.json")
        found.append(folder / "runs" / name)
    if not found:
        raise UserError(f"{folder}: no run of this sweep was finished")
    return found


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Raises UserError as :func:`expand` and ``read_run``."""
    places = expand(folders)
    return [_read(folder, name) for folder, name in zip(places, _names(places), strict=True)]


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' own names, with as much of what is above them as tells them apart."""
    parts = [folder.resolve().parts for folder in folders]
    depth, names = 1, [p[-1] for p in parts]
    while len(set(names)) < len(names) and depth < max(map(len, parts)):
        depth += 1
        names = ["/".join(p[-depth:]) for p in parts]
    return names


def _wanted(model: str, set_name: str) -> bool:
    return set_name == "forget" and "/" not in model


def _read(folder: Path, name: str) -> Run:
    vision = read_attack(folder / "attack.json") if (folder / "attack.json").is_file() else {}
    if not (folder / "summary.json").is_file():
        facts = read_json(folder / "run.json") if (folder / "run.json").is_file() else {}
        config = facts.get("config")
        method = str((config.get("method") if isinstance(config, Mapping) else None) or name)
        return Run(name, folder, None, vision, method, "visual", None, False, None, None, None)
    data = read_run(folder, _wanted)
    config = data.facts.get("config")
    config = config if isinstance(config, Mapping) else {}
    asked = data.candidate or next(iter(m for m in ANCHORS if data.block(m) is not None), "")
    modality = config.get("modality")
    seed, l1 = config.get("seed"), config.get("l1")
    method = config.get("method") or (data.candidate if data.candidate != "unlearned" else None)
    digest = data.facts.get("data_digest")
    return Run(
        name=name,
        folder=folder,
        data=data,
        vision=vision,
        method=str(method or name),
        modality=modality if modality in ("text", "visual") else "both",
        seed=seed if isinstance(seed, int) else None,
        l1=isinstance(l1, int | float) and l1 > 0,
        digest=digest if isinstance(digest, str) else None,
        ids=None if data.scanned is None else data.scanned.ids.get(asked),
        questions=None if data.scanned is None else data.scanned.questions(asked),
    )


def same_data(a: Run, b: Run) -> bool:
    """Whether two runs are known to have been asked the same; see the module."""
    told = a.ids is not None and b.ids is not None
    same_rows = told and a.ids == b.ids and a.questions == b.questions
    if a.digest is not None and a.digest == b.digest:
        return same_rows or not told
    known = a.digest is not None and b.digest is not None
    return same_rows and (not known or a.modality != b.modality)


def groups_of(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs of the same data together, the group of most unlearned models first (of equals the one named first)."""
    groups: list[list[Run]] = []
    for run in runs:
        home = next((group for group in groups if same_data(group[0], run)), None)
        if home is None:
            groups.append([run])
        else:
            home.append(run)
    return sorted(groups, key=lambda group: -sum(run.candidate is not None for run in group))


def entries_of(group: Sequence[Run], *, other: bool = False, seeds_together: bool = True) -> list[Entry]:
    """The unlearned models of a group, seeds of one method together (or not), in the order named."""
    families: dict[tuple[object, ...], list[Run]] = {}
    for run in group:
        if run.candidate is not None:
            families.setdefault((run.family, run.method, run.modality, run.l1), []).append(run)
    out = []
    for (family, *_), runs in families.items():
        seeds = {run.seed for run in runs}
        together = [runs] if seeds_together and len(seeds) == len(runs) else [[run] for run in runs]
        for members in together:
            name = str(family) if len(members) > 1 else members[0].name
            out.append(Entry(name, tuple(members), tuple(_anchors(run, group) for run in members), other))
    return out


def _anchors(run: Run, group: Sequence[Run]) -> dict[str, Block]:
    """Original and gold of a run: its own, else those of a run of the same data and seed, else of the same data."""
    out: dict[str, Block] = {}
    for name in ANCHORS:
        others = sorted((r for r in group if r.candidate is None), key=lambda r: r.seed != run.seed)
        for source in (run, *others):
            if source.data is not None and (block := source.data.block(name)) is not None:
                out[name] = block
                break
    return out


def landmark(name: Literal["original", "gold"], entries: Sequence[Entry], group: Sequence[Run]) -> Subject | None:
    """Original or gold of several runs: the different ones among theirs, as seeds of one; None where there is none."""
    blocks = [anchors[name] for entry in entries for anchors in entry.anchors if name in anchors]
    blocks += [b for r in group if r.candidate is None and r.data is not None and (b := r.data.block(name)) is not None]
    distinct = list({json.dumps(block.get("sets"), sort_keys=True): block for block in blocks}.values())
    if not distinct:
        return None
    holders = [run for run in group if run.data is not None and run.data.block(name) is not None]
    controls: dict[str, Block] = {}
    for run in holders:
        if run.data is not None and (control := run.data.block(control_name(name))) is not None:
            controls[json.dumps(control.get("sets"), sort_keys=True)] = control
    first = next((run.data for run in holders if run.data is not None), None)
    ratios = {} if first is None else log_ratios(r for r in first.records if r.model == name)
    return Subject(name, name, tuple(distinct), tuple(controls.values()), ratios)
