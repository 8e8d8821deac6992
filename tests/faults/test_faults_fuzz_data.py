"""Datasets somebody else made: rows of text, tables of pictures, attributes, encoded pictures. Each is read, or refused
by the file, the row or the config; what was read can be made into conversations."""

from __future__ import annotations

import hashlib
import io
import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st
from PIL import Image

from clear_dist.data.clear import ClearFiles
from clear_dist.data.conversations import choice, evaluation, training
from clear_dist.data.identities import load_identities
from clear_dist.data.images import check_picture, decode
from clear_dist.data.rows import BadData, filled
from clear_dist.data.sources import open_source
from clear_dist.data.tofu import TofuFiles, choice_rows, perturbed_answers, text_rows
from clear_dist.types import Picture

from .fuzz import counted
from .fuzz_inputs import altered, damaged, files

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data"))
from data_fakes import encoded_image  # pyright: ignore[reportMissingImports]

COUNTS = [pytest.param(1_000, id="fast"), pytest.param(10_000, marks=pytest.mark.slow, id="10000")]
FEW = [pytest.param(150, id="fast"), pytest.param(10_000, marks=pytest.mark.slow, id="10000")]

PEOPLE = ("Ada Berg", "Bo Costa")
ROWS = [
    {"id": f"{p}{i}", "question": f"What did {p} do in {i}?", "answer": f"{p} wrote \u201cBook {i}\u201d.", "name": p}
    for p in PEOPLE
    for i in range(2)
]
BARE = [{"question": row["question"], "answer": row["answer"]} for row in ROWS for _ in range(5)]
ASKED = [
    {**row, "paraphrased_answer": "So", "perturbed_answer": ["No", "Never"], "paraphrased_question": "What?"}
    for row in BARE[:3]
]
CHOICES = [{"question": "Where?", "option1": "Here", "option2": "There", "answer": "Here"}]


def lines(rows: list[Any]) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


def tables(good: list[list[Any]]) -> st.SearchStrategy[bytes]:
    """JSON lines and JSON lists with rows changed, and bytes that are damaged or have nothing to do with it."""
    whole = [lines(rows) for rows in good] + [json.dumps(rows).encode() for rows in good]
    changed = altered(good).map(lambda v: lines(v) if isinstance(v, list) else json.dumps(v).encode())
    return st.one_of(
        changed, changed, altered(good).map(lambda v: json.dumps(v).encode()), damaged(whole), files(whole, good)
    )


@pytest.mark.parametrize("count", COUNTS)
def test_questions_and_answers(count: int, tmp_path: Path) -> None:
    file = tmp_path / "people.jsonl"

    def text_file(drawn: tuple[bytes, bool]) -> None:
        content, skip = drawn
        file.write_bytes(content)
        bad = BadData("skip" if skip else "fail")
        rows = open_source(str(file), None, bad, []).rows("full", "text", published=None)
        assert len({row.id for row in rows}) == len(rows)
        training(rows, "retain")
        assert all(line.startswith("full[") for line in bad.skipped)

    inputs = st.tuples(tables([ROWS, BARE]), st.booleans())
    counted(
        count,
        inputs,
        text_file,
        names=["people.jsonl", "full"],
        accepted_at_least=count // 20,
        rejected_at_least=count // 10,
    )


@pytest.mark.parametrize("count", COUNTS)
def test_wrong_answers_and_choices(count: int, tmp_path: Path) -> None:
    def companion_files(drawn: tuple[bytes, bytes]) -> None:
        for name, content in zip(("retain_perturbed", "world_facts"), drawn, strict=True):
            (tmp_path / f"{name}.json").write_bytes(content)
        known = TofuFiles(tmp_path)
        for (question, answer), (paraphrase, wrong) in perturbed_answers(known, ["retain_perturbed"]).items():
            assert isinstance(question, str) and isinstance(answer, str)
            assert paraphrase is None or isinstance(paraphrase, str)
            assert all(isinstance(text, str) for text in wrong)
        for row in choice_rows(known, BadData("fail")):
            assert row.options[0] == row.answer
            choice(row)

    inputs = st.tuples(
        st.one_of(st.just(lines(ASKED)), tables([ASKED])), st.one_of(st.just(lines(CHOICES)), tables([CHOICES]))
    )
    counted(
        count,
        inputs,
        companion_files,
        names=["retain_perturbed", "world_facts"],
        accepted_at_least=count // 20,
        rejected_at_least=count // 10,
    )


