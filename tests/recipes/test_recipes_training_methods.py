"""The listing of methods: docs/methods.md is current, the JSON is complete, the table fits a terminal."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from clear_dist.config import MethodsConfig
from clear_dist.errors import UserError
from clear_dist.flags import parse
from clear_dist.methods import COMMON, METHODS, VARIANTS, Variant, build, hyperparameters, parse_objective
from clear_dist.methods.parser import RULES, SCHEDULES, TERMS
from clear_dist.recipes import methods
from clear_dist.recipes.methods_page import markdown
from clear_dist.types import View


def printed(capsys: pytest.CaptureFixture[str], **options: Any) -> str:
    methods.run(MethodsConfig(**options))
    return capsys.readouterr().out


def test_the_document_is_current(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = root / "docs" / "methods.md"
    current = document.read_text(encoding="utf-8") if document.is_file() else ""
    fresh = printed(capsys, markdown=True)
    assert current == fresh, "METHODS has changed; run: clear-dist methods --markdown > docs/methods.md"


def test_every_method_has_a_row_and_a_section() -> None:
    text = markdown()
    rows = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| [`")}
    assert list(rows) == list(METHODS)
    for name, row in rows.items():
        assert f"`{build(name)}`" in row
        assert row.count(" | ") == 4, "a bar in a cell would break the table"
        (body,) = re.findall(rf"^### {name}\n(.*?)(?=^##)", text, flags=re.DOTALL | re.MULTILINE)
        assert f"```\n{build(name)}\n```" in body
        assert all(f"`{key}=" in body for key in hyperparameters(name))
        others = {v: METHODS[name].equation(v) is not METHODS[name].paper for v in VARIANTS}
        assert {v: f"--preset {v}`" in body for v in VARIANTS} == others


def test_everything_an_equation_is_made_of_is_explained() -> None:
    text = markdown()
    for name in (*TERMS, *SCHEDULES, *RULES):
        (body,) = re.findall(rf"^### `{name}\(.*?\)`\n\n(.+?)(?=^##)", text, flags=re.DOTALL | re.MULTILINE)
        assert len(body.strip()) > 40, name
    for view in View:
        assert f"| `{view.name}` |" in text


def test_equations_of_the_document_can_be_typed() -> None:
    blocks = re.findall(r"^```\n([^$]*?)\n```$", markdown(), flags=re.MULTILINE)
    equations = [b for b in blocks if not b.startswith("clear-dist")]
    assert len(equations) == len(METHODS)
    for equation in [*equations, *re.findall(r'--objective "(.*?)"', markdown())]:
        assert str(parse_objective(equation)) == equation


def test_the_document_is_markdown_that_renders() -> None:
    text = markdown()
    assert text.count("```") % 2 == 0 and "{" not in text.replace("{question}", "")
    for line in text.splitlines():
        assert line.count("`") % 2 == 0 or line.startswith("```"), line
        assert not re.match(r"^ {4,}\S", line), line
    tables = [block for block in text.split("\n\n") if block.startswith("| ")]
    assert len(tables) == 4
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1


@pytest.mark.parametrize("variant", VARIANTS)
def test_json_lists_everything(variant: Variant, capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(printed(capsys, json=True, preset=variant))
    assert [row["name"] for row in rows] == list(METHODS)
    for row in rows:
        name, objective = row["name"], build(row["name"], variant=variant)
        assert set(row) == {
            "name", "equation", "about", "source", "needs", "hyperparameters", "common", "cost", "variants",
        }  # fmt: skip
        assert row["equation"] == str(objective)
        assert row["hyperparameters"] == hyperparameters(name, variant)
        assert row["common"] == {k: v for k, v in COMMON.items() if k not in row["hyperparameters"]}
        assert set(row["variants"]) == {"clear_code", "tofu"}
        for other, equation in row["variants"].items():
            assert equation is None or equation == str(build(name, variant=other))
        needs = row["needs"]
        assert set(needs) == {"views", "reference", "layers", "pairs", "depth", "train_layers"}
        assert needs["views"] == [str(v) for v in objective.needs.views]
        assert needs["reference"] is bool(objective.needs.reference)
        assert needs["pairs"] == [[str(v) for v in pair] for pair in objective.needs.pairs]
        assert row["about"].endswith((".", ")")) and "``" not in row["about"]
        assert row["source"] == "clear_dist" or row["source"].startswith("arXiv ")


@pytest.mark.parametrize(
    ("name", "passes"),
    [
        ("gd", 6),  # two views, forward and backward
        ("ga", 3),
        ("kl", 7),  # and the reference on retain
        ("npo", 4),
        ("dpo", 8),
        ("llmu", 10),
        ("rmu", 7),
        ("grad_orth", 6),  # two backward passes, of half the examples each
        ("pubg", 11),
    ],
)
def test_cost_counts_passes(name: str, passes: int) -> None:
    entry = methods.describe(name)
    assert entry.cost == pytest.approx(passes / 6)
    assert entry.shown_cost == f"{passes / 6:.2f}" + (" x 8/blocks" if name == "rmu" else "")


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("gd", "arXiv 2410.18057, appendix A"),
        ("npo", "arXiv 2404.05868"),
        ("dpo", "arXiv 2305.18290"),
        ("scrub", "arXiv 2302.09880"),
        ("rmu", "arXiv 2403.03218"),
        ("pubg", "arXiv 2506.02541"),
        ("sft_guide", "clear_dist"),
    ],
)
def test_sources(name: str, source: str) -> None:
    assert methods.describe(name).source == source


def test_needs_in_words() -> None:
    assert methods.describe("pubg").needs == ["teacher answers", "reference"]
    assert methods.describe("rmu").needs == ["reference", "decoder block 7"]
    assert methods.describe("idk").needs == ["IDK answers"]
    assert methods.describe("ga").needs == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_table_fits_a_terminal_of_100_columns(
    variant: Variant, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    lines = printed(capsys, preset=variant).splitlines()
    assert max(map(len, lines)) <= 100
    assert not any("…" in line for line in lines), "nothing is cut off"
    cells = [line.split("│") for line in lines if line.startswith("│")]
    assert [cell[1].strip() for cell in cells if cell[1].strip()] == list(METHODS)
    words = " ".join(" ".join(cell[2].split()) for cell in cells)
    assert all(str(build(name, variant=variant)) in words for name in METHODS)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--json", "--markdown"], "--json and --markdown are two forms"),
        (["--markdown", "--preset", "tofu"], "leave it out"),
        (["--preset", "mine"], "expected one of paper, clear_code, tofu"),
    ],
)
def test_contradictory_flags(flags: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(MethodsConfig, flags, "clear-dist methods")


def test_flags() -> None:
    assert parse(MethodsConfig, ["--json", "--preset", "tofu"], "clear-dist methods") == MethodsConfig(
        json=True, preset="tofu"
    )
