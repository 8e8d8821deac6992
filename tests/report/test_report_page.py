"""The page and the Markdown of a made-up run: whole, partial, hostile."""

import base64
import hashlib
import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from page_reader import Page
from synthetic_run import NAMES, make_run

from clear_dist.metrics.record import read_records
from clear_dist.report.build import report
from clear_dist.report.run import read_run, read_steps
from clear_dist.types import UserError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "quickstart", forget=0.0, retain=1.0)


def _copy(run: Path, to: Path, *, without: tuple[str, ...] = ()) -> Path:
    for path in run.rglob("*"):
        name = str(path.relative_to(run))
        if path.is_file() and not any(name.startswith(w) for w in without):
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            (to / name).write_bytes(path.read_bytes())
    return to


@pytest.fixture(scope="module")
def made(run: Path) -> tuple[Path, Path]:
    """The whole report, painted, beside the run."""
    return report(run, run.parent / "page")


def test_whole_run(run: Path, made: tuple[Path, Path]) -> None:
    html_path, text_path = made
    assert (html_path, text_path) == (run.parent / "page" / "index.html", run.parent / "page" / "report.md")
    page, text = Page(html_path.read_text()), text_path.read_text()

    assert "Forgotten, and the rest is kept." in page.text and "**Forgotten, and the rest is kept.**" in text
    assert "4 people to forget, 6 to keep" in " ".join(page.text.split())
    pictures = [a for tag, a in page.tags if tag == "img"]
    assert all(a["alt"] and (a["src"] or "").startswith("data:image/png;base64,") for a in pictures)
    figures = sorted(p.name for p in (html_path.parent / "figures").iterdir())
    assert "models.png" in figures and "truth_ratios.svg" in figures and "training_unlearned.png" in figures
    assert all(f"figures/{p}" in page.text for p in figures if p.endswith(".png"))
    assert any(a["alt"] == "Picture of Mira Okafor, never trained on" for a in pictures)
    assert any("Training of the unlearned model" in (a["alt"] or "") for a in pictures)
    outside = [
        v
        for _, a in page.tags
        for k, v in a.items()
        if k in ("src", "href", "srcset") and not (v or "").startswith(("data:", "#"))
    ]
    assert outside == []
    for shared in ("deepspeed launchers/unlearn.py", "2.13.0", "Absent from this run"):
        assert (shared in page.text) == (shared != "Absent from this run")
    assert "Control: given pictures of other people, the original model names 0%" in page.text
    assert "Few rows (n = 36)" in page.text and "Few rows (n = 36)" in text


@pytest.mark.usefixtures("unpainted")
def test_the_one_script_is_ours_and_the_policy_allows_no_other(run: Path) -> None:
    page = Page(report(run)[0].read_text())
    assert len(page.all("script")) == 1 and not any("src" in a for a in page.all("script"))
    digest = base64.b64encode(hashlib.sha256("".join(page.scripts).encode()).digest()).decode()
    (policy,) = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None and f"script-src 'sha256-{digest}';" in policy and "default-src 'none'" in policy
    assert "unsafe-eval" not in policy and policy.count("unsafe-inline") == 1  # styles only


@pytest.mark.usefixtures("unpainted")
def test_landmarks_headings_tables_and_figures_can_be_read_by_machines(run: Path) -> None:
    page = Page(report(run)[0].read_text())
    assert [len(page.all(tag)) for tag in ("h1", "header", "main", "footer", "nav")] == [1, 1, 1, 1, 1]
    assert page.all("html")[0]["lang"] == "en"
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(set(ids)) == len(ids)
    inside = [(a["href"] or "")[1:] for a in page.all("a") if (a.get("href") or "").startswith("#")]
    assert inside and set(inside) <= set(ids), "every link on the page leads somewhere"
    assert len(page.all("table")) == len(page.all("caption")) > 5
    assert all(a.get("scope") in ("row", "col", "colgroup") for a in page.all("th"))
    boxes = [a for _, a in page.tags if a.get("class") == "scroll"]
    assert len(boxes) >= len(page.all("table"))
    assert all(a["tabindex"] == "0" and a["role"] == "region" and a["aria-label"] for a in boxes)
    labels = [a["aria-labelledby"] for a in page.all("section") if "aria-labelledby" in a]
    assert set(labels) <= set(ids)
    levels = [int(tag[1]) for tag, _ in page.tags if tag in ("h1", "h2", "h3", "h4")]
    assert all(b <= a + 1 for a, b in pairwise(levels)), "no level is skipped"
    copies = page.all("button")
    assert len(copies) == len(page.all("table")) and all(a["data-of"] in ids and "hidden" in a for a in copies)