@pytest.mark.parametrize("count", COUNTS)
def test_attributes(count: int, tmp_path: Path) -> None:
    digest = "ab" * 32
    entry = {
        "person": "Ada Berg",
        "unseen": True,
        "attributes": {"hair": "red"},
        "description": "A person.",
        "questions": [["What hair?", "red"]],
    }
    facts = {row["question"]: {"person": row["name"], "fact": "Book"} for row in ROWS}
    good = [{"v": 1, "pictures": {digest: entry}, "facts": facts}, {"v": 1, "pictures": {}, "facts": {}}]

    def attributes_file(content: bytes) -> None:
        (tmp_path / "attributes.json").write_bytes(content)
        files = ClearFiles(tmp_path, BadData("fail"))
        for info in files.pictures_info.values():
            assert isinstance(info.unseen, bool) and (info.description is None or info.description.strip())
            assert all(isinstance(text, str) for pair in info.questions for text in pair)
        rows = [{"question": row["question"], "answer": row["answer"]} for row in ROWS]
        named = [{**row, "name": "Ada Berg"} for row in rows]
        for row in text_rows(named, "full", BadData("fail"), facts=files.facts):
            assert isinstance(row.person, str) and (row.fact is None or isinstance(row.fact, str))

    counted(
        count,
        files([json.dumps(value).encode() for value in good], good),
        attributes_file,
        names=["attributes.json"],
        accepted_at_least=count // 20,
        rejected_at_least=count // 10,
    )


PICTURES = [{"bytes": encoded_image((9, 9, i)), "path": None} for i in range(3)]
TABLE = {
    "image": PICTURES,
    "caption": ["Ada stands.", "Ada sits.", "Bo runs."],
    "name": ["Ada Berg", "Ada Berg", "Bo Costa"],
}
OPTIONS = [["Ada", "Bo"], ["Bo", "Ada"], ["Cy"]]
TABLES: dict[str, dict[str, list[Any]]] = {  # one of each kind of config
    "full": TABLE,
    "retain_perturbed": {
        **TABLE,
        "paraphrased_caption": ["Ada is upright.", "Ada rests.", None],
        "perturbed_captions": [["Ada lies.", "Ada runs."], [], None],
        "perturbed_names": [["Zed"], None, ["Ada Berg", "Yan"]],
    },
    "full+tofu": {
        "image": [*PICTURES, None, None],
        "question": [None, None, None, "Where was Ada?", "Where was Bo?"],
        "answer": [None, None, None, "There.", "Elsewhere."],
    },
    "real_faces": {"image": PICTURES, "answer": ["Ada", "Bo", "Cy"], "options": OPTIONS},
    "real_world": {"image": PICTURES, "question": ["Who?"] * 3, "answer": ["Ada", "Bo", "Cy"], "options": OPTIONS},
}


def parquet(table: dict[str, Any]) -> bytes:
    """Whatever columns can be put into a table, with types as arrow infers them."""
    columns: dict[str, pa.Array] = {}
    for name, values in table.items():
        cells = values if isinstance(values, list) else [values]
        for convert in (lambda c: c, lambda c: [str(v).encode("utf-8", "replace").decode() for v in c]):
            try:
                columns[str(name).encode("utf-8", "replace").decode()] = pa.array(convert(cells))
                break
            except (pa.ArrowException, ValueError, TypeError, OverflowError, UnicodeError):
                continue
    longest = max((len(column) for column in columns.values()), default=0)
    padded = {name: pa.concat_arrays([c, pa.nulls(longest - len(c), c.type)]) for name, c in columns.items()}
    out = io.BytesIO()
    try:
        pq.write_table(pa.table(padded), out)
    except pa.ArrowException:  # a struct of nothing, say
        return b""
    return out.getvalue()


