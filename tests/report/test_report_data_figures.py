"""Figures of a dataset: bins, shares and what is unknown; the numbers beside them are those that are drawn."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle, StepPatch

from clear_dist.report import data_figures
from clear_dist.report.cells import Table
from clear_dist.report.data_figures import Trait, against_image, balance_image, decade, people_image, spread
from clear_dist.report.draw import LIGHT, Image, Theme

PEOPLE = [
    Trait(29, "female", "european"),
    Trait(30, "male", "east_asian"),
    Trait(None, None, None),
    Trait(104, "male", "european"),
]
FACES = [Trait(31, "female", "european"), Trait(35, "female", "european")]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Figures are put together for one theme, and kept, not painted."""
    figures: list[Figure] = []

    def keep(
        name: str, make: Callable[[Theme], Figure], *, alt: str, title: str, numbers: Table | None = None
    ) -> Image:
        figures.append(make(LIGHT))
        return Image(name, b"", b"", b"", alt, title, numbers)

    monkeypatch.setattr(data_figures, "draw", keep)
    return figures


def rows(image: Image | None) -> list[list[str]]:
    assert image is not None and image.numbers is not None
    return [[cell.text for cell in row.cells] for row in image.numbers.rows]


@pytest.mark.parametrize(
    ("age", "bin_name"),
    [(0, "0–9"), (9, "0–9"), (10, "10–19"), (99, "90–99"), (100, "100 and more"), (149, "100 and more"),
     (None, "unknown")],
)  # fmt: skip
def test_bins_of_ten_years(age: int | None, bin_name: str) -> None:
    assert decade(age) == bin_name


def test_bins_have_no_holes_and_the_unknown_come_last() -> None:
    ages = spread("age", PEOPLE, FACES)
    assert ages.values == (*(f"{n}0–{n}9" for n in range(2, 10)), "100 and more", "unknown")
    assert ages.people == (1, 1, 0, 0, 0, 0, 0, 0, 1, 1) and ages.faces == (0, 2, *[0] * 8)
    groups = spread("group", PEOPLE, FACES)
    assert groups.values == ("east asian", "european", "unknown") and groups.people == (1, 2, 1)
    assert spread("age", [], []).values == () and spread("age", [Trait(None, None, None)], []).values == ("unknown",)


def test_how_far_two_sides_are_apart() -> None:
    assert spread("gender", PEOPLE, FACES).apart == pytest.approx(0.75)
    assert spread("gender", PEOPLE, PEOPLE * 5).apart == 0, "shares are compared, not numbers"
    assert spread("gender", PEOPLE[:1], PEOPLE[1:2]).apart == 1
    assert spread("gender", PEOPLE, []).apart is None


def test_faces_beside_people(drawn: list[Figure]) -> None:
    image = against_image("a", "Title", PEOPLE, FACES, "2 faces")
    assert image is not None and "gender 75% apart" in image.alt and image.alt.startswith("Bars of 4 people")
    assert ["gender", "female", "1", "25.0", "2", "100.0"] in rows(image)
    ages, genders, groups = drawn[0].axes
    heights = [bar.get_height() for bar in ages.patches if isinstance(bar, Rectangle)]
    assert heights == [*(25.0, 25.0, 0, 0, 0, 0, 0, 0, 25.0, 25.0), *(0, 100.0, *[0.0] * 8)]
    widths = [bar.get_width() for bar in genders.patches if isinstance(bar, Rectangle)]
    assert widths == [25, 50, 25, 100, 0, 0]
    assert len(groups.patches) == 6
    colors = [patch.get_facecolor() for patch in drawn[0].legends[0].get_patches()]
    assert colors == [ages.patches[0].get_facecolor(), ages.patches[-1].get_facecolor()] and len(set(colors)) == 2
    assert against_image("a", "Title", [], FACES, "x") is None and against_image("a", "Title", PEOPLE, [], "x") is None


def test_people_alone_are_counted(drawn: list[Figure]) -> None:
    image = people_image(PEOPLE)
    assert image is not None and "gender: female 1, male 2, unknown 1" in image.alt
    assert ["gender", "male", "2", "50.0"] in rows(image) and len(drawn[0].axes) == 2
    assert people_image([]) is None


def test_more_names_than_can_be_drawn_are_in_the_table(drawn: list[Figure]) -> None:
    many = [Trait(30, "female", f"group_{number:02d} $x$") for number in range(20)]
    image = against_image("a", "Title", many, FACES, "2 faces")
    assert len(rows(image)) == 1 + 1 + 21
    assert image is not None and image.numbers is not None and image.numbers.notes == (
        "The figure has the first 12 values of group.",
    )  # fmt: skip
    assert len(drawn[0].axes[2].get_yticklabels()) == 12


def stairs(figure: Figure) -> list[list[float]]:
    steps = [patch for patch in figure.axes[0].patches if isinstance(patch, StepPatch)]
    return [[float(value) for value in step.get_data()[0]] for step in steps]


def test_who_has_less_than_half_is_drawn_in_another_colour(drawn: list[Figure]) -> None:
    people = {"Ada": (16, 0), "Bo": (7, 0), "Cy": (16, 0), "Di": (8, 0)}
    image = balance_image(people)
    assert image is not None and image.alt.endswith("pictures a person: 7 to 16, median 12.")
    assert rows(image)[0] == ["Bo", "7", "none"], "who has the fewest comes first"
    assert stairs(drawn[0]) == [[7, 8, 16, 16]], "7 is more than half of 12"
    balance_image({**people, "Ed": (5, 0), "Flo": (16, 0), "Gil": (16, 0)})
    assert stairs(drawn[1]) == [[8, 16, 16, 16, 16], [5, 7]]
    assert balance_image({}) is None and balance_image({"Ada": (0, 0)}) is None


def test_a_long_list_of_people_is_cut_and_counted(drawn: list[Figure]) -> None:
    image = balance_image({f"P{number}": (number + 1, 20) for number in range(50)})
    assert len(rows(image)) == 20 and image is not None and image.numbers is not None
    assert "30 more" in image.numbers.notes[0] and len(drawn[0].axes) == 2


def test_figures_are_painted_in_both_themes(monkeypatch: pytest.MonkeyPatch) -> None:
    themes: list[Theme] = []
    bars = data_figures._bars
    monkeypatch.setattr(data_figures, "_bars", lambda *of: (themes.append(of[4]), bars(*of))[1])
    image = people_image(PEOPLE)
    assert image is not None and image.light.startswith(b"\x89PNG") and image.light != image.dark
    assert {theme.name for theme in themes} == {"light", "dark"}
