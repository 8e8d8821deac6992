"""The page, the Markdown and the LaTeX of a made-up attack on a farm: whole, partial, hostile."""

import json
import re
from pathlib import Path

import pytest
from page_reader import Page
from synthetic_farm import ROWS, Known, make_farm

from clear_dist.config import ReportConfig
from clear_dist.recipes.report import run as report_recipe
from clear_dist.report.build import is_several, report, report_runs
from clear_dist.report.farm import farm_report
from clear_dist.report.farm_facts import in_short, setting
from clear_dist.types import UserError

HOSTILE = "<script>alert(1)</script> | `x` {{ 7*7 }} \\input{y}\n# head \u202egnp \"'> &"


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_farm(tmp_path_factory.mktemp("farm") / "attack")


@pytest.fixture(scope="module")
def made(farm: Path) -> tuple[Path, Path]:
    """The whole report, painted, beside the attack."""
    return report(farm, farm.parent / "page")


def _words(page: Path) -> str:
    return " ".join(Page(page.read_text()).text.split())


def test_whole_attack(farm: Path, made: tuple[Path, Path]) -> None:
    html_path, text_path = made
    assert (html_path, text_path) == (farm.parent / "page" / "index.html", farm.parent / "page" / "report.md")
    page, text = Page(html_path.read_text()), text_path.read_text()
    shown = " ".join(page.text.split())
    assert "1 of 8 methods leaves no trace that U-LIRA finds, and keeps the rest." in shown
    assert "**1 of 8 methods leaves no trace that U-LIRA finds, and keeps the rest.**" in text
    assert "U-LIRA .71 [.66, .75]: forgotten people can be told from people never seen" in shown
    assert "unlearn/sparsity/063" in shown and "unlearn/sparsity/063" in text

    figures = html_path.parent / "figures"
    assert sorted(p.name for p in figures.iterdir()) == sorted(
        f"{name}.{kind}" for name in ("attack_accuracy", "roc", "logits", "epochs") for kind in ("png", "svg")
    )
    assert all((figures / f"{name}.png").read_bytes().startswith(b"\x89PNG") for name in ("roc", "epochs"))
    assert all("![" in text and f"figures/{name}.png" in text for name in ("attack_accuracy", "logits"))
    images = page.all("img")
    assert len(images) == 4 and all(len(a["alt"] or "") > 60 for a in images)
    assert "twins .52 [.47, .56]" in (images[0]["alt"] or "")
    outside = [
        v for _, a in page.tags for k, v in a.items()
        if k in ("src", "href", "srcset") and not (v or "").startswith(("data:", "#"))
    ]  # fmt: skip
    assert outside == []
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids)), "no id twice"
    assert all((a["href"] or "#")[1:] in {*ids, ""} for a in page.all("a")), "every link leads somewhere"


def test_page_and_markdown_hold_the_same_tables(made: tuple[Path, Path]) -> None:
    page, text = Page(made[0].read_text()), made[1].read_text()
    titles = [" ".join(t.split()) for t in re.findall(r"<caption><span>(.*?)</span>", made[0].read_text())]
    assert len(titles) == 9  # six tables, and the numbers behind three figures
    assert all(re.search(rf"^####? {re.escape(title)}$", text, re.M) for title in titles)
    assert page.text.count("LaTeX of this table") == len(titles)


def test_table_2_stands_beside_the_published_one(made: tuple[Path, Path]) -> None:
    source = (made[0].parent / "table2.tex").read_text()
    assert source.count("tabular") == 2 and "run" not in source.split(r"\midrule")[0].split(r"\toprule")[1]
    gold = next(line for line in source.splitlines() if "Gold &" in line)
    assert gold.count("&") == 10 and "15.43 & 15.04 & 97.52 & 0.50 & 0.50 & 16.0" in gold
    assert "(13.0 to 19.0)" in gold and ".500 {\\scriptsize (.455 to .545)}" in gold
    assert "only the shape of a table compares" in source and "the shape of the table compares" in _words(made[0])


@pytest.mark.usefixtures("unpainted")
def test_the_same_files_give_the_same_bytes(farm: Path, tmp_path: Path) -> None:
    one, two = (farm_report(farm, tmp_path / name) for name in "ab")
    assert one[0].read_bytes() == two[0].read_bytes() and one[1].read_bytes() == two[1].read_bytes()


