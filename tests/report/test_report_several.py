"""The page of several runs: whole, with seeds, with other data, with what is missing; and `clear-dist compare`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from page_reader import Page
from run_files import GOLD, ORIGINAL, block, records, write
from synthetic_runs import Method, make_runs

from clear_dist import cli
from clear_dist.report.build import report_runs

METHODS = (
    Method("npo", 0.0, 1.0),
    Method("ga", 0.0, 0.05),
    Method("retain_ft", 0.9, 1.0),
    Method("npo", 0.6, 1.0, l1=0.01, folder="npo-l1"),
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_runs(tmp_path_factory.mktemp("several"), METHODS)


@pytest.fixture(scope="module")
def out(folders: list[Path]) -> Path:
    out = folders[0].parent / "report"
    report_runs(folders, out)
    return out


def test_the_whole_page(out: Path) -> None:
    page, text = Page((out / "index.html").read_text()), (out / "report.md").read_text()
    shown = " ".join(page.text.split())
    for said in (
        "1 of 4 forgot and kept the rest.", "Leaderboard: text and pictures", "Table 1 of CLEAR: text only",
        "Table 2 of CLEAR: vision", "Table 3 of CLEAR", "Table 4 of CLEAR", "only the shape of a table compares",
        "Tables 3 and 4 of the paper disagree", "Careful: the Forget metric mixes", "80% of the original",
        "Does it come back?", "Membership: can the people", "Is the picture looked at?", "What is said instead",
        "Recovery under attack", "Loss of each run", "Truth ratios on the people",
    ):  # fmt: skip
        assert said in shown, said
        assert said.replace("*", "") in " ".join(text.replace("\\", "").split()), said
    assert "keeps" in shown and "not ranked" in shown, "ga loses retain"
    assert "Table 1" in shown and "no run" in shown
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    links = [a["href"] or "" for a in page.all("a")]
    assert "#run-npo" in links and {link[1:] for link in links if link.startswith("#")} <= set(ids)
    figures = {p.name for p in (out / "figures").iterdir()}
    stems = {"front_both", "labels_stacked", "relearning", "truth_ratios", "losses"}
    assert figures == {f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")}
    assert len((out / "index.html").read_bytes()) < 8_000_000


def test_original_and_gold_stand_once(out: Path) -> None:
    text = (out / "report.md").read_text()
    board = text.split("### Text and pictures\n\n")[1].split("\n\n")[0]
    names = [line.split(" | ")[0].removeprefix("| ").replace("\\", "") for line in board.splitlines()[2:]]
    assert names.count("original") == names.count("gold") == 1
    assert [n.split(" (")[0] for n in names] == [*sorted(names[:-3], key=names.index), "ga", "original", "gold"]


def test_answers_of_all_runs_stand_side_by_side_with_labels(out: Path) -> None:
    page = Page((out / "index.html").read_text())
    answers = page.text.split("What the models say")[2].split("Beside the CLEAR paper")[0]
    for name in ("original", "npo", "ga", "retain_ft", "npo-l1", "gold", "leaked", "informative"):
        assert name in answers
    assert any((a["alt"] or "").startswith("Picture of Mira Okafor") for a in page.all("img"))


def test_same_runs_same_bytes(folders: list[Path], out: Path, tmp_path: Path) -> None:
    again = folders[0].parent / "report2"  # as deep as the first: links are relative
    report_runs(folders, again)
    for name in ("index.html", "report.md", "figures/front_both.svg", "figures/losses.png"):
        assert (again / name).read_bytes() == (out / name).read_bytes(), name


@pytest.mark.usefixtures("unpainted")
def test_a_runs_own_page_is_linked_where_it_is(tmp_path: Path) -> None:
    folders = [write(tmp_path / "a b"), write(tmp_path / "c")]
    (folders[0] / "index.html").write_text("")
    report_runs(folders, tmp_path / "out")
    links = [a["href"] for a in Page((tmp_path / "out" / "index.html").read_text()).all("a")]
    assert "../a%20b/index.html" in links and not any("c/index" in (link or "") for link in links)


@pytest.mark.usefixtures("unpainted")
def test_other_data_is_shown_apart_and_said(tmp_path: Path) -> None:
    folders = [write(tmp_path / "a"), write(tmp_path / "b"), write(tmp_path / "far", digest="x")]
    html, markdown = report_runs(folders, tmp_path / "out")
    shown = " ".join(Page(html.read_text()).text.split())
    assert "Records of different data, or not known to be of the same: far." in shown
    assert "far (other data)" in shown and "records of different data" in markdown.read_text()
    assert "far" not in shown.split("Truth ratios on the people")[1].split("The runs")[0], "in no figure, in no table"


@pytest.mark.usefixtures("unpainted")
def test_missing_gold_and_half_written_records_are_said(tmp_path: Path) -> None:
    rows = [*records("original"), *records("unlearned")]
    folder = write(tmp_path / "a", {"original": ORIGINAL, "unlearned": block()}, rows=rows)
    with (folder / "records.jsonl").open("a") as file:
        file.write('{"v":1,"model":"unlea')
    other = write(tmp_path / "b", {"original": ORIGINAL, "unlearned": block()}, rows=rows)
    shown = " ".join(Page(report_runs([folder, other], tmp_path / "out")[0].read_text()).text.split())
    assert "No gold model beside a, b: whether it was forgotten cannot be judged there." in shown
    assert "a: the last line of records.jsonl is half-written" in shown
    assert "2 could not be judged" in shown and "there is no gold model" in shown


@pytest.mark.usefixtures("unpainted")
def test_a_farm_alone_and_beside_runs(tmp_path: Path) -> None:
    farm = tmp_path / "farm"
    farm.mkdir()
    share = {"retain_acc": 0.9, "forget_acc": 0.4, "holdout_acc": None, "u_lira": {"accuracy": {"value": 0.6}}}
    (farm / "attack.json").write_text(json.dumps({"original": {**share, "retain_acc": 1.0}, "scrub": share}))
    shown = " ".join(Page(report_runs([farm], tmp_path / "one")[0].read_text()).text.split())
    assert "Vision: farm" in shown and "1 farm of vision models" in shown and "90.0" in shown
    both = " ".join(Page(report_runs([farm, write(tmp_path / "a")], tmp_path / "two")[0].read_text()).text.split())
    assert "Leaderboard: vision" in both and "Leaderboard: text and pictures" in both


HOSTILE = "<script>alert(1)<_script> \"'> & {{ 7*7 }} | `x` \\input{y} \u202egnp"


@pytest.mark.usefixtures("unpainted")
def test_names_of_runs_and_attacks_cannot_inject(tmp_path: Path) -> None:
    model = block(
        robustness={HOSTILE + "@1": {"forget": {"all": {"name_accuracy": {"value": 0.5, "ci": [0, 1], "n": 2}}}}}
    )
    model["aftermath"] = {"labels": {"leaked": {"value": 1.0, "ci": [0, 1], "n": 2}}}
    models = {"original": ORIGINAL, "unlearned": model, "gold": GOLD}
    folders = [write(tmp_path / HOSTILE, models, config={"method": HOSTILE}), write(tmp_path / ("long" * 50))]
    html, markdown = report_runs(folders, tmp_path / "out")
    page = Page(html.read_text())
    assert len(page.all("script")) == 1 and not any(k.startswith("on") for _, a in page.tags for k in a)
    assert HOSTILE.replace("\u202e", "\ufffd") in page.text and "\u202e" not in html.read_text()
    assert "<script" not in markdown.read_text()
    sources = [part.split("\\end{table}")[0] for part in page.text.split("\\begin{table}")[1:]]
    assert any("\\textbackslash{}input\\{y\\}" in source for source in sources)
    assert not any("\\input" in source for source in sources)


def _run(args: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    status = cli.main(args)
    printed = capsys.readouterr()
    return status, printed.out, printed.err


@pytest.mark.usefixtures("unpainted")
def test_report_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = str(write(tmp_path / "a")), str(write(tmp_path / "b"))
    assert _run(["report", a], capsys)[0] == 0 and (tmp_path / "a" / "index.html").is_file()
    status, _, error = _run(["report", a, b], capsys)
    assert status == 2 and error.startswith("error: --out: expected a directory for the page of several runs")
    assert _run(["report", a, b, "--out", str(tmp_path / "o")], capsys)[0] == 0
    assert (tmp_path / "o" / "index.html").is_file()
    (tmp_path / "s" / "runs").mkdir(parents=True)
    for name in ("x", "y"):
        write(tmp_path / "s" / "runs" / name)
    (tmp_path / "s" / "sweep.json").write_text(json.dumps([{"run": n, "summary": {}} for n in ("x", "y")]))
    assert _run(["report", str(tmp_path / "s")], capsys)[0] == 0
    assert "2 of them" in (tmp_path / "s" / "index.html").read_text(), "a sweep's page lies in its directory"
    assert _run(["report", str(tmp_path / "none")], capsys)[0] == 2


def test_compare_ranks_marks_and_shows_anchors_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    best = {"original": ORIGINAL, "unlearned": block(0.2), "gold": GOLD}
    folders = [str(write(tmp_path / n, m)) for n, m in (("a", None), ("best", best))]
    lost = {"original": ORIGINAL, "unlearned": block(0.1, 0.2), "gold": GOLD}
    folders += [str(write(tmp_path / "lost", lost)), str(write(tmp_path / "far", digest="x", seconds=7.4))]
    status, out, _ = _run(["compare", *folders], capsys)
    assert status == 0
    lines = [line for line in out.splitlines() if line.startswith("│")]
    first = [line.split("│")[1].strip() for line in lines]
    assert first == ["original", "best", "a", "lost", "keeps 22% of Retain", "far", "records of different data", "gold"]
    assert [line.split("│")[2].strip() for line in lines] == ["", "1", "2", "", "", "", "", ""]
    assert (
        "12" in lines[1]
        and "-" in lines[0]
        and "Records of different data stand in no ranking." in " ".join(out.split())
    )


def test_compare_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(write(tmp_path / "[red]a")), str(write(tmp_path / "far", digest="x"))]
    status, out, _ = _run(["compare", *folders, "--json"], capsys)
    found = json.loads(out)
    assert status == 0 and found["v"] == 1
    rows = {row["name"]: row for row in found["rows"]}
    assert list(rows) == ["original", "[red]a", "far", "gold"]
    assert (rows["[red]a"]["rank"], rows["far"]["rank"]) == (1, None)
    assert rows["far"]["not_ranked"] == "records of different data"
    assert rows["[red]a"]["forget"] == {"value": 0.4, "ci": [pytest.approx(0.3), 0.5], "n": 40}
    assert rows["[red]a"]["ln_p"] is None and rows["[red]a"]["leaked"] is None and rows["[red]a"]["seconds"] == 12.0
    assert rows["original"]["run"] is None and rows["original"]["role"] == "original"
    assert "[red]a" in _run(["compare", folders[0]], capsys)[1], "no markup in names"


@pytest.mark.parametrize(
    ("content", "said"),
    [('{"v": 1, "models": {"m": {"sets": NaN}}}', "NaN is not a number"), ("{", "not JSON"), (None, "no summary.json")],
)
def test_compare_refuses_what_is_broken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, said: str
) -> None:
    folder = write(tmp_path / "a")
    (folder / "summary.json").unlink()
    if content is not None:
        (folder / "summary.json").write_text(content)
    for command in ("compare", "report"):
        status, _, error = _run([command, str(folder)], capsys)
        assert status == 2 and said in error and error.count("\n") == 1


def test_compare_needs_an_unlearned_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, error = _run(["compare", str(write(tmp_path / "a", {"original": ORIGINAL}))], capsys)
    assert status == 2 and "no unlearned model was evaluated there" in error


def test_compare_names_modalities_where_there_are_several(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [write(tmp_path / "a"), write(tmp_path / "t", config={"modality": "text"}, digest="e")]
    _, out, _ = _run(["compare", *map(str, folders)], capsys)
    assert "Text only" in out and "Text and pictures" in out and out.count("original") >= 2
