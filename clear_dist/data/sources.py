"""Where rows come from: tells what a source is, and reads its splits."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from clear_dist.data import clear as clear_files
from clear_dist.data import tofu as tofu_files
from clear_dist.data.clear import ClearFiles, cache_directory
from clear_dist.data.rows import BadData, ChoiceRow, Row, TextRow
from clear_dist.data.tofu import TofuFiles
from clear_dist.types import Modality, UserError

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_TOFU = "locuslab/TOFU"  # the textual half of therem/CLEAR, with the wrong answers


class Source(Protocol):
    """Rows of a split and multiple-choice rows, whatever the files look like.

    ``published``: the ``forgetXX`` whose companions (paraphrases, wrong answers) belong to the rows and must be
    there; None where people are chosen freely, then whatever companions there are serve.
    """

    def rows(self, split: str, modality: Modality, *, published: str | None) -> list[Row]: ...
    def splits(self) -> list[str]: ...
    def choices(self, modality: Modality) -> list[ChoiceRow]: ...
    def modality(self) -> Modality: ...


class _ClearSource:
    """CLEAR's configs, with TOFU's companions for the text."""

    def __init__(self, files: ClearFiles, companion: TofuFiles | None, bad: BadData, notes: list[str]) -> None:
        self._files = files
        self._tofu = companion
        self._bad = bad
        self._notes = notes

    def splits(self) -> list[str]:
        plain = dict.fromkeys(c.removesuffix("+tofu") for c in self._files.configs())
        return [c for c in plain if re.fullmatch(r"forget\d\d", c)]

    def rows(self, split: str, modality: Modality, *, published: str | None) -> list[Row]:
        rows: list[Row] = []
        if modality != "text":
            # A published split is complete; of people chosen freely, whatever companions there are serve.
            wanted = [f"{published}_perturbed", "retain_perturbed"] if published else clear_files.PERTURBED
            rows += self._files.visual(split, [c for c in wanted if published or self._files.has(c)])
        if modality != "visual":
            if modality == "both" and not self._files.has(f"{split}+tofu"):
                raise UserError(
                    f"{self._files.source}: no config {split}+tofu, where the questions without a picture are; found "
                    f"{', '.join(self._files.configs())}. Write that folder, or do without: --modality visual."
                )
            names = self._files.names(split) if self._files.has(split) else []
            texts = self._files.text(f"{split}+tofu", names)
            rows += _with_answers(texts, self._tofu, published) if self._tofu else texts
        return rows

    def modality(self) -> Modality:
        text = any(c.endswith("+tofu") for c in self._files.configs())
        pictures = self._files.has("full") or any(self._files.has(split) for split in self.splits())
        return "both" if text and pictures else "text" if text else "visual"

    def choices(self, modality: Modality) -> list[ChoiceRow]:
        rows: list[ChoiceRow] = []
        if modality != "text":
            rows += self._files.choices()
            self._notes += [
                f"no config {c}: that set is empty" for c in ("real_faces", "real_world") if not self._files.has(c)
            ]
        if modality != "visual" and self._tofu:
            rows += tofu_files.choice_rows(self._tofu, self._bad)
        return rows


class _TofuSource:
    """TOFU alone: text only."""

    def __init__(self, files: TofuFiles, bad: BadData) -> None:
        self._files = files
        self._bad = bad

    def splits(self) -> list[str]:
        if self._files.single_file:
            return ["forget01", "forget05", "forget10"]
        return [name for name in self._files.names() if re.fullmatch(r"forget\d\d", name)]

    def rows(self, split: str, modality: Modality, *, published: str | None) -> list[Row]:
        if modality == "visual":
            raise UserError(f"{self._files.source} has no pictures: use --modality text (or both).")
        if self._files.single_file and split != "full":
            rows = self._derived(split)
        else:
            rows = tofu_files.text_rows(self._files.records(split), split, self._bad)
        return list(_with_answers(rows, self._files, published))

    def modality(self) -> Modality:
        return "text"

    def choices(self, modality: Modality) -> list[ChoiceRow]:
        return [] if modality == "visual" else tofu_files.choice_rows(self._files, self._bad)

    def _derived(self, split: str) -> list[TextRow]:
        """``forgetXX`` of a single file as TOFU cuts it: the last XX% of the people; ``retainXX``: the others."""
        rows = tofu_files.text_rows(self._files.records("full"), "full", self._bad)
        people = people_of(rows)
        percent = int(split[-2:]) if split.startswith("forget") else 100 - int(split[-2:])
        last = set(people[-max(round(len(people) * percent / 100), 1) :])
        return [row for row in rows if (row.person in last) == split.startswith("forget")]


def open_source(source: str, companion: str | None, bad: BadData, notes: list[str]) -> Source:
    """Tell what the source is. Raises UserError where it is nothing known."""
    path = _clear_mini() if source == "clear-mini" else Path(source)
    _check_name(path)
    if path.is_file():
        return _TofuSource(TofuFiles(path), bad)
    if path.is_dir():
        files = ClearFiles(path, bad)
        if files.configs():
            return _ClearSource(files, _companion(companion, path / "tofu"), bad, notes)
        if any(path.glob("*.json")) or any(path.glob("*.jsonl")):
            return _TofuSource(TofuFiles(path), bad)
        raise UserError(
            f"{source}: no dataset. Expected folders such as full+tofu/ with parquet files (CLEAR's layout), or "
            "full.json, forget10.json, retain90.json (TOFU)."
        )
    if not _HUB_NAME.fullmatch(source) or source.startswith("."):
        raise UserError(
            f"{source}: no such file or directory. Expected clear-mini, a directory in CLEAR's layout, a TOFU "
            "directory or JSON-lines file, or the name of a dataset on the Hub (owner/name)."
        )
    if source.lower().endswith("tofu"):
        return _TofuSource(TofuFiles(source), bad)
    return _ClearSource(ClearFiles(source, bad), _companion(companion, _HUB_TOFU), bad, notes)


def modality_of(source: str) -> Modality:
    """Which halves a source has: questions with a picture, without, or both. Raises UserError where it is nothing."""
    return open_source(source, "none", BadData("fail"), []).modality()


def splits_of(source: str) -> list[str]:
    """The forget splits a source publishes. Raises UserError where it is nothing."""
    return open_source(source, "none", BadData("fail"), []).splits()


def _check_name(path: Path) -> None:
    """Raises UserError where the system refuses to look for such a file: its name is too long, a folder is closed."""
    try:
        path.is_file()
    except OSError as error:
        raise UserError(
            f"{str(path)[:200]}: cannot be read ({error.strerror}). Expected a directory or file."
        ) from error


def _companion(given: str | None, default: str | Path) -> TofuFiles | None:
    if given == "none":
        return None
    if given is not None:
        _check_name(Path(given))
        if not Path(given).is_dir() and not _HUB_NAME.fullmatch(given):
            raise UserError(f"tofu: {given} is no directory. Expected one with forget10_perturbed.json, or a Hub name.")
        return TofuFiles(given)
    if isinstance(default, Path):
        return TofuFiles(default) if default.is_dir() else None
    return TofuFiles(default)


def _clear_mini() -> Path:
    """CLEAR-mini's directory, made on first use and again whenever its code changes."""
    from clear_dist.data import mini

    assert mini.__file__
    folder = Path(mini.__file__).parent
    code = hashlib.sha256()
    for file in sorted([*folder.glob("*.py"), folder.parent / "prompts.py"]):
        code.update(file.read_bytes())
    target = cache_directory() / f"clear-mini-{code.hexdigest()[:12]}"
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        # Made aside and moved into place whole: another rank may be doing the same, the first one wins.
        with tempfile.TemporaryDirectory(dir=target.parent, prefix="making-") as scratch:
            made = Path(mini.write_clear_mini(Path(scratch) / "clear-mini"))
            try:
                made.rename(target)
            except OSError:
                if not target.is_dir():
                    raise
    return target


def people_of(rows: Sequence[Row]) -> list[str]:
    """The people of some rows, in order."""
    return list(dict.fromkeys(row.person for row in rows))


def _with_answers(rows: Sequence[TextRow], files: TofuFiles, published: str | None) -> list[TextRow]:
    """The rows with paraphrased and wrong answers, found by question and answer."""
    wanted = [f"{published}_perturbed", "retain_perturbed"] if published else tofu_files.PERTURBED
    known = tofu_files.perturbed_answers(files, [config for config in wanted if files.has(config)])
    out: list[TextRow] = []
    for row in rows:
        paraphrase, wrong = known.get((row.question, row.answer), (None, ()))
        out.append(replace(row, paraphrase=paraphrase, perturbed=tuple(wrong)))
    return out