@pytest.mark.usefixtures("unpainted")
def test_the_report_command_takes_an_attack(farm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not is_several([farm]) and is_several([farm, make_farm(tmp_path / "other", ROWS[:3])])
    report_recipe(ReportConfig(runs=(farm,), out=tmp_path / "page"))
    assert "Attack on a farm of vision models" in _words(tmp_path / "page" / "index.html")
    farm_report(tmp_path / "other")
    assert (tmp_path / "other" / "index.html").is_file() and (tmp_path / "other" / "attack.json").is_file()
    several = report_runs([farm, tmp_path / "other"], tmp_path / "several")[0]
    assert "2 farms of vision models" in _words(several)
    links = [a["href"] for a in Page(several.read_text()).all("a") if not (a["href"] or "").startswith("#")]
    assert links == ["../other/index.html"], "only that one has a page of its own"


@pytest.mark.usefixtures("unpainted")
def test_what_is_absent_is_said(farm: Path, tmp_path: Path) -> None:
    (tmp_path / "attack.json").write_bytes((farm / "attack.json").read_bytes())
    page, text = farm_report(tmp_path)
    shown = _words(page)
    for said in ("curves.json is absent", "examples.csv is absent", "run.json is absent"):
        assert said in shown and said in text.read_text()
    assert "How it was made" not in shown and "Who is exposed" not in shown and "Epoch by epoch" not in shown
    assert "Leaderboard" in shown and "Accuracy of U-LIRA by its estimate of variances" in shown
    assert [p.name for p in sorted((tmp_path / "figures").iterdir())] == ["attack_accuracy.png", "attack_accuracy.svg"]


@pytest.mark.usefixtures("unpainted")
def test_rows_without_figures_are_gaps_and_never_zero(tmp_path: Path) -> None:
    rows = {"v": 1, "original": {"u_lira": {"accuracy": {"value": 0.9}}}, "npo": {"u_lira": None, "retain_acc": 0.9}}
    (tmp_path / "attack.json").write_text(json.dumps(rows))
    shown = _words(farm_report(tmp_path)[0])
    assert "The attack has no interval on the original: nothing can be concluded." in shown
    assert "There is no row for gold" in shown and "U-LIRA .90 (no interval)" in shown
    assert "U-LIRA was not measured. Whether the rest is kept is not known." in shown
    assert ".000" not in shown and "nan" not in shown.lower()


def test_without_attack_json_there_is_no_report(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"attack\.json: cannot be read"):
        farm_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("unpainted")
def test_names_from_data_cannot_inject(tmp_path: Path) -> None:
    rows = (*ROWS[:3], Known(HOSTILE, 1.0, 0.5, 0.9))
    folder = make_farm(tmp_path / "hostile", rows, people=(HOSTILE, "plain"), pictures=3, command=f"x {HOSTILE}")
    html, markdown = farm_report(folder)
    page = Page(html.read_text())
    assert len(page.all("script")) == 1 and not any(k.startswith("on") for _, a in page.tags for k in a)
    assert "\u202e" not in html.read_text() + markdown.read_text() + (folder / "table2.tex").read_text()
    assert (
        "<script>alert(1)</script>" in page.text and "{{ 7*7 }}" in page.text and "49" not in page.text.split("{{")[0]
    )
    text = markdown.read_text()
    text = "\n".join(line for line in text.splitlines() if not line.startswith("    "))  # the command, as it was typed
    assert "<script" not in text and not re.search(r"^# head", text, re.M)
    source = (folder / "table2.tex").read_text()
    assert "\\input" not in source and "\\textbackslash{}input" in source
    pipes = re.compile(r"(?<!\\)\|")
    for table in re.split(r"\n\n", text):
        lines = [line for line in table.splitlines() if line.startswith("|")]
        assert len({len(pipes.findall(line)) for line in lines}) <= 1, "a name cannot add a column"


def _facts(folder: Path, **more: object) -> None:
    path = folder / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))


@pytest.mark.usefixtures("unpainted")
def test_missing_tasks_and_the_papers_enrolment_are_said(tmp_path: Path) -> None:
    folder = make_farm(tmp_path / "a", ROWS[:4])
    (folder / "curves.json").unlink()  # figures take most of the time
    assert "as in the paper" not in _words(farm_report(folder)[0]).lower()
    _facts(folder, incomplete=[f"gold/{i:03d}" for i in range(40)], enrolment="paper",
           skipped={"npo": "2 models, 4 needed"})  # fmt: skip
    shown = _words(farm_report(folder)[0])
    assert "40 tasks of the farm are not done: gold/000, gold/001" in shown and "gold/011 and 28 more." in shown
    assert "gold/012" not in shown and "As in the paper, the pictures a person is enrolled with are attacked" in shown
    assert "npo is left out: 2 models, 4 needed" in shown and "did not come to its end" not in shown
    _facts(folder, incomplete=[], skipped={}, finished=False)
    shown = _words(farm_report(folder)[0])
    assert "not done" not in shown and "left out:" not in shown and "did not come to its end" in shown


def test_how_it_was_made_in_short(farm: Path) -> None:
    facts = json.loads((farm / "run.json").read_text())
    assert dict(in_short(facts).rows) == {
        "Pictures from": "data/faces.zip", "Side of a picture, pixels": "64", "Shadow models": "128",
        "People to forget": "20", "People held out": "20", "Design": "fixed_block", "Enrolment pictures a person": "5",
        "Network": "ResNet-18", "Enrolment": "held_out", "Pictures under attack": "100", "Estimate of variances": "std",
        "Folds": "5", "Bootstrap draws": "1000", "Models of a row that forgot": "63 to 64",
        "Models that never saw them": "64",
    }  # fmt: skip
    assert in_short({}).rows == in_short({"settings": 3, "models": {"a": 1}}).rows == ()


def test_settings_are_found_wherever_they_stand() -> None:
    assert setting({"config": {"enrolment": None}, "settings": {"enrolment": "paper"}}, "enrolment") == "paper"
    assert setting({"enrolment": "held_out", "settings": {"enrolment": "paper"}}, "enrolment") == "held_out"
    assert setting({"config": "?"}, "enrolment") is None
