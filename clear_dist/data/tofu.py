"""TOFU (arXiv 2401.06121): questions and answers on fictitious authors, as JSON lines or from the Hub.

Rows carry no author: 20 in a row belong to one (``full`` has 200 of them, ``forget10`` the last 20). Files used:
``full``, ``forgetXX``, ``retainXX``, their ``*_perturbed`` companions with a paraphrased and several wrong
answers, ``real_authors`` and ``world_facts``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from clear_dist.data.rows import BadData, ChoiceRow, TextRow, filled, repeated, right_first, text_list
from clear_dist.reading import json_value
from clear_dist.types import SetName, UserError

AUTHOR_ROWS = 20
PERTURBED = ("forget01_perturbed", "forget05_perturbed", "forget10_perturbed", "retain_perturbed")
_CHOICES: tuple[tuple[str, SetName], ...] = (("real_authors", "real_faces"), ("world_facts", "real_world"))
_SUFFIXES = (".json", ".jsonl")

# A name must occur in this part of an author's rows. In TOFU authors reach .4 to 1, other phrases .25 at most,
# except where a genre is named more often than that, which never beats a name in the same rows.
_NAME_SHARE = 0.3
# Among phrases nearly as frequent as the most frequent the longest is the whole name.
_NEARLY = 0.8

_CAPITAL = r"(?:(?![\d_])\w)[\w’'\-]*"
_PARTICLES = frozenset(["de", "la", "van", "von", "der", "den", "di", "da", "bin", "ibn", "al", "el", "y", "e"])
_WORD = re.compile(rf"{_CAPITAL}|[^\w\s]")


class TofuFiles:
    """TOFU in a directory, in one JSON-lines file (taken as ``full``), or on the Hub."""

    def __init__(self, source: str | Path) -> None:
        self.source = str(source)
        path = Path(source)
        self._directory = path if path.is_dir() else None
        self._file = path if path.is_file() else None

    @property
    def single_file(self) -> bool:
        return self._file is not None

    def has(self, config: str) -> bool:
        """Whether a file of that name is there; of the Hub's dataset all are taken to be."""
        return self._path(config) is not None if self._directory or self._file else True

    def records(self, config: str) -> list[dict[str, Any]]:
        """The rows of a file as they stand. Raises UserError: no such file, a line that is not a JSON object."""
        if not (self._directory or self._file):
            return _from_hub(self.source, config)
        path = self._path(config)
        if path is None:
            raise UserError(
                f"{self.source}: no {config}.json. Found {', '.join(self.names()) or 'no JSON files'}. "
                "Add the file, or choose another split with --forget."
            )
        return list(_json_lines(path))

    def names(self) -> list[str]:
        """Names of the files there are."""
        if self._file is not None:
            return ["full"]
        if self._directory is None:
            return []
        return sorted(p.stem for p in self._directory.iterdir() if p.suffix in _SUFFIXES)

    def _path(self, config: str) -> Path | None:
        if self._file is not None:
            return self._file if config == "full" else None
        assert self._directory is not None
        return next((p for s in _SUFFIXES if (p := self._directory / f"{config}{s}").is_file()), None)


def text_rows(
    records: Sequence[Mapping[str, Any]],
    config: str,
    bad: BadData,
    *,
    first: int = 0,
    names: Sequence[str] = (),
    facts: Mapping[str, Mapping[str, str]] | None = None,
) -> list[TextRow]:
    """Questions and answers with the people they are about.

    Args:
        records: rows with ``question`` and ``answer``, optionally ``name`` (or ``person``) and ``fact``.
        config: for ids and messages; ``first`` is the number of the first record in it.
        names: people known from elsewhere (CLEAR's captions), in order.
        facts: question -> {"person", "fact"}, from ``attributes.json``.

    The person of a row is, in this order: its ``name`` column; what ``facts`` say; the author of its block.
    Bad rows are dropped only after that, for they count in the blocks.
    """
    facts = facts or {}
    people: list[str | None] = []
    for record in records:
        named = record.get("name") or record.get("person")
        known = facts.get(str(record.get("question")), {})
        people.append(str(named).strip() if filled(named) else known.get("person"))
    if records and not all(people):
        guessed = block_people(records, names, config, first)
        people = [person or guess for person, guess in zip(people, guessed, strict=True)]
    twins = repeated([record.get("id") for record in records])
    rows: list[TextRow] = []
    for i, (record, person) in enumerate(zip(records, people, strict=True)):
        missing = [column for column in ("question", "answer") if not filled(record.get(column))]
        if missing:
            bad.report(f"{config}[{first + i}]: {' and '.join(missing)} empty; expected text.")
            continue
        if i in twins:
            bad.report(f"{config}[{first + i}]: id {record['id']!r} is also that of row {first + twins[i]}.")
            continue
        assert person is not None
        fact = record.get("fact") or facts.get(record["question"], {}).get("fact")
        rows.append(
            TextRow(
                id=f"{config}/{first + i}",
                person=person,
                question=record["question"].strip(),
                answer=record["answer"].strip(),
                fact=str(fact) if filled(fact) else None,
            )
        )
    return rows


def block_people(records: Sequence[Mapping[str, Any]], names: Sequence[str], config: str, first: int = 0) -> list[str]:
    """Per record, whom it is about, from the order of the records. Raises UserError where no block size fits."""
    count = len(records)
    if names and count % len(names) == 0:
        size = count // len(names)
    elif count % AUTHOR_ROWS == 0:
        size = AUTHOR_ROWS
    else:
        raise UserError(
            f"{config}: {count} question rows are no multiple of {AUTHOR_ROWS}"
            + (f" nor of the {len(names)} people" if names else "")
            + ", so whom a row is about cannot be told from its place. Add a `name` column (or a `name` field to "
            "every JSON line), or list the questions under `facts` in attributes.json."
        )
    blocks = [
        [(str(r.get("question") or ""), str(r.get("answer") or "")) for r in records[at : at + size]]
        for at in range(0, count, size)
    ]
    people: list[str] = []
    for number, block in enumerate(blocks):
        name = _known_name(block, names)
        if name is None and len(blocks) == len(names):
            name = names[number]
        people.append(name or author_name(block) or f"nameless author of {config}[{first + number * size}]")
    return [person for person in people for _ in range(size)]


