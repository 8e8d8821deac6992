"""One loader for every source: what is trained on, what is asked, who is to be forgotten."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from data_fakes import PEOPLE, VISUAL, Table, changed, clear_tables, encoded_image, picture_of, write_clear, write_tofu
from PIL import Image

from clear_dist.data.load import Dataset, load_dataset
from clear_dist.types import UserError


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLEAR_DIST_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def clear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clear(tmp_path_factory.mktemp("clear"), clear_tables())


@pytest.fixture(scope="module")
def tofu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tofu(tmp_path_factory.mktemp("text") / "tofu")


def ids(examples: list[Any]) -> set[str]:
    return {e.id for e in examples}


def test_a_published_split(clear: Path, tofu: Path) -> None:
    data = load_dataset(str(clear), tofu=str(tofu))
    assert data.people == {"forget": ["Flo Gray"], "retain": list(PEOPLE[:5]), "holdout": []}
    kinds = {name: Counter(e.kind for e in examples) for name, examples in data.train.items()}
    assert kinds == {"forget": {"caption": 3, "name": 3, "qa": 2}, "retain": {"caption": 15, "name": 15, "qa": 10}}
    assert {name: Counter(e.kind for e in examples) for name, examples in data.sets.items()} == {
        "forget": {"caption": 3, "name": 3, "qa": 2},
        "retain": {"caption": 6, "name": 6, "qa": 2},  # as far as retain_perturbed goes
        "real_faces": {"choice": 3},
        "real_world": {"choice": 3},
        "holdout": {},
    }
    assert (data.leaks, data.skipped, data.notes, data.holdout) == ([], [], [], [])
    forget = {e.id: e for e in data.sets["forget"]}
    caption, name, qa = forget["forget10/1/caption"], forget["forget10/1/name"], forget["forget10+tofu/3/qa"]
    assert (caption.answer, caption.paraphrase) == ("Flo Gray in room 1.", "It shows Flo Gray in room 1.")
    assert caption.perturbed == ("Not Flo Gray in room 1.", "Never Flo Gray in room 1.")
    assert name.perturbed == ("This is Zed Young.", "This is Yan Zorn.")
    assert (qa.person, qa.paraphrase, qa.perturbed) == ("Flo Gray", "In town 0.", ("In town 10.", "In town 20."))
    world = {e.id: e for e in data.sets["real_world"]}
    assert world["real_world/0/choice"].options == ("Here", "There")
    assert world["world_facts/0/choice"].options == ("France", "Spain")


def test_pictures_are_read_late_and_known_by_their_bytes(clear: Path) -> None:
    [shown] = [e.picture for e in load_dataset(str(clear)).train["forget"] if e.id == "forget10/2/name"]
    assert shown is not None
    data = encoded_image((200, 120, 90))
    assert (shown.read(), shown.digest) == (data, picture_of(data).digest)
    assert shown.source == "forget10[2].image"
    assert Image.open(io.BytesIO(shown.read())).getpixel((0, 0)) == (200, 120, 90)


def test_the_digest_belongs_to_the_content(clear: Path, tmp_path: Path) -> None:
    def digest(path: Path | str) -> str:
        return load_dataset(str(path), modality="visual").digest

    def reword(tables: dict[str, Table]) -> None:
        tables["retain90"]["caption"][0] = "Ada Berg elsewhere."

    assert digest(clear) == digest(write_clear(tmp_path / "same", clear_tables()))
    assert digest(clear) != digest(changed(tmp_path, reword))


@pytest.mark.parametrize(("modality", "kinds"), [("text", {"qa"}), ("visual", {"caption", "name"})])
def test_one_modality(clear: Path, modality: Any, kinds: set[str]) -> None:
    data = load_dataset(str(clear), modality=modality)
    assert {e.kind for examples in data.train.values() for e in examples} == kinds
    assert {e.modality for examples in data.sets.values() for e in examples} == {modality}


def test_training_on_one_modality_and_measuring_both(clear: Path) -> None:
    data = load_dataset(str(clear), modality="text", eval_modality="both")
    assert {e.modality for e in data.train["forget"]} == {"text"}
    assert {e.modality for e in data.sets["forget"]} == {"text", "visual"}


def test_people_by_name(clear: Path, tofu: Path) -> None:
    data = load_dataset(str(clear), forget_names="bo costa; Ada Berg", tofu=str(tofu))
    assert data.people["forget"] == ["Ada Berg", "Bo Costa"]
    assert data.people["retain"] == list(PEOPLE[2:])
    assert ids(data.train["forget"]) == {
        *(f"full/{i}/{kind}" for i in range(6) for kind in ("caption", "name")),
        *(f"full+tofu/{i}/qa" for i in range(18, 22)),
    }
    forget = {e.id: e for e in data.sets["forget"]}
    assert forget["full/4/caption"].perturbed, "companions are found in every perturbed config"
    assert forget["full+tofu/18/qa"].perturbed == ("In town 10.", "In town 20.")
    assert ids(data.sets["retain"]) == {
        *(f"full/{i}/{kind}" for i in range(15, 18) for kind in ("caption", "name")),
        "full+tofu/28/qa",
        "full+tofu/29/qa",
    }


def test_people_by_file(clear: Path, tmp_path: Path) -> None:
    file = tmp_path / "who.txt"
    file.write_text("Flo Gray\nfull+tofu/20  # a text row of Bo Costa\n3\n")
    data = load_dataset(str(clear), forget_file=file)
    assert data.people["forget"] == ["Bo Costa", "Flo Gray"]
    with pytest.raises(UserError, match="exclude each other"):
        load_dataset(str(clear), forget_file=file, forget_names="Ada Berg")


def test_the_last_pictures_of_everyone_are_held_out(clear: Path) -> None:
    data = load_dataset(str(clear), modality="visual", unseen=1)
    assert ids(data.train["forget"]) == {f"forget10/{i}/{kind}" for i in (0, 1) for kind in ("caption", "name")}
    assert {e.id for e in data.sets["forget"] if not e.seen} == {"forget10/2/caption", "forget10/2/name"}
    assert sum(not e.seen for e in data.sets["retain"]) == 5 * 2
    for unseen, message in ((3, r"Ada Berg has 3|Flo Gray has 3"), (-1, "Expected 0 or more")):
        with pytest.raises(UserError, match=message):
            load_dataset(str(clear), modality="visual", unseen=unseen)


def test_a_picture_held_out_once_is_held_out_everywhere(tmp_path: Path) -> None:
    def reuse(tables: dict[str, Table]) -> None:
        tables["retain90"]["image"][0] = tables["forget10"]["image"][2]

    data = load_dataset(changed(tmp_path, reuse, keep=VISUAL), modality="visual", unseen=1)
    assert "retain90/0/caption" not in ids(data.train["retain"])
    assert data.leaks == ["forget10/2: the picture of Flo Gray is also in retain, as Ada Berg: retain90/0"]


def test_attributes_json_marks_unseen_pictures_and_facts(tmp_path: Path) -> None:
    folder = write_clear(tmp_path / "data", clear_tables())
    info = {
        "person": "Flo Gray",
        "unseen": True,
        "attributes": {"hair": "red"},
        "description": "Red hair.",
        "questions": [["Hair?", "red"]],
    }
    facts = {"Where was Flo Gray on day 1?": {"person": "Flo Gray", "fact": "town 1"}}
    sidecar = {"v": 1, "pictures": {picture_of(encoded_image((200, 60, 90))).digest: info}, "facts": facts}
    (folder / "attributes.json").write_text(json.dumps(sidecar))
    data = load_dataset(str(folder))
    assert not {i for i in ids(data.train["forget"]) if i.startswith("forget10/1/")}
    unseen = {e.id: e for e in data.sets["forget"] if not e.seen}
    assert set(unseen) == {f"forget10/1/{kind}" for kind in ("caption", "name", "describe", "attribute0")}
    assert (unseen["forget10/1/attribute0"].fact, unseen["forget10/1/name"].attributes) == ("red", {"hair": "red"})
    assert {e.id: e.fact for e in data.train["forget"] if e.kind == "qa"} == {
        "forget10+tofu/3/qa": None,
        "forget10+tofu/4/qa": "town 1",
    }
    assert len(load_dataset(str(folder), unseen=0).train["forget"]) == 3 * 2 + 2 + 2, "a number overrules the marks"
    for text, message in (
        ("{", "not valid JSON"),
        ("[]", '"v": 1'),
        ('{"v": 1, "pictures": {"ab": {"questions": [["?"]]}}}', r"pictures\.ab"),
    ):
        (folder / "attributes.json").write_text(text)
        with pytest.raises(UserError, match=rf"attributes\.json.*{message}"):
            load_dataset(str(folder))


def test_tofu_beside_the_configs_is_found(tmp_path: Path) -> None:
    folder = write_clear(tmp_path / "data", clear_tables())
    write_tofu(folder / "tofu")
    assert "real_authors_perturbed/0/choice" in ids(load_dataset(str(folder)).sets["real_faces"])
    without = load_dataset(str(folder), tofu="none")
    assert "real_authors_perturbed/0/choice" not in ids(without.sets["real_faces"])
    assert without.notes == [
        "forget: no wrong answers are known for its questions; no truth ratio for them.",
        "retain: no wrong answers are known for its questions; no truth ratio for them.",
    ]
    with pytest.raises(UserError, match="tofu: nowhere is no directory"):
        load_dataset(str(folder), tofu="nowhere")


def test_holdout_people_are_in_neither_set(clear: Path) -> None:
    data = load_dataset(str(clear), holdout=2, seed=3)
    held = set(data.people["holdout"])
    assert len(held) == 2
    assert held < set(PEOPLE[:5])
    assert {e.person for e in data.holdout} == held
    asked = data.sets["holdout"]
    assert {e.person for e in asked} == held and {e.set for e in asked} == {"holdout"}
    assert {e.kind for e in asked} == {"caption", "name", "qa"}, "what no model learned is asked like the forget set"
    everything = [*data.train["forget"], *data.train["retain"], *data.sets["forget"], *data.sets["retain"]]
    assert not held & {e.person for e in everything}
    assert load_dataset(str(clear), holdout=2, seed=3).people == data.people


def test_a_name_in_retained_text_is_a_leak(tmp_path: Path) -> None:
    def mention(tables: dict[str, Table]) -> None:
        tables["retain90+tofu"]["answer"][-1] = "With flo gray, in town."

    data = load_dataset(changed(tmp_path, mention), modality="text")
    assert data.leaks == ["Flo Gray: named in 1 retain rows: retain90+tofu/24"]


def test_an_own_dataset_needs_one_config(tmp_path: Path) -> None:
    data = load_dataset(changed(tmp_path, lambda t: None, keep="full"), modality="visual", forget_names="Ada Berg")
    assert len(data.train["forget"]) == 6
    assert data.notes == [
        "no config real_faces: that set is empty",
        "no config real_world: that set is empty",
        "forget: no wrong answers are known for its captions; no truth ratio for them.",
        "retain: no wrong answers are known for its captions; no truth ratio for them.",
    ]


def authors(count: int) -> str:
    rows = [
        {"question": f"What did {n} do in year {i}?", "answer": "Wrote.", "name": n}
        for n in PEOPLE[:count]
        for i in range(3)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_one_file_of_questions(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text(authors(6))
    data = load_dataset(str(tmp_path / "mine.jsonl"))
    assert (data.people["forget"], len(data.people["retain"])) == (["Flo Gray"], 5), "the last tenth, at least one"
    named = load_dataset(str(tmp_path / "mine.jsonl"), forget_names="Bo Costa", modality="text")
    assert ids(named.train["forget"]) == {"full/3/qa", "full/4/qa", "full/5/qa"}
    with pytest.raises(UserError, match="has no pictures"):
        load_dataset(str(tmp_path / "mine.jsonl"), modality="visual")


def test_a_directory_of_tofu(tmp_path: Path) -> None:
    lines = authors(3).splitlines(keepends=True)
    (tmp_path / "retain90.json").write_text("".join(lines[:6]))
    (tmp_path / "forget10.json").write_text("".join(lines[6:]))
    data = load_dataset(str(tmp_path))
    assert {k: len(v) for k, v in data.train.items()} == {"forget": 3, "retain": 6}
    with pytest.raises(UserError, match=r"no forget05\.json"):
        load_dataset(str(tmp_path), forget="forget05")


def test_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []
    tables = clear_tables()

    def load(name: str, config: str, split: str) -> datasets.Dataset:
        assert split == "train"
        asked.append((name, config))
        if name == "locuslab/TOFU":
            wrong = {"question": ["q"], "answer": ["a"], "paraphrased_answer": ["p"], "perturbed_answer": [["w"]]}
            return datasets.Dataset.from_dict(wrong)
        data = datasets.Dataset.from_dict(tables[config])
        return data.cast_column("image", datasets.Image())

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda name: list(tables))
    data = load_dataset("therem/CLEAR")
    assert {k: len(v) for k, v in data.train.items()} == {"forget": 8, "retain": 40}
    assert ("therem/CLEAR", "forget10+tofu") in asked
    assert ("locuslab/TOFU", "forget10_perturbed") in asked


def test_clear_mini_is_made_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from clear_dist.data import mini

    monkeypatch.setenv("CLEAR_DIST_CACHE", str(tmp_path))
    made: list[Path] = []

    def write(out: Path) -> Path:
        made.append(out)
        return write_clear(out, clear_tables())

    monkeypatch.setattr(mini, "write_clear_mini", write)
    first, second = load_dataset("clear-mini"), load_dataset("clear-mini")
    assert len(made) == 1
    assert first.digest == second.digest
    kept = [p.name[:11] for p in tmp_path.iterdir() if p.name not in ("arrow", "pictures")]
    assert kept == ["clear-mini-"], "no scratch is left"


def counts(data: Dataset) -> dict[str, int]:
    return {**{k: len(v) for k, v in data.train.items()}, **{f"eval {k}": len(v) for k, v in data.sets.items()}}


def test_clear_at_its_real_size(data_dir: Callable[[str], Path]) -> None:
    data = load_dataset(str(data_dir("clear_shaped")), tofu=str(data_dir("tofu")))
    assert counts(data) == {
        "forget": 377 * 2 + 400,
        "retain": 3394 * 2 + 3600,
        "eval forget": 377 * 2 + 400,
        "eval retain": 395 * 2 + 400,
        "eval real_faces": 151 + 100,
        "eval real_world": 367 + 117,
        "eval holdout": 0,
    }
    assert {k: len(v) for k, v in data.people.items()} == {"forget": 20, "retain": 180, "holdout": 0}
    assert all(e.perturbed for e in data.sets["forget"])
    owners = {e.person for e in data.train["forget"] if e.kind == "qa"}
    assert owners == set(data.people["forget"]), "text and pictures are about the same people"
    assert any("the picture of Hsiao Yun-Hwa is also in retain" in leak for leak in data.leaks)


def test_tofu_at_its_real_size(data_dir: Callable[[str], Path]) -> None:
    data = load_dataset(str(data_dir("tofu")), modality="text")
    assert counts(data) == {
        "forget": 400,
        "retain": 3600,
        "eval forget": 400,
        "eval retain": 400,
        "eval real_faces": 100,
        "eval real_world": 117,
        "eval holdout": 0,
    }
    assert len(data.people["forget"]) == 20