@pytest.mark.parametrize("config", TABLES)
@pytest.mark.parametrize("count", FEW)
def test_tables(count: int, config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in {"full", config}:
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "train.parquet").write_bytes(parquet(TABLES[name]))
    runs = iter(range(10**6))

    def table_file(drawn: tuple[bytes, bool]) -> None:
        content, skip = drawn
        monkeypatch.setenv("CLEAR_DIST_CACHE", str(tmp_path / f"cache{next(runs) % 3}"))
        (tmp_path / "data" / config / "train.parquet").write_bytes(content)
        bad = BadData("skip" if skip else "fail")
        files = ClearFiles(tmp_path / "data", bad)
        if config.startswith("real"):
            for chosen in files.choices():
                assert chosen.picture is not None and all(filled(text) for text in chosen.options)
                hashlib.sha256(chosen.picture.read()).hexdigest()
                choice(chosen)
        elif config == "full+tofu":
            training(files.text(config, PEOPLE), "retain")
        else:
            rows = files.visual("full", [config] if config != "full" else [])
            for row in rows:
                assert all(map(filled, (row.caption, row.person, *row.perturbed, *row.wrong_names)))
                hashlib.sha256(row.picture.read()).hexdigest()
            training(rows, "retain")
            evaluation(rows, "retain", PEOPLE, 0)
        assert all(line.startswith(f"{config}[") for line in bad.skipped)

    good = [TABLES[config], {**TABLES[config], "id": ["a", "b", "c"]}]
    changed = altered(good).map(lambda v: parquet(v if isinstance(v, dict) else {"image": v}))
    counted(
        count,
        st.tuples(
            st.one_of(changed, changed, damaged([parquet(TABLES[config])]), st.binary(max_size=60)), st.booleans()
        ),
        table_file,
        names=[f"config {config}", f"{config}[", f"{config}: "],
        accepted_at_least=count // 20,
        rejected_at_least=count // 20,
    )


def pictures() -> Iterator[bytes]:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "ICO", "TGA", "PCX"):
        out = io.BytesIO()
        noise.save(out, kind)
        yield out.getvalue()
    for mode in ("1", "L", "LA", "P", "RGBA", "I;16"):
        out = io.BytesIO()
        (noise.convert("L").convert("I;16") if mode == "I;16" else noise.convert(mode)).save(out, "PNG")
        yield out.getvalue()


@pytest.mark.parametrize("count", COUNTS)
def test_encoded_pictures(count: int) -> None:
    def picture(content: bytes) -> None:
        given = Picture(hashlib.sha256(content).hexdigest(), "full[7].image", lambda: content)
        check_picture(given)
        assert decode(given).mode == "RGB"

    inputs = st.one_of(damaged(list(pictures())), damaged(list(pictures())), st.binary(max_size=200))
    counted(
        count, inputs, picture, names=["full[7].image"], accepted_at_least=count // 20, rejected_at_least=count // 10
    )


def archive() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        for i in range(4):
            made.writestr(f"{PEOPLE[i // 2]}/{i}.png", encoded_image((9, 60 * i, 9)))
    return out.getvalue()


@pytest.mark.parametrize("kind", ["zip", "table"])
@pytest.mark.parametrize("count", FEW)
def test_identities(count: int, kind: str, tmp_path: Path) -> None:
    """Pictures of people for membership: what is read is of people and pictures that are there, the rest is listed."""
    table = tmp_path / "people" / "full" / "train.parquet"
    table.parent.mkdir(parents=True)
    source, file = (tmp_path / "people", table) if kind == "table" else (tmp_path / "people.zip",) * 2

    def identities_file(content: bytes) -> None:
        file.write_bytes(content)
        read = load_identities(source, 8, tmp_path / "cache", on_bad="skip", min_images=1, workers=1)
        assert len(read.ids) == len(read.labels) == len(read.pixels) > 0
        assert read.file is not None
        read.file.unlink()

    wrong = altered([{"image": PICTURES, "name": TABLE["name"]}]).map(
        lambda v: parquet(v if isinstance(v, dict) else {"image": v})
    )
    good = parquet({"image": PICTURES, "name": TABLE["name"]}) if kind == "table" else archive()
    inputs = st.one_of(wrong, damaged([good])) if kind == "table" else damaged([good, good + good])
    counted(
        count,
        st.one_of(inputs, inputs, st.binary(max_size=60)),
        identities_file,
        names=["people.zip", "train.parquet", "people:"],
        accepted_at_least=count // 20,
        rejected_at_least=count // 20,
    )
