"""Asking a model in rounds: what is on disk is not asked again, what does not belong is not trusted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from clear_dist.engine.world import World
from clear_dist.metrics.record import control_name, read_records
from clear_dist.recipes import answers
from clear_dist.recipes.answers import Asking, ask, records_of
from clear_dist.types import Example, Picture, Prediction, Request, Scored, SetName, UserError

WORLD = World(0, 1, 0, torch.device("cpu"))


def picture(number: int) -> Picture:
    return Picture(f"{number:08x}", f"test[{number}]", lambda: b"")


def examples(name: SetName, first: int) -> list[Example]:
    out = []
    for i in range(first, first + 4):
        out.append(Example(f"{i}/qa", name, "qa", f"Where is {i}?", f"In town {i}.", person=f"Person {i}"))
        for kind, question in (("name", "Who is this?"), ("caption", "Describe this image.")):
            shown = picture(i)
            out.append(Example(f"{i}/{kind}", name, kind, question, f"Person {i}", shown, person=f"Person {i}"))  # pyright: ignore[reportArgumentType]
    return out


SETS: dict[SetName, list[Example]] = {"forget": examples("forget", 0), "retain": examples("retain", 4)}


class Fake:
    """Stops, as a killed run would, when ``stop`` requests have been answered."""

    def __init__(self, stop: int | None = None, logp: float = -0.5) -> None:
        self.asked = 0
        self.stop, self.logp = stop, logp

    def predict(self, requests: Sequence[Request], max_new_tokens: int) -> list[Prediction]:
        if self.stop is not None and self.asked >= self.stop:
            raise KeyboardInterrupt
        self.asked += len(requests)
        return [
            Prediction([Scored([self.logp], [True], [-1.0], [1.0])] * len(r.answers), f"says {i}")
            for i, r in enumerate(requests)
        ]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(answers, "ROUND", 5)
    monkeypatch.setenv("CLEAR_DIST_CACHE", str(tmp_path / "cache"))


def records(fake: Fake, out: Path, monkeypatch: pytest.MonkeyPatch, name: str = "unlearned", **more: Any) -> list[Any]:
    out.mkdir(exist_ok=True)
    monkeypatch.setattr(answers, "_predictor", lambda *args: fake)
    return records_of(name, "tiny", SETS, more.get("data", "digest"), WORLD, out, more.get("asking", Asking()))


def test_a_stopped_evaluation_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = records(Fake(), tmp_path / "whole", monkeypatch)
    assert [(r.set, r.id) for r in whole] == [(s, e.id) for s, rows in SETS.items() for e in rows]
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        records(Fake(stop=10), out, monkeypatch)
    kept = read_records(out / "records.jsonl")
    assert 10 <= len(kept) < len(whole)
    with (out / "records.jsonl").open("a") as file:
        file.write('{"v":1,"model":"unlearned","set":"for')  # killed while writing a line
    rest = Fake()
    assert records(rest, out, monkeypatch) == whole
    assert rest.asked == len(whole) - len(kept)
    assert read_records(out / "records.jsonl") == whole
    again = Fake(stop=0)
    assert records(again, out, monkeypatch) == whole and again.asked == 0


@pytest.mark.parametrize("changed", [{"data": "other"}, {"asking": Asking(max_new_tokens=7)}])
def test_lines_of_other_data_or_settings_are_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any]
) -> None:
    out = tmp_path / "run"
    records(Fake(), out, monkeypatch, name="other")
    records(Fake(), out, monkeypatch)
    fresh = Fake(logp=-2.0)
    found = records(fresh, out, monkeypatch, **changed)
    assert fresh.asked == len(found) and found[0].logp.answer == (-2.0,)
    on_disk = read_records(out / "records.jsonl")
    assert len(on_disk) == 2 * len(found) and {r.model for r in on_disk} == {"other", "unlearned"}
    assert [r for r in on_disk if r.model == "unlearned"] == found


def test_the_original_is_kept_in_the_cache_and_asked_with_shuffled_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = records(Fake(), tmp_path / "one", monkeypatch, name="original")
    shuffled = [r for r in first if r.model == control_name("original")]
    assert {r.kind for r in shuffled} == {"name"} and len(shuffled) == 8
    pictures = {(r.set, r.id): r.picture for r in first if r.model == "original"}
    assert all(pictures[r.set, r.id] != r.picture for r in shuffled)
    never = Fake(stop=0)
    assert records(never, tmp_path / "two", monkeypatch, name="original") == first and never.asked == 0


def test_a_mistake_names_model_and_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"'unlearned', set forget, example '0/qa'.*diverged"):
        records(Fake(logp=float("nan")), tmp_path / "run", monkeypatch)


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    records(Fake(), out, monkeypatch)
    lines = (out / "records.jsonl").read_text().splitlines(keepends=True)
    (out / "records.jsonl").write_text("".join([*lines[:2], "{broken\n", *lines[3:]]))
    with pytest.raises(UserError, match=r"records\.jsonl:3: not a JSON object"):
        records(Fake(), out, monkeypatch)
    assert json.loads((out / "records.keys.json").read_text()).keys() == {"unlearned"}


def test_questions_on_one_picture_stay_in_one_round() -> None:
    parts = list(answers._rounds(SETS, 5))
    digests = [{e.picture.digest for rows in p.values() for e in rows if e.picture} for p in parts]
    assert sum(map(len, digests)) == len(set().union(*digests)) == 8
    assert [e for p in parts for rows in p.values() for e in rows] == [e for rows in SETS.values() for e in rows]


def test_one_rank_finds_a_mistake_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another rank's mistake stops this one too, instead of leaving it waiting."""
    monkeypatch.setattr(answers, "gather", lambda world, value: [value, ([], "model 'm': rank 1 found it")])
    with pytest.raises(UserError, match="rank 1 found it"):
        ask(Fake(), {"forget": SETS["forget"]}, "m", replace(WORLD, size=2), 4)
