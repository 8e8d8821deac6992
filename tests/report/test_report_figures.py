"""The terminal table, the forget-retain front and the words around numbers."""

import math
from pathlib import Path

import pytest
from rich.console import Console

from clear_dist.report.front import front, pareto
from clear_dist.report.tables import compare_table, reading_order
from clear_dist.report.view import flatten
from clear_dist.report.words import number, quality_caution, quality_line
from clear_dist.types import UserError

ROWS = [
    {"method": "original", "seed": 0, "forget": 0.97, "retain": 0.96},
    {"method": "gold", "seed": 0, "forget": 0.05, "retain": 0.97},
    *({"method": "npo", "seed": s, "forget": 0.1 + 0.03 * s, "retain": 0.9 - 0.01 * s} for s in range(3)),
    *({"method": "ga $x$", "seed": s, "forget": 0.02, "retain": 0.3 + 0.02 * s} for s in range(3)),
    {"method": "idk", "seed": 0, "forget": 0.3, "retain": 0.85},
]


def test_pareto_front_by_hand() -> None:
    points = {"a": (0.1, 0.5), "b": (0.2, 0.9), "c": (0.3, 0.8), "d": (0.1, 0.4), "twin": (0.2, 0.9)}
    assert pareto(points) == ["a", "b", "twin"]


@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_front_draws_and_names_the_best(tmp_path: Path, suffix: str, magic: bytes) -> None:
    path = tmp_path / "figures" / f"front{suffix}"
    assert front(ROWS, path) == ["ga $x$", "npo"]  # landmarks and beaten methods are not on it
    first = path.read_bytes()
    assert first.startswith(magic)
    front(ROWS, path)
    assert path.read_bytes() == first


@pytest.mark.parametrize(
    ("rows", "name", "said"),
    [
        ([], "f.png", "no run"),
        ([{"method": "a", "forget": 0.1}], "f.png", "row 0 needs .*retain"),
        ([{"method": "a", "forget": 0.1, "retain": None}], "f.png", "row 0 needs"),
        ([{"method": "a", "forget": 0.1, "retain": 95.0}], "f.png", r"row 0 \(a\).*\[0, 1\]"),
        (ROWS, "f.gif", "must end in"),
    ],
)
def test_front_refuses(tmp_path: Path, rows: list[dict], name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        front(rows, tmp_path / name)
    assert not (tmp_path / name).exists()


def _summary() -> dict:
    figure = {"value": 0.5, "ci": [0.25, 0.75], "n": 8}
    sets = {"forget": {"all": {"name_accuracy": figure, "rouge_l": None}}, "retain": {"all": {"rouge_l": figure}}}
    quality = {"p": 0.02, "ln_p": math.log(0.02), "ks": 0.5, "n": 30}
    return {
        "v": 1,
        "models": {
            "gold": {"sets": sets, "forget_quality": None},
            "[red]npo": {"sets": sets, "forget_quality": quality, "model_utility": figure},
            "original": {"sets": {"forget": {"all": {}}}},
            "original/shuffled": {"sets": sets},
        },
    }


def _text(**kwargs) -> str:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    try:
        console.print(compare_table(_summary(), **kwargs))
        return console.export_text()
    finally:
        console.file.close()


def test_table_puts_models_side_by_side() -> None:
    text = _text()
    head = next(line for line in text.splitlines() if "metric" in line)
    assert head.index("original") < head.index("[red]npo") < head.index("gold")  # markup in a name is only text
    assert "shuffled" not in text
    row = next(line for line in text.splitlines() if "Name accuracy" in line)
    assert row.count(".500 .250-.750") == 2 and "- " in row
    assert "p = 0.020 (ln p = -3.91)" in text and "Model utility" in text
    assert "Name accuracy" not in _text(group="text") and "pictures only" in _text(group="visual")
    assert "gold" not in _text(models=["original"])


def test_reading_order() -> None:
    assert reading_order(["gold", "b", "original", "b/shuffled", "a"]) == ["original", "b", "a", "gold"]


def test_numbers_and_quality_in_words() -> None:
    assert [number(v) for v in (0.0, 0.9416, 1.0, 0.9999)] == [".000", ".942", "1.000", "1.000"]
    assert quality_line({"p": 0.0, "ln_p": -900.0, "ks": 1.0, "n": 900}) == (
        "p = below 1e-300 (ln p = -900.00), KS distance 1.000, n = 900"
    )
    assert quality_caution({"p": 1.0, "ln_p": 0.0, "ks": 0.0, "n": 300}) is None
    assert "Few rows (n = 32)" in (quality_caution({"p": 1.0, "ln_p": 0.0, "ks": 0.0, "n": 32}) or "")
    assert "says nothing" in (quality_caution({"p": 1.0, "ln_p": 0.0, "ks": 0.0, "n": 3}) or "")


def test_flatten() -> None:
    nested = {"a": {"b": 0.001, "c": [1, 2]}, "d": None, "e": True, "f": [{"g": "x"}], "h": {}}
    assert flatten(nested) == [("a.b", "0.001"), ("a.c", "1, 2"), ("d", "not set"), ("e", "yes"), ("f[0].g", "x")]
