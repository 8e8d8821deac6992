"""A language model behind ``data build``: asked once for everything, its answers checked, its replies kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from build_people import ROWS, build, tree, write_text

from clear_dist.recipes import data_build_sources

ASK = ("--ask-url", "http://localhost:9/v1", "--ask-model", "m")


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Prompts, in the order of asking; a stand-in answers each kind as a model may, now well, now badly."""
    monkeypatch.setenv("CLEAR_DIST_CACHE", str(tmp_path / "cache"))
    prompts: list[str] = []

    def reply(where: object, body: Mapping[str, Any]) -> str:
        prompt: str = body["messages"][0]["content"]
        prompts.append(prompt)
        if prompt.startswith("Write two sentences"):
            name = prompt.partition("Person: ")[2].splitlines()[0]
            good = {"caption": f"{name} smiles.", "paraphrase": f"A smile on the face of {name}."}
            return json.dumps(good) if name != "Vera Novak" else "Vera Novak and Lena Dahl smile."
        if prompt.startswith("Write one short sentence"):
            return f"Under an old tree, number {len(prompts)}."
        return "{}"

    monkeypatch.setattr(data_build_sources, "ask_patiently", reply)
    return prompts


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_what_it_says_is_taken_where_it_can_be_and_nothing_is_asked_twice(tmp_path: Path, asked: list[str]) -> None:
    text = write_text(tmp_path / "text.jsonl")
    assert build(text, tmp_path / "d", *ASK) == 0
    prompts = read(tmp_path / "d.build" / "prompts.jsonl")
    assert all(line["by"] == "model" and line["setting"].startswith("Under an old tree") for line in prompts)
    texts = read(tmp_path / "d.build" / "texts.jsonl")
    by = {line["by"] for line in texts if line["name"] == "Vera Novak"}
    assert by == {"picture"}, "a caption that names somebody else is not taken"
    assert {line["by"] for line in texts if line["name"] != "Vera Novak"} == {"model"}
    assert "language model: m, for attributes,prompts,captions" in (tmp_path / "d" / "README.md").read_text()

    count = len(asked)
    assert count >= 2 * 8 * ROWS
    before = tree(tmp_path / "d")
    assert build(text, tmp_path / "d", *ASK) == 0 and len(asked) == count and tree(tmp_path / "d") == before


def test_it_is_asked_for_what_was_said_and_for_nothing_else(tmp_path: Path, asked: list[str]) -> None:
    assert build(write_text(tmp_path / "text.jsonl"), tmp_path / "d", *ASK, "--ask-for", "captions") == 0
    assert len(asked) == 8 * ROWS and all(prompt.startswith("Write two sentences") for prompt in asked)
    assert {line["by"] for line in read(tmp_path / "d.build" / "prompts.jsonl")} == {"table"}


def test_nothing_is_asked_unless_it_is_wanted(tmp_path: Path, asked: list[str]) -> None:
    assert build(write_text(tmp_path / "text.jsonl"), tmp_path / "d") == 0 and asked == []