def author_name(block: Sequence[tuple[str, str]]) -> str | None:
    """The name shared by an author's questions and answers, or None where there is none.

    The most frequent phrase of two capitalised words or more; of those nearly as frequent, the longest.
    """
    counts: Counter[str] = Counter()
    for texts in block:
        counts.update({phrase for text in texts for phrase in _phrases(text)})
    if not counts:
        return None
    best = max(counts.values())
    if best < max(_NAME_SHARE * len(block), 2):
        return None
    return max((p for p, n in counts.items() if n >= _NEARLY * best), key=lambda p: (len(p.split()), counts[p], p))


def perturbed_answers(files: TofuFiles, configs: Sequence[str]) -> dict[tuple[str, str], tuple[str | None, list[str]]]:
    """(question, answer) -> (paraphrased answer, wrong answers), from the named files."""
    found: dict[tuple[str, str], tuple[str | None, list[str]]] = {}
    for config in configs:
        for i, record in enumerate(files.records(config)):
            if not all(filled(record.get(c)) for c in ("question", "answer")) or "perturbed_answer" not in record:
                raise UserError(
                    f"{files.source}: {config}[{i}] has {', '.join(record) or 'no fields'}; "
                    "expected question, answer, paraphrased_answer, perturbed_answer."
                )
            wrong, paraphrase = record["perturbed_answer"], record.get("paraphrased_answer")
            wrong = [wrong] if isinstance(wrong, str) else wrong
            if not isinstance(wrong, list) or not all(map(filled, wrong)):
                raise UserError(f"{files.source}: {config}[{i}].perturbed_answer: expected text, or a list of texts.")
            if paraphrase is not None and not filled(paraphrase):
                raise UserError(f"{files.source}: {config}[{i}].paraphrased_answer: expected text, or nothing.")
            key = (record["question"].strip(), record["answer"].strip())
            found[key] = (paraphrase, wrong)
    return found


def choice_rows(files: TofuFiles, bad: BadData) -> list[ChoiceRow]:
    """Real authors and world facts, where the files are there."""
    rows: list[ChoiceRow] = []
    for config, target in _CHOICES:
        name = next((n for n in (f"{config}_perturbed", config) if files.has(n)), None)
        for i, record in enumerate(files.records(name) if name else ()):
            if not all(filled(record.get(column)) for column in ("question", "answer")):
                bad.report(f"{name}[{i}]: question or answer empty; expected text.")
                continue
            answer = record["answer"].strip()
            listed = record.get("perturbed_answer") or [v for k, v in record.items() if k.startswith("option")]
            wrong = text_list([listed] if isinstance(listed, str) else listed)
            if wrong is None:
                bad.report(f"{name}[{i}]: the wrong answers: expected texts.")
                continue
            options = right_first(answer, wrong)
            rows.append(ChoiceRow(f"{name}/{i}", target, answer, options, record["question"].strip()))
    return rows


def _known_name(block: Sequence[tuple[str, str]], names: Sequence[str]) -> str | None:
    """The one of ``names`` that occurs in most rows of the block."""
    texts = ["\n".join(row).casefold() for row in block]
    counts = {name: sum(name.casefold() in text for text in texts) for name in names}
    best = max(counts.values(), default=0)
    if best < _NAME_SHARE * len(block) or best == 0:
        return None
    return max((name for name, n in counts.items() if n == best), key=len)


def _phrases(text: str) -> set[str]:
    """All runs of at least two capitalised words, particles allowed inside; a possessive ends the run."""
    out: set[str] = set()
    run: list[str] = []
    for word in [*_WORD.findall(text), "."]:
        bare = re.sub(r"[’']s?$", "", word)
        if bare[:1].isupper() or (run and bare in _PARTICLES):
            run.append(bare)
            if bare == word:
                continue
        for i in range(len(run)):
            for j in range(i + 2, len(run) + 1):
                if run[i][0].isupper() and run[j - 1][0].isupper():
                    out.add(" ".join(run[i:j]))
        run = []
    return out


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path.name}: not UTF-8 text ({error}). Save the file as UTF-8.") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}).") from error
    if text.lstrip().startswith("["):  # a plain JSON list holds the same
        try:
            records = json_value(text)
        except ValueError as error:
            raise UserError(f"{path.name}: not valid JSON ({error}).") from error
        lines = [(i, record) for i, record in enumerate(records, 1)]
    else:
        lines = []
        for number, line in enumerate(text.split("\n"), 1):
            if not line.strip():
                continue
            try:
                lines.append((number, json_value(line)))
            except ValueError as error:
                raise UserError(f"{path.name}, line {number}: not JSON ({error}). One object a line.") from error
    for number, record in lines:
        if not isinstance(record, dict):
            raise UserError(f"{path.name}, entry {number}: expected an object with question and answer.")
        yield record


def _from_hub(name: str, config: str) -> list[dict[str, Any]]:
    import datasets

    try:
        return datasets.load_dataset(name, config, split="train").to_list()
    except Exception as error:
        raise UserError(
            f"{name}: config {config} cannot be loaded from the Hub ({type(error).__name__}: {error}). "
            "Check the name and the connection, or pass a local directory."
        ) from error
