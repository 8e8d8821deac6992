"""The page and the Markdown of a made-up run: whole, partial, hostile."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from synthetic_run import NAMES, make_run

from clear_dist.report.build import report
from clear_dist.report.run import read_run, read_steps
from clear_dist.types import UserError

VOID = {"meta", "link", "img", "source", "br"}


class Page(HTMLParser):
    """Tags, attributes and visible text; fails on tags that do not close in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


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


def test_whole_run(run: Path) -> None:
    html_path, text_path = report(run)
    assert (html_path, text_path) == (run / "index.html", run / "report.md")
    page, text = Page(html_path.read_text()), text_path.read_text()

    assert "Forgotten, and the rest is kept." in page.text and "**Forgotten, and the rest is kept.**" in text
    assert "4 people to forget, 6 to keep" in " ".join(page.text.split())
    pictures = [a for tag, a in page.tags if tag == "img"]
    assert all(a["alt"] and (a["src"] or "").startswith("data:image/png;base64,") for a in pictures)
    assert any(a["alt"] == "Picture of Mira Okafor, never trained on" for a in pictures)
    assert any("Training of the unlearned model" in (a["alt"] or "") for a in pictures)
    assert not any(tag == "script" for tag, _ in page.tags)
    outside = [
        v
        for _, a in page.tags
        for k, v in a.items()
        if k in ("src", "href", "srcset") and not (v or "").startswith("data:")
    ]
    assert outside == []
    for shared in ("deepspeed launchers/unlearn.py", "2.13.0", "Absent from this run"):
        assert (shared in page.text) == (shared != "Absent from this run")
    assert "Control: given pictures of other people, the original model names 0%" in page.text
    assert "Few rows (n = 36)" in page.text and "Few rows (n = 36)" in text


def test_page_and_markdown_tell_the_same_numbers(run: Path) -> None:
    html_path, text_path = report(run)
    models = json.loads((run / "summary.json").read_text())["models"]
    page, text = Page(html_path.read_text()).text, text_path.read_text()
    for model in ("original", "unlearned", "gold"):
        for figures in models[model]["sets"]["retain"].values():
            for figure in filter(None, figures.values()):
                shown = f"{figure['value']:.3f}".removeprefix("0")
                assert shown in page and shown in text


def test_same_run_same_bytes(run: Path) -> None:
    first = [p.read_bytes() for p in report(run)]
    assert [p.read_bytes() for p in report(run)] == first


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
    folder = _copy(run, tmp_path, without=(without,))
    html_path, text_path = report(folder)
    page, text = Page(html_path.read_text()).text, text_path.read_text()
    if said is not None:
        assert said in page and said in text.replace("\\", "")
    assert "All numbers" in page
    assert ("picture not stored" in page) == (without == "pictures")
    assert ("What the models say" in page) == (without != "records.jsonl")


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


def test_a_run_of_another_name_is_the_candidate(run: Path, tmp_path: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    summary["models"]["npo, seed 3"] = summary["models"].pop("unlearned")
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert read_run(tmp_path).models == ["original", "npo, seed 3", "gold"]
    assert "Forgotten, and the rest is kept." in report(tmp_path)[0].read_text()


HOSTILE = '<script>alert(1)</script> "><img src=x onerror=alert(2)> | $x$ `b` {{ 7 * 7 }}'


def test_names_and_answers_cannot_inject(run: Path, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "<b>run", names=(HOSTILE, *NAMES[1:]))
    facts = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**facts, "command": HOSTILE, "config": {HOSTILE: HOSTILE}}))
    steps = [{"step": s, "loss": 1.0, "parts": {HOSTILE: 1.0, "nll": 0.5}, "lr": 0.1, "grad_norm": 1.0} for s in (1, 2)]
    (folder / "unlearned" / "metrics.jsonl").write_text("".join(json.dumps(s) + "\n" for s in steps))
    html_path, text_path = report(folder)

    page = Page(html_path.read_text())
    assert HOSTILE in page.text and "49" not in page.text.split("What the models say")[1].split("All numbers")[0]
    assert not any(tag in ("script", "b", "object", "iframe") and (tag != "b" or "on" in a) for tag, a in page.tags)
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


@pytest.mark.parametrize("digest", ["../../secret", "/etc/passwd", "AB" * 32, "", "a" * 63 + "/"])
def test_only_pictures_of_the_run_are_opened(run: Path, digest: str) -> None:
    assert read_run(run).picture(digest) is None


def test_files_that_are_no_pictures_are_not_embedded(run: Path, tmp_path: Path) -> None:
    folder = _copy(run, tmp_path)
    digest = next((folder / "pictures").iterdir()).stem
    assert read_run(folder).picture(digest)
    for content in (b"<svg onload='alert(1)'/>", b"", b"\x89PNG\r\n\x1a\n" + b"0" * 3_000_000):
        (folder / "pictures" / f"{digest}.png").write_bytes(content)
        assert read_run(folder).picture(digest) is None


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("summary.json", "{", "summary.json: not JSON"),
        ("summary.json", "[]", "expected a JSON object"),
        ("summary.json", '{"v": 2, "models": {"m": {"sets": {}}}}', "evaluate again"),
        ("summary.json", '{"v": 1, "models": {}}', "at least one model"),
        ("summary.json", '{"v": 1, "models": {"m": {}}}', "'sets'"),
        ("summary.json", '{"v": 1, "models": {"m": {"sets": {"forget": {"all": {"rouge_l": {"value": 1}}}}}}}', '"ci"'),
        ("run.json", "nonsense", "run.json: not JSON"),
        ("metrics.jsonl", '{"step": 1, "loss": 2.0}\n{"step": 2, "lo', "metrics.jsonl:2: .*half-written"),
        ("records.jsonl", '{"v": 1}\n', "records.jsonl:1: field 'model'"),
    ],
)
def test_broken_files_are_named(run: Path, tmp_path: Path, name: str, content: str, said: str) -> None:
    folder = _copy(run, tmp_path, without=("index", "report", "original", "unlearned"))
    (folder / name).write_text(content)
    with pytest.raises(UserError, match=said):
        report(folder)


def test_no_summary_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="clear-dist evaluate"):
        report(tmp_path)


def test_resumed_steps_count_once_and_evaluations_are_skipped(tmp_path: Path) -> None:
    lines = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}, {"step": 2, "eval": {}}, {"step": 2, "loss": 2.5}]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [row["loss"] for row in read_steps(path)] == [3.0, 2.5]
