"""CLEAR (arXiv 2410.18057) in the layout of ``therem/CLEAR``: a local directory, or the Hub.

Configs (one folder of parquet files each): ``full``, ``forgetXX``, ``retainXX`` with image, caption, name; the
same with ``+tofu``, where text rows (question, answer, no image) follow the pictures; ``forgetXX_perturbed`` and
``retain_perturbed`` with paraphrases and wrong answers; ``real_faces`` and ``real_world``. A directory may also
hold ``attributes.json`` (visible attributes, unseen pictures, facts) and ``tofu/`` (TOFU's perturbed answers).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import datasets
import pyarrow as pa

from clear_dist.data.rows import (
    BadData,
    ChoiceRow,
    Companion,
    PictureInfo,
    TextRow,
    VisualRow,
    companion,
    filled,
    repeated,
    right_first,
    text_list,
)
from clear_dist.data.tofu import text_rows
from clear_dist.reading import is_file, json_value
from clear_dist.types import Picture, UserError

PERTURBED = ("forget01_perturbed", "forget05_perturbed", "forget10_perturbed", "retain_perturbed")


def cache_directory() -> Path:
    """Where generated and converted data are kept: ``CLEAR_DIST_CACHE``, else ``.cache/clear_dist`` here."""
    return Path(os.environ.get("CLEAR_DIST_CACHE") or Path(".cache") / "clear_dist")


class ClearFiles:
    """Reads configs into rows. Pictures stay on disk: a row holds a digest and how to read the bytes."""

    def __init__(self, source: str | Path, bad: BadData) -> None:
        self.source = str(source)
        self._bad = bad
        self.directory = Path(source) if Path(source).is_dir() else None

    def configs(self) -> list[str]:
        """Names of the configs there are."""
        if self.directory is None:
            try:
                return sorted(datasets.get_dataset_config_names(self.source))
            except Exception as error:
                raise _unreachable(self.source, error) from error
        return sorted(p.name for p in self.directory.iterdir() if p.is_dir() and any(p.glob("*.parquet")))

    def has(self, config: str) -> bool:
        return config in self._configs

    @cached_property
    def _configs(self) -> list[str]:
        return self.configs()

    def names(self, config: str) -> list[str]:
        """The people of a config, in order, each once."""
        return list(dict.fromkeys(str(name).strip() for name in self._table(config, ["name"])["name"] if filled(name)))

    def visual(self, config: str, perturbed: Sequence[str] = ()) -> list[VisualRow]:
        """Pictures with caption and name; paraphrases and wrong answers from the ``perturbed`` configs."""
        table = self._table(config, ["image", "caption", "name"])
        pictures = self._pictures(config, table)
        companions = self._companions(perturbed)
        infos = self.pictures_info
        ids = list(table["id"]) if "id" in table.column_names else []
        twins = repeated(ids)
        rows: list[VisualRow] = []
        for i, (picture, caption, name) in enumerate(zip(pictures, table["caption"], table["name"], strict=True)):
            if picture is None:
                place = f"{config}[{i}].image: "
                if not any(line.startswith(place) for line in self._bad.skipped):  # said already: why its file is none
                    self._bad.report(f"{place}no picture.")
                continue
            if i in twins:
                self._bad.report(f"{config}[{i}]: id {ids[i]!r} is also that of row {twins[i]}.")
                continue
            missing = [c for c, value in (("caption", caption), ("name", name)) if not filled(value)]
            if missing:
                self._bad.report(f"{config}[{i}]: {' and '.join(missing)} empty; expected text.")
                continue
            paraphrase, wrong, wrong_names = companions.get((picture.digest, caption.strip()), (None, (), ()))
            rows.append(
                VisualRow(
                    id=f"{config}/{i}",
                    person=name.strip(),
                    picture=picture,
                    caption=caption.strip(),
                    paraphrase=paraphrase,
                    perturbed=wrong,
                    wrong_names=tuple(n for n in wrong_names if n != name.strip()),
                    info=infos.get(picture.digest),
                )
            )
        return rows

    def text(self, config: str, names: Sequence[str]) -> list[TextRow]:
        """The text rows of a ``+tofu`` config; ``names`` are the people of the config's pictures, in order."""
        table = self._table(config, ["question", "answer"])
        columns = [c for c in ("id", "question", "answer", "name", "person", "fact") if c in table.column_names]
        records = table.select_columns(columns).to_list()
        # Picture rows come first and have no question; an empty question after that is a bad row.
        first = next((i for i, record in enumerate(records) if record["question"] is not None), len(records))
        return text_rows(records[first:], config, self._bad, first=first, names=names, facts=self.facts)

    def choices(self) -> list[ChoiceRow]:
        """Real faces (who is it?) and the real world, as far as there are such configs."""
        rows: list[ChoiceRow] = []
        for config, extra in (("real_faces", []), ("real_world", ["question"])):
            if not self.has(config):
                continue
            table = self._table(config, ["image", "answer", "options", *extra])
            records = table.select_columns(["answer", "options", *extra]).to_list()
            for i, (picture, record) in enumerate(zip(self._pictures(config, table), records, strict=True)):
                missing = [c for c in ("answer", *extra) if not filled(record[c])]
                if picture is None or missing:
                    what = " and ".join([*missing, *([] if picture else ["image"])])
                    self._bad.report(f"{config}[{i}]: {what} empty.")
                    continue
                answer = record["answer"].strip()
                if (listed := text_list(record["options"])) is None:
                    self._bad.report(f"{config}[{i}].options: expected a list of texts.")
                    continue
                options = right_first(answer, listed)
                question = record["question"].strip() if extra else None
                target = "real_world" if extra else "real_faces"
                rows.append(ChoiceRow(f"{config}/{i}", target, answer, options, question, picture))
        return rows

    @cached_property
    def _sidecar(self) -> dict[str, Any]:
        path = self.directory / "attributes.json" if self.directory else None
        if path is None or not path.is_file():
            return {}
        try:
            sidecar = json_value(path.read_bytes())
        except (OSError, ValueError) as error:
            raise UserError(f"{path.name}: not valid JSON ({error}). Mend or remove the file.") from error
        if not isinstance(sidecar, dict) or sidecar.get("v") != 1:
            raise UserError(f'{path.name}: expected an object with "v": 1, "pictures" and "facts".')
        for part in ("pictures", "facts"):
            entries = sidecar.get(part, {})
            if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
                raise UserError(f"{path.name}: {part}: expected an object of objects. Mend or remove the file.")
        return sidecar

    @cached_property
    def pictures_info(self) -> dict[str, PictureInfo]:
        """Digest -> what ``attributes.json`` says of the picture; empty without the file."""
        found: dict[str, PictureInfo] = {}
        for digest, entry in self._sidecar.get("pictures", {}).items():
            questions, attributes = entry.get("questions") or [], entry.get("attributes") or {}
            place, description = f"attributes.json: pictures.{digest[:80]}", entry.get("description") or None
            if not isinstance(questions, list) or not all(map(_is_pair, questions)):
                raise UserError(f"{place}.questions must be pairs [question, answer].")
            if not isinstance(attributes, dict):
                raise UserError(f"{place}.attributes: expected an object, attribute to word.")
            if description is not None and not filled(description):
                raise UserError(f"{place}.description: expected text.")
            found[digest] = PictureInfo(
                unseen=bool(entry.get("unseen", False)),
                attributes={str(k): str(v) for k, v in attributes.items()},
                description=description,
                questions=tuple((q, a) for q, a in questions),
            )
        return found

    @cached_property
    def facts(self) -> dict[str, dict[str, str]]:
        """Question -> {"person", "fact"} from ``attributes.json``; empty without the file."""
        facts = self._sidecar.get("facts", {})
        for question, entry in facts.items():
            if odd := [name for name in ("person", "fact") if entry.get(name) is not None and not filled(entry[name])]:
                raise UserError(f"attributes.json: facts.{question[:80]}.{odd[0]}: expected text, or nothing.")
        return facts

    def _companions(self, configs: Sequence[str]) -> dict[tuple[str, str], Companion]:
        """(digest, caption) -> paraphrase, wrong captions, wrong names. By caption too: a picture may recur."""
        found: dict[tuple[str, str], Companion] = {}
        columns = ["caption", "paraphrased_caption", "perturbed_captions", "perturbed_names"]
        for config in configs:
            table = self._table(config, ["image", *columns])
            records = table.select_columns(columns).to_list()
            for i, (picture, record) in enumerate(zip(self._pictures(config, table), records, strict=True)):
                if picture is None or not filled(record["caption"]):
                    continue  # a companion to nothing
                if (read := companion(record, f"{config}[{i}]", self._bad)) is not None:
                    found[picture.digest, record["caption"].strip()] = read
        return found

    def _table(self, config: str, columns: Sequence[str]) -> datasets.Dataset:
        """A config, opened (memory-mapped), with the columns wanted. Raises UserError naming what is missing."""
        if not self.has(config):
            raise UserError(
                f"{self.source}: no config {config}. Expected a folder {config}/ with parquet files; "
                f"found {', '.join(self._configs) or 'none'}."
            )
        table = self._open(config)
        missing = [column for column in columns if column not in table.column_names]
        if missing:
            raise UserError(
                f"{self.source}: config {config} has no column {', '.join(missing)}. "
                f"Found {', '.join(table.column_names)}; expected {', '.join(columns)}."
            )
        try:
            table.data.validate(full=True)  # text that is no UTF-8 is otherwise met in the middle of reading
        except pa.ArrowException as error:
            raise UserError(f"{self.source}: config {config} is damaged ({error}). Get the file again.") from error
        return table

    def _open(self, config: str) -> datasets.Dataset:
        quiet = datasets.are_progress_bars_disabled()
        datasets.disable_progress_bars()
        try:
            if self.directory is None:
                return datasets.load_dataset(self.source, config, split="train")
            files: list[Any] = sorted(str(p) for p in (self.directory / config).glob("*.parquet"))
            cache = str(cache_directory() / "arrow")
            # Not load_dataset("parquet"): that reports each use to a server on the network, local files too.
            return cast(datasets.Dataset, datasets.Dataset.from_parquet(files, cache_dir=cache))
        except Exception as error:
            if self.directory is None:
                raise _unreachable(f"{self.source}, config {config}", error) from error
            raise UserError(
                f"{self.source}: config {config} cannot be read ({type(error).__name__}: {error})."
            ) from error
        finally:
            if not quiet:
                datasets.enable_progress_bars()

    def _pictures(self, config: str, table: datasets.Dataset) -> list[Picture | None]:
        """Pictures by reference, in row order; the encoded bytes are hashed where they lie, never copied."""
        kind = table.features["image"]
        try:
            table = table.select_columns(["image"]).cast_column("image", datasets.Image(decode=False))
        except Exception as error:  # whatever arrow and datasets say of a column that holds something else
            raise UserError(
                f"{self.source}: config {config}, column image: expected pictures or names of files, found {kind}."
            ) from error
        pictures: list[Picture | None] = []
        for chunk in table.data.column("image").chunks:
            data, paths = chunk.field("bytes"), chunk.field("path").to_pylist()
            for i, valid in enumerate(chunk.is_valid().to_pylist()):
                source = f"{config}[{len(pictures)}].image"
                if not valid:
                    pictures.append(None)
                elif data[i].is_valid:
                    digest = hashlib.sha256(data[i].as_buffer()).hexdigest()
                    pictures.append(Picture(digest, source, partial(_cell_bytes, data, i)))
                else:
                    pictures.append(self._picture_file(source, config, paths[i]))
        return pictures

    @cached_property
    def _roots(self) -> list[Path]:
        """Where its files may lie: the directory; of a snapshot in the Hub's cache, whose files are links, the whole
        place of the dataset in that cache."""
        assert self.directory is not None
        root = self.directory.resolve()
        return [root, root.parents[1]] if root.parent.name == "snapshots" else [root]

    def _picture_file(self, source: str, config: str, name: str | None) -> Picture | None:
        """A picture beside the table instead of in it, within the dataset's directory: a table that somebody else made
        does not choose which of the reader's files are learned."""
        if not name:
            return None
        folders = [self.directory / config, self.directory] if self.directory else []
        path = next((folder / name for folder in folders if is_file(folder / name)), None)
        if path is None:
            self._bad.report(f"{source}: no bytes in the table and no file {name[:200]} in the dataset directory.")
            return None
        if not any(path.resolve().is_relative_to(root) for root in self._roots):
            self._bad.report(f"{source}: {name} leads out of the dataset directory. Put the picture there.")
            return None
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            self._bad.report(f"{source}: {name[:200]} cannot be read ({error.strerror or error}).")
            return None
        return Picture(digest, source, path.read_bytes)


def _is_pair(pair: object) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(map(filled, pair))


def _cell_bytes(column: pa.BinaryArray, row: int) -> bytes:
    return column[row].as_py()


def _unreachable(what: str, error: Exception) -> UserError:
    return UserError(
        f"{what}: cannot be loaded ({type(error).__name__}: {error}). Expected clear-mini, a directory in CLEAR's "
        "layout, a TOFU directory or JSON-lines file, or the name of a dataset on the Hub."
    )