@pytest.mark.usefixtures("unpainted")
def test_page_and_markdown_tell_the_same_numbers(run: Path) -> None:
    html_path, text_path = report(run)
    models = json.loads((run / "summary.json").read_text())["models"]
    page, text = Page(html_path.read_text()).text, text_path.read_text()
    for model in ("original", "unlearned", "gold"):
        for figures in models[model]["sets"]["retain"].values():
            for figure in filter(None, figures.values()):
                shown = f"{figure['value']:.3f}".removeprefix("0")
                assert shown in page and shown in text


def test_same_run_same_bytes(run: Path, made: tuple[Path, Path]) -> None:
    again = report(run)
    assert again == (run / "index.html", run / "report.md")
    assert [p.read_bytes() for p in again] == [p.read_bytes() for p in made]
    figures = sorted((run / "figures").iterdir())
    assert figures and all(p.read_bytes() == (made[0].parent / "figures" / p.name).read_bytes() for p in figures)


@pytest.mark.usefixtures("unpainted")
@pytest.mark.parametrize(
    ("without", "said"),
    [
        ("records.jsonl", "no sample answers"),
        ("pictures", "without their pictures"),
        ("run.json", "run.json is absent"),
        ("unlearned", None),
    ],
)
def test_partial_runs_say_what_is_absent(run: Path, tmp_path: Path, without: str, said: str | None) -> None:
    folder = _copy(run, tmp_path, without=(without, "figures"))
    html_path, text_path = report(folder)
    page, text = Page(html_path.read_text()).text, text_path.read_text()
    if said is not None:
        assert said in page and said in text.replace("\\", "")
    assert "All numbers" in page
    assert ("picture not stored" in page) == (without == "pictures")
    assert ("What the models say" in page) == (without != "records.jsonl")


@pytest.mark.usefixtures("unpainted")
def test_summary_alone_and_without_gold(run: Path, tmp_path: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    del summary["models"]["gold"]
    for model in summary["models"].values():
        model["forget_quality"] = None
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    html_path, text_path = report(tmp_path)
    page, text = Page(html_path.read_text()).text, text_path.read_text()
    for said in ("Whether they are forgotten was not measured. The rest is kept.", "The gold model was not evaluated"):
        assert said in page and said in text
    assert "Not judged: gold is missing" in " ".join(page.split())
    assert "metrics.jsonl is absent" in page and "How it was made" in page  # seconds are in the summary


@pytest.mark.usefixtures("unpainted")
def test_a_run_of_another_name_is_the_candidate(run: Path, tmp_path: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    summary["models"]["npo, seed 3"] = summary["models"].pop("unlearned")
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert read_run(tmp_path).models == ["original", "npo, seed 3", "gold"]
    assert "Forgotten, and the rest is kept." in report(tmp_path)[0].read_text()


HOSTILE = '<script>alert(1)</script> "><img src=x onerror=alert(2)> | $x$ `b` {{ 7 * 7 }}'
LONG = "Llanfairpwllgwyngyll" * 12


@pytest.mark.usefixtures("unpainted")
def test_names_and_answers_cannot_inject(run: Path, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "<b>run", names=(HOSTILE, f"Ada \u202egnp.exe {LONG}", "名前 مثال", *NAMES[3:]))
    facts = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**facts, "command": HOSTILE, "config": {HOSTILE: HOSTILE}}))
    steps = [{"step": s, "loss": 1.0, "parts": {HOSTILE: 1.0, "nll": 0.5}, "lr": 0.1, "grad_norm": 1.0} for s in (1, 2)]
    (folder / "unlearned" / "metrics.jsonl").write_text("".join(json.dumps(s) + "\n" for s in steps))
    html_path, text_path = report(folder)

    page = Page(html_path.read_text())
    shown = " ".join(page.text.split())
    assert "\u202e" not in html_path.read_text() + text_path.read_text(), "nothing turns the direction of reading"
    assert LONG in shown
    assert HOSTILE in page.text and "49" not in page.text.split("What the models say")[1].split("All numbers")[0]
    assert "alert" not in "".join(page.scripts) and len(page.all("script")) == 1
    assert not any(tag in ("object", "iframe") for tag, _ in page.tags)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "<b>run" not in html_path.read_text().split("</style>")[1]
    csp = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert csp and csp.startswith("default-src 'none'")

    text = text_path.read_text()
    indented = [line for line in text.splitlines() if line.startswith("    ")]  # a code block: nothing is read in it
    rest = "\n".join(line for line in text.splitlines() if not line.startswith("    "))
    assert len(indented) == 1 and "<script" not in rest and "<img" not in rest
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1, table


