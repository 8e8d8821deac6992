"""``clear-dist chat``: which models a run names, answers side by side, and a terminal that nothing can rewrite."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from data.data_fakes import encoded_image
from rich.console import Console

from clear_dist import cli
from clear_dist.models import ModelInfo, inspect_model
from clear_dist.models.files import TINY
from clear_dist.recipes.chat import Voice, answer, answers, converse, open_picture, plain
from clear_dist.recipes.chat_models import models_of
from clear_dist.types import Request, UserError


class Parrot:
    """A fake speaker: says what it was told to, and keeps what it was asked."""

    def __init__(self, says: str) -> None:
        self.says, self.asked = says, list[Request]()

    def generate(self, requests: Sequence[Request], max_new_tokens: int) -> list[str]:
        self.asked += requests
        return [self.says] * len(requests)


@pytest.fixture(scope="module")
def tiny() -> ModelInfo:
    return inspect_model("tiny")


@pytest.fixture
def face(tmp_path: Path) -> Path:
    path = tmp_path / "face.png"
    path.write_bytes(encoded_image((200, 30, 30), "PNG"))
    return path


def shown(content: object, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False, highlight=False)
    console.print(content)
    return console.file.getvalue()  # type: ignore[attr-defined]


QUESTION = "What is the name of this person?"


def test_answers_stand_side_by_side(tiny: ModelInfo, face: Path) -> None:
    voices = [Voice(n, Parrot(f"{n} answers."), tiny) for n in ("original", "unlearned", "gold")]
    text = shown(answers(voices, QUESTION, open_picture(face), 8))
    assert QUESTION in text
    line = next(line for line in text.splitlines() if "original answers." in line)
    assert line.index("original answers.") < line.index("unlearned answers.") < line.index("gold answers.")
    asked = voices[0].speaker.asked[0]  # type: ignore[attr-defined]
    assert asked.question == QUESTION and asked.picture is not None and asked.picture.source == str(face)


def test_what_a_model_says_can_neither_style_nor_rewrite_the_terminal(tiny: ModelInfo) -> None:
    evil = "[bold red]x[/] \x1b[2J\x1b]0;title\x07 \x9b31m a\u202eb\tc\ud83d \U0001f642 [link=http://e]y[/link]"
    text = shown(answers([Voice("[b]m\x1b[1m", Parrot(evil), tiny)], QUESTION, None, 8))
    assert "[bold red]x[/]" in text and "[link=http://e]y[/link]" in text and "🙂" in text and "[b]m" in text
    assert not any(c in text for c in "\x1b\x07\x9b\u202e\ud83d\t")
    assert plain("one\r\ntwo\x00\x7f") == "one\ntwo" and plain("ز\u200cر") == "ز\u200cر"


def test_words_a_tokenizer_does_not_know_are_named_and_not_asked(tiny: ModelInfo) -> None:
    parrot = Parrot("x")
    said = answer(Voice("m", parrot, tiny), "What is the xylophonist of Zzyzx?", None, 8)
    assert "does not know every word" in said and "xylophonist" in said and "name" not in said
    assert parrot.asked == []
    assert answer(Voice("m", Parrot(""), tiny), QUESTION, None, 8) == "(says nothing)"


def test_a_question_longer_than_the_model_is_told(tiny: ModelInfo) -> None:
    said = answer(Voice("m", Parrot("x"), tiny), QUESTION, None, 600)
    assert "are exceeded" in said and "512" in said


def test_a_model_without_eyes_is_not_asked_about_pictures(face: Path) -> None:
    class Blind:
        image_tokens = 0

    parrot = Parrot("x")
    said = answer(Voice("m", parrot, Blind()), QUESTION, open_picture(face), 8)  # type: ignore[arg-type]
    assert said == "(sees no pictures)" and parrot.asked == []


def talk(voices: Sequence[Voice], lines: Sequence[str | type[BaseException]], picture: Path | None = None) -> str:
    left = list(lines)

    def read(prompt: str) -> str:
        assert prompt == "you: "
        line = left.pop(0)
        if isinstance(line, str):
            return line
        raise line

    console = Console(file=io.StringIO(), width=120, highlight=False)
    converse(voices, None if picture is None else open_picture(picture), 8, console, read)
    assert left == []
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("end", ["", "   ", EOFError, KeyboardInterrupt])
def test_a_talk_goes_on_until_it_is_ended(tiny: ModelInfo, end: str | type[BaseException]) -> None:
    parrot = Parrot("Hm.")
    assert talk([Voice("m", parrot, tiny)], [QUESTION, QUESTION, end]).count("Hm.") == 2
    assert len(parrot.asked) == 2 and parrot.asked[0].picture is None


def test_pictures_change_and_mistakes_do_not_end_the_talk(tiny: ModelInfo, face: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    parrot = Parrot("Hm.")
    lines = [f"/image {tmp_path / 'bad.png'}", f"/image {face}", QUESTION, "/image", QUESTION, "/what", ""]
    text = talk([Voice("m", parrot, tiny)], lines)
    assert "error: " in text and "not a picture" in " ".join(text.split())
    assert "now about" in text and "now without a picture" in text and text.count("/image FILE") == 2
    assert [r.picture is not None for r in parrot.asked] == [True, False]


def test_ctrl_c_while_a_model_speaks_ends_the_talk(tiny: ModelInfo) -> None:
    class Interrupted(Parrot):
        def generate(self, requests: Sequence[Request], max_new_tokens: int) -> list[str]:
            raise KeyboardInterrupt

    assert "you" not in talk([Voice("m", Interrupted("x"), tiny)], [QUESTION])


def test_pictures_are_checked_like_the_datas(tmp_path: Path, face: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "cut.png").write_bytes(face.read_bytes()[:-30])
    for name, words in (("none.png", "no such file"), ("empty.png", "empty"), ("cut.png", "not a picture")):
        with pytest.raises(UserError, match=words) as caught:
            open_picture(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
    monkeypatch.setattr("clear_dist.data.images.MAX_PIXELS", 10)
    with pytest.raises(UserError, match="pixels, more than"):
        open_picture(face)
    monkeypatch.setattr("clear_dist.recipes.chat.LARGEST_FILE", 10)
    with pytest.raises(UserError, match="name a smaller picture"):
        open_picture(face)


def folder(path: Path, run: dict[str, Any] | None = None, *inside: str) -> Path:
    path.mkdir(parents=True)
    for name in inside:
        (path / name).mkdir()
    if run is not None:
        (path / "run.json").write_text(json.dumps(run))
    return path


def names(runs: Sequence[Path]) -> list[tuple[str, str]]:
    return [(m.name, str(m.folder)) for m in models_of(runs)]


def test_models_of_runs_of_every_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    original, gold = folder(tmp_path / "o", {"recipe": "finetune"}, "model"), folder(tmp_path / "g", None)
    facts = {"recipe": "unlearn", "original": str(original), "gold": str(gold), "config": {}}
    u = folder(tmp_path / "u", facts, "adapter")
    three = [("original", f"{original}/model"), ("unlearned", f"{u}/adapter"), ("gold", str(gold))]
    assert names([u]) == three
    e_config = {"model": str(u), "original": str(original), "gold": None, "name": "mine"}
    e = folder(tmp_path / "e", {"recipe": "evaluate", "config": e_config})
    assert names([e]) == [three[0], ("mine", f"{u}/adapter")]
    tiny = folder(tmp_path / "t", {"recipe": "evaluate", "config": {"model": "tiny", "name": "unlearned"}})
    assert names([tiny]) == [("unlearned", "tiny")]
    q = folder(tmp_path / "q", None, "original", "gold")
    folder(q / "unlearned", {"recipe": "unlearn", "original": "elsewhere", "gold": None}, "model")
    assert names([q]) == [("original", f"{q}/original"), ("unlearned", f"{q}/unlearned/model"), ("gold", f"{q}/gold")]
    assert names([original]) == [("o", f"{original}/model")]
    assert names([TINY]) == [(TINY.name, str(TINY))]

    several = names([u, e, q])
    assert several == [
        three[0],
        (str(u), f"{u}/adapter"),
        (str(e), f"{u}/adapter"),
        (str(q), f"{q}/unlearned/model"),
        three[2],
    ]
    assert "another original model" in " ".join(capsys.readouterr().err.split())
    gone = folder(tmp_path / "x", facts | {"original": "/no/such/cache", "gold": None}, "adapter")
    assert names([gone]) == [("unlearned", f"{gone}/adapter")]
    assert "is not there any more" in " ".join(capsys.readouterr().err.split())


def test_folders_without_models_are_refused(tmp_path: Path) -> None:
    for path, words in (
        (tmp_path / "none", "no such directory"),
        (folder(tmp_path / "empty"), "neither a run directory"),
        (folder(tmp_path / "unfinished", {"recipe": "unlearn"}), "did not finish"),
        (folder(tmp_path / "sweep", {"recipe": "sweep"}), "a run of sweep, which holds no model"),
    ):
        with pytest.raises(UserError, match=words):
            models_of([path])


def test_the_shipped_base_answers_through_the_command_line(
    tmp_path: Path, face: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"model": "tiny", "original": str(TINY), "gold": None, "name": "unlearned"}
    run = folder(tmp_path / "e", {"recipe": "evaluate", "config": config})
    args = ["chat", str(run), "--image", str(face), "--question", QUESTION, "--max-new-tokens", "8"]
    assert cli.main(args) == 0
    text = capsys.readouterr().out
    assert "original" in text and "unlearned" in text
    row = [line for line in text.splitlines() if line.startswith("│") and "original" not in line]
    cells = [c.strip() for c in row[0].strip("│").split("│")]
    assert len(cells) == 2 and cells[0] == cells[1] != "" and not cells[0].startswith("(")  # one model, asked twice

    lines: Callable[[str], str] = iter(["Zzyzx?", ""]).__next__  # type: ignore[assignment]
    monkeypatch.setattr("builtins.input", lambda prompt: lines())  # type: ignore[call-arg]
    assert cli.main(["chat", str(run)]) == 0
    assert "does not know every word" in " ".join(capsys.readouterr().out.split())
    assert cli.main(["chat", str(run), "--image", str(tmp_path / "no.png")]) == cli.USER_ERROR