@pytest.mark.usefixtures("unpainted")
@pytest.mark.parametrize("digest", ["../../secret", "/etc/passwd", "AB" * 32, "", "a" * 63 + "/"])
def test_only_pictures_of_the_run_are_opened(run: Path, digest: str) -> None:
    assert read_run(run).picture(digest) is None


@pytest.mark.usefixtures("unpainted")
def test_files_that_are_no_pictures_are_not_embedded(run: Path, tmp_path: Path) -> None:
    folder = _copy(run, tmp_path)
    digest = next((folder / "pictures").iterdir()).stem
    assert read_run(folder).picture(digest)
    for content in (b"<svg onload='alert(1)'/>", b"", b"\x89PNG\r\n\x1a\n" + b"0" * 3_000_000):
        (folder / "pictures" / f"{digest}.png").write_bytes(content)
        assert read_run(folder).picture(digest) is None


@pytest.mark.usefixtures("unpainted")
@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("summary.json", "{", "summary.json: not JSON"),
        ("summary.json", "[]", "expected a JSON object"),
        ("summary.json", '{"v": 2, "models": {"m": {"sets": {}}}}', "evaluate again"),
        ("summary.json", '{"v": 1, "models": {}}', "at least one model"),
        ("summary.json", '{"v": 1, "models": {"m": {}}}', "'sets'"),
        ("summary.json", '{"v": 1, "models": {"m": {"sets": {"forget": {"all": {"rouge_l": {"value": 1}}}}}}}', '"ci"'),
        ("summary.json", '{"v": 1, "models": {"m": {"sets": {}, "real_metric": NaN}}}', "NaN is not a number JSON"),
        ("summary.json", '{"v": 1, "models": {"m": {"sets": {}, "real_metric": 1e999}}}', "1e999 is not a number"),
        ("run.json", "nonsense", "run.json: not JSON"),
        ("metrics.jsonl", '{"step": 1, "loss": 2.0}\n{"step": 2, "lo', "metrics.jsonl:2: .*half-written"),
        ("records.jsonl", '{"v": 1}\n', "records.jsonl:1: field 'model'"),
        ("records.jsonl", '{"v": 1\n{"v": 1}\n', "records.jsonl:1: not a JSON object"),
    ],
)
def test_broken_files_are_named(run: Path, tmp_path: Path, name: str, content: str, said: str) -> None:
    folder = _copy(run, tmp_path, without=("index", "report", "original", "unlearned"))
    (folder / name).write_text(content)
    with pytest.raises(UserError, match=said):
        report(folder)


@pytest.mark.usefixtures("unpainted")
def test_no_summary_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="clear-dist evaluate"):
        report(tmp_path)


@pytest.mark.usefixtures("unpainted")
def test_resumed_steps_count_once_and_evaluations_are_skipped(tmp_path: Path) -> None:
    lines = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}, {"step": 2, "eval": {}}, {"step": 2, "loss": 2.5}]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [row["loss"] for row in read_steps(path)] == [3.0, 2.5]


@pytest.mark.usefixtures("unpainted")
def test_a_half_written_last_record_is_left_out_and_said(run: Path, tmp_path: Path) -> None:
    folder = _copy(run, tmp_path)
    text = (folder / "records.jsonl").read_text()
    lines = text.splitlines()
    (folder / "records.jsonl").write_text(text.rstrip("\n")[:-40])
    page = Page(report(folder)[0].read_text())
    assert f"The last line of records.jsonl (line {len(lines)}) is half-written" in " ".join(page.text.split())
    assert len(read_run(folder).records) == len(lines) - 1
    with pytest.raises(UserError, match="half-written"):
        read_records(folder / "records.jsonl")  # whoever averages refuses


@pytest.mark.usefixtures("unpainted")
def test_quickstarts_directory_has_its_run_inside(run: Path, tmp_path: Path) -> None:
    _copy(run, tmp_path / "unlearned")
    (tmp_path / "summary.json").write_bytes((run / "summary.json").read_bytes())
    read = read_run(tmp_path)
    assert read.records and read.facts["recipe"] == "unlearn" and read.pictures == tmp_path / "unlearned" / "pictures"


@pytest.mark.usefixtures("unpainted")
def test_out_leaves_the_run_alone(run: Path, tmp_path: Path) -> None:
    folder = _copy(run, tmp_path / "run", without=("figures", "index.html", "report.md"))
    html, _ = report(folder, tmp_path / "page")
    assert html == tmp_path / "page" / "index.html" and (tmp_path / "page" / "figures").is_dir()
    assert not (folder / "index.html").exists() and not (folder / "figures").exists()
