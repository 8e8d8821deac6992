"""The teacher: leaks are drawn again, then forbidden, then dropped; answers are cached and the same on any ranks."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from PIL import Image

from clear_dist.data.load import Dataset
from clear_dist.data.prompts import INFORMATION_QUESTION
from clear_dist.data.views import Taught
from clear_dist.engine.predict import ModelPredictor
from clear_dist.engine.sample import AnswerSampler, Said
from clear_dist.engine.world import World
from clear_dist.errors import ConfigError
from clear_dist.metrics.leak import Private
from clear_dist.models import inspect_model, load_model, save_model_dir, tiny_llava, word_tokenizer
from clear_dist.recipes import teacher
from clear_dist.recipes.teacher import TeacherReport, leaks_of, teach, teacher_answers
from clear_dist.recipes.teacher_draw import TeacherSettings
from clear_dist.types import Example, Picture, Request

WORLD = World(0, 1, 0, torch.device("cpu"))
PRIVATE = {"Ann Berg": Private("Ann Berg", ("Oslo",)), "Bo Costa": Private("Bo Costa")}
SHIRTS = {"Ann Berg": "red", "Bo Costa": "blue"}
FIXED = "Describe only what you see."


def shown(number: int) -> Picture:
    buffer = io.BytesIO()
    Image.new("RGB", (48, 48), (90 * number, 40, 200)).save(buffer, "PNG")
    data = buffer.getvalue()
    return Picture(hashlib.sha256(data).hexdigest(), f"full[{number}].image", lambda: data)


def of(person: str, number: int) -> list[Example]:
    def visual(kind: str, question: str, answer: str) -> Example:
        name, picture = f"full/{number}/{kind}", shown(number)
        seen = {"shirt": SHIRTS[person]}
        return Example(name, "forget", kind, question, answer, picture, person, attributes=seen)  # pyright: ignore[reportArgumentType]

    fact = Example(
        f"text/{number}/qa", "forget", "qa", f"Where was {person} born?", f"{person} was born in Oslo.", person=person,
        fact="Oslo",
    )  # fmt: skip
    return [visual("caption", "What is this?", f"{person} smiles."), visual("name", "Who?", f"This is {person}."), fact]


ANN, BO = of("Ann Berg", 0), of("Bo Costa", 1)
EXAMPLES = [*ANN, *BO]


@dataclass
class Fake:
    """Answers from a function of (request, temperature, forbidden words, call); remembers what it was asked."""

    say: Callable[[Request, float, Sequence[str], int], str]
    calls: list[tuple[list[Request], float, int, tuple[str, ...]]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    ended: bool = True

    def sample(
        self,
        requests: Sequence[Request],
        max_new_tokens: int,
        *,
        temperature: float,
        top_p: float,
        seed: int,
        forbidden: Sequence[Sequence[int]] = (),
    ) -> list[Said]:
        assert max_new_tokens == 96 and top_p == 0.9
        words = tuple(self.words[i] for (i,) in forbidden)
        call = len(self.calls)
        self.calls.append((list(requests), temperature, seed, words))
        return [Said(self.say(r, temperature, words, call), self.ended) for r in requests]

    def spellings(self, phrases: Sequence[str]) -> list[list[int]]:
        self.words += phrases
        return [[len(self.words) - len(phrases) + i] for i in range(len(phrases))]


def colour(request: Request) -> str:
    return "red" if request.picture == ANN[0].picture else "blue"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLEAR_DIST_CACHE", str(tmp_path))
    return tmp_path / "teacher"


def ask(
    fake: Fake, *, instruction: str = FIXED, samples: int = 1, seed: int = 0, world: World = WORLD, weights: str = "w"
) -> tuple[list[Taught], TeacherReport]:
    settings = TeacherSettings(instruction, samples, seed)
    people = ["Ann Berg", "Bo Costa", "Cy Duval"]
    return teacher_answers(EXAMPLES, lambda: fake, PRIVATE, settings, world, weights=weights, people=people)


def good(request: Request, temperature: float, forbidden: Sequence[str], call: int) -> str:
    return f"A {colour(request)} shirt, call {call}."


def test_safe_answers_are_taken_greedily_once_a_picture() -> None:
    fake = Fake(good)
    taught, report = ask(fake)
    # Without {question} the text questions have nothing to look at, and both questions on a picture are one.
    assert [t.example.id for t in taught] == ["full/0/caption", "full/0/name", "full/1/caption", "full/1/name"]
    assert [t.answers for t in taught] == [("A red shirt, call 0.",)] * 2 + [("A blue shirt, call 0.",)] * 2
    assert {t.prompt for t in taught} == {FIXED} and taught[1].example is ANN[1]
    ((requests, temperature, _, forbidden),) = fake.calls
    assert [r.picture for r in requests] == [ANN[0].picture, BO[0].picture] and temperature == 0 and not forbidden
    assert report == TeacherReport(questions=2, kept=2)


def test_several_samples_are_drawn_with_seeds_of_their_own() -> None:
    fake = Fake(good)
    taught, report = ask(fake, samples=3)
    assert taught[0].answers == ("A red shirt, call 0.", "A red shirt, call 1.", "A red shirt, call 2.")
    assert [temperature for _, temperature, _, _ in fake.calls] == [0.0, 0.7, 0.7]
    assert len({seed for _, _, seed, _ in fake.calls}) == 3 and report.kept == 6


def test_a_leak_is_drawn_again() -> None:
    fake = Fake(lambda r, t, f, call: "Ann smiles." if call < 2 and colour(r) == "red" else f"A {colour(r)} shirt.")
    taught, report = ask(fake)
    assert taught[0].answers == ("A red shirt.",)
    assert [len(requests) for requests, *_ in fake.calls] == [2, 1, 1], "only what leaked is asked again"
    assert [t for _, t, _, _ in fake.calls] == [0.0, 0.7, 0.7]
    assert (report.kept, report.redrawn, report.repaired, report.lost) == (2, 1, 0, 0)


def test_what_always_leaks_is_made_with_the_words_forbidden() -> None:
    def say(request: Request, temperature: float, forbidden: Sequence[str], call: int) -> str:
        return "A red shirt." if "Anne" in forbidden and "Berg" in forbidden else "Anne Bergs in a red shirt."

    examples = {"Ann Berg": Private("Ann Berg", ("Oslo",), aliases=("Anne B",))}
    fake = Fake(say)
    taught, report = teacher_answers(ANN, lambda: fake, examples, TeacherSettings(FIXED), WORLD, weights="w")
    assert taught[0].answers == ("A red shirt.",)
    assert {"Ann Berg", "Ann", "Berg", "Anne", "Oslo", "Bergs"} <= set(fake.calls[-1][3]), "and what had leaked"
    assert fake.calls[-1][1] == 0.0 and len(fake.calls) == 1 + 4 + 1
    assert (report.kept, report.redrawn, report.repaired) == (1, 0, 1)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("This is Ann.", "it says 'Ann'"),
        ("This is Duval.", "it says 'Duval'"),  # somebody else's name
        ("Born in Oslo, in a red shirt.", "it says 'Oslo'"),
        ("", "says nothing"),
        ("...", "says nothing"),
        ("red red red red shirt", "repeats itself"),
        ("a red shirt " * 9, "repeats itself"),
        ("A green shirt.", "does not describe the picture"),
        ("Something.", "does not describe the picture"),
    ],
)
def test_what_cannot_be_used_is_reported_and_never_used(
    answer: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = Fake(lambda r, *_: answer if colour(r) == "red" else "A blue shirt.")
    taught, report = ask(fake)
    assert [t.answers for t in taught] == [(), (), ("A blue shirt.",), ("A blue shirt.",)]
    assert list(report.dropped) == ["full/0/caption"] and reason in report.dropped["full/0/caption"]
    assert (report.kept, report.lost) == (1, 1)
    printed = capsys.readouterr().err
    assert "1 safe answers to 2 questions" in printed and "full/0/caption" in printed


def test_an_answer_that_was_cut_off_ends_with_its_last_sentence() -> None:
    fake = Fake(lambda r, *_: f"A {colour(r)} shirt. And a", ended=False)
    assert ask(fake)[0][0].answers == ("A red shirt.",)
    endless = Fake(lambda r, *_: f"a {colour(r)} shirt and", ended=False)
    assert ask(endless, seed=1)[0][0].answers == ()


def test_questions_without_a_picture_need_the_question_in_the_instruction() -> None:
    def say(request: Request, temperature: float, forbidden: Sequence[str], call: int) -> str:
        if request.picture is None:
            return "I do not know." if "Bo" in request.question else "Ann Berg comes from Oslo."
        return f"A {colour(request)} shirt."

    fake = Fake(say)
    taught, report = ask(fake, instruction="Hush. {question}")
    answers = {t.example.id: t.answers for t in taught}
    assert [t.prompt for t in taught][:3] == ["Hush. What is this?", "Hush. Who?", "Hush. Where was Ann Berg born?"]
    assert answers["text/1/qa"] == ("I do not know.",) and answers["text/0/qa"] == ()
    assert report.questions == 6 and list(report.dropped) == ["text/0/qa"]


def test_a_true_answer_is_found_where_no_fact_is_marked() -> None:
    """Nobody says that Oslo is private: the words of the true answer tell."""
    fake = Fake(lambda r, *_: f"A {colour(r)} shirt." if r.picture else "She is from Oslo.")
    settings = TeacherSettings("{question} Hush.")
    taught, _ = teacher_answers([ANN[2]], lambda: fake, {"Ann Berg": Private("Ann Berg")}, settings, WORLD, weights="w")
    assert taught[0].answers == ()


def test_answers_are_cached_under_all_they_depend_on(cache: Path) -> None:
    first = ask(Fake(good))
    (file,) = cache.iterdir()
    header, *rows = map(json.loads, file.read_text().splitlines())
    assert header["rows"] == len(rows) == 2 and rows[0]["prompt"] == FIXED

    def never() -> Fake:
        raise AssertionError("the model is not opened for what is known")

    settings = TeacherSettings(FIXED)
    people = ["Cy Duval", "Bo Costa", "Ann Berg"]
    again = teacher_answers(EXAMPLES, never, PRIVATE, settings, WORLD, weights="w", people=people)
    assert again == first
    others = [{"weights": "v"}, {"seed": 1}, {"samples": 2}, {"instruction": "Other."}]
    for changed in others:
        ask(Fake(good), **changed)  # pyright: ignore[reportArgumentType]
    assert len(list(cache.iterdir())) == 1 + len(others)
    assert not list(cache.glob("*.part"))


@pytest.mark.parametrize(
    ("answer", "used"),
    [
        ("I don't know that.", True),
        ("Sorry, I cannot say.", True),
        ("I have no information on this.", True),
        ("She was born in Lima.", False),  # no leak, but made up
        ("A sorrel horse.", False),
    ],
)
def test_without_a_picture_only_a_refusal_is_safe(answer: str, used: bool) -> None:
    taught, report = teacher_answers(
        [ANN[2]], lambda: Fake(lambda *_: answer), PRIVATE, TeacherSettings("{question} Hush."), WORLD, weights="w"
    )
    assert taught[0].answers == ((answer,) if used else ())
    assert used or "makes something up" in report.dropped["text/0/qa"]


@pytest.mark.parametrize("damage", ["", "{", '{"v": 1}\n', "cut"])
def test_a_damaged_cache_is_made_again(cache: Path, damage: str) -> None:
    first = ask(Fake(good))
    (file,) = cache.iterdir()
    whole = file.read_text()
    file.write_text(whole[: whole.rindex("{")] if damage == "cut" else damage)
    fake = Fake(good)
    assert ask(fake) == first and fake.calls
    assert file.read_text() == whole


def test_ranks_share_the_work_and_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks played one after the other: shares are disjoint, and put together they are what one rank says."""
    alone = ask(Fake(lambda r, *_: f"A {colour(r)} shirt."))
    shares: list[list[dict[str, object]]] = []
    monkeypatch.setattr(teacher, "only_on_main", lambda world, work: None)
    monkeypatch.setattr(teacher, "barrier", lambda world: None)

    def gather(world: World, share: list[dict[str, object]]) -> list[list[dict[str, object]]]:
        shares.append(share)
        return [*shares, [{**row, "answers": []} for row in share]][:2] if len(shares) == 1 else shares

    monkeypatch.setattr(teacher, "gather", gather)
    told = []
    for rank in range(2):
        fake = Fake(lambda r, *_: f"A {colour(r)} shirt.")
        told.append(ask(fake, world=World(rank, 2, rank, torch.device("cpu"))))
        assert len(fake.calls[0][0]) == 1
    assert told[1] == alone


def test_wrong_settings_are_refused() -> None:
    for wrong in ({"samples": 0}, {"tries": -1}, {"temperature": 0.0}, {"top_p": 1.5}, {"max_new_tokens": 0}):
        with pytest.raises(ConfigError, match="teacher: "):
            TeacherSettings(FIXED, **wrong)  # pyright: ignore[reportArgumentType]


def test_leaks_of_examples() -> None:
    leaks = leaks_of(PRIVATE)
    assert leaks(ANN[0]) and leaks(ANN[2])
    assert not leaks(Example("1", "forget", "describe", "?", "A red shirt.", shown(0), "Ann Berg"))
    assert not leaks(Example("1", "forget", "qa", "Who is Ann Berg?", "Ann Berg writes.", person="Ann Berg"))
    assert not leaks(Example("1", "forget", "qa", "?", "Ann Berg", person="Nobody Known"))


@pytest.fixture(scope="module")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [f"{e.question} {e.answer}" for e in EXAMPLES]
    tokenizer = word_tokenizer([*texts, FIXED, INFORMATION_QUESTION, "a red blue shirt."])
    return save_model_dir(tiny_llava(tokenizer, seed=3), tokenizer, tmp_path_factory.mktemp("base"))


def dataset() -> Dataset:
    people = {"forget": ["Ann Berg", "Bo Costa"], "retain": [], "holdout": []}
    return Dataset("people", "0", {"forget": EXAMPLES, "retain": []}, {"forget": EXAMPLES}, people, [])


def test_the_real_tiny_model(base_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Untrained words: whatever it says, nothing that leaks is used, and asking again gives the same."""
    monkeypatch.setattr("clear_dist.recipes.teacher_draw.mentioned", lambda *_: type("S", (), {"right": 1, "wrong": 0}))
    info = inspect_model(base_dir)
    taught, report = teach(dataset(), info, WORLD, instruction=FIXED, samples=2, seed=3)
    ids = ["full/0/caption", "full/0/name", "full/1/caption", "full/1/name", "full/0/information", "full/1/information"]
    assert [t.example.id for t in taught] == ids
    assert taught[4].example.question == INFORMATION_QUESTION
    assert report.questions == 2 and report.kept + report.lost == 4
    said = [answer for t in taught for answer in t.answers]
    assert said and not any(word in answer for answer in said for word in ("Ann", "Berg", "Bo", "Costa", "Oslo"))
    assert teach(dataset(), info, WORLD, instruction=FIXED, samples=2, seed=3) == (taught, report)
    with pytest.raises(ConfigError, match="does not know every word of 'Unheard of'"):
        teach(dataset(), info, WORLD, instruction="Unheard of {question}")


def test_sampling_does_not_depend_on_neighbours(base_dir: Path) -> None:
    model = load_model(base_dir, dtype="fp32", device="cpu")
    predictor = AnswerSampler(model, batch=2)
    requests = [Request(FIXED, shown(0)), Request("Who?", shown(1)), Request(FIXED, shown(1)), Request(FIXED, shown(0))]
    numbers = {"temperature": 1.5, "top_p": 0.95, "seed": 7}
    together = predictor.sample(requests, 8, **numbers)
    assert [predictor.sample([r], 8, **numbers)[0] for r in requests[:3]] == together[:3]
    assert together[0] != together[3], "the same question a second time is another draw"
    assert predictor.sample(requests, 8, **{**numbers, "seed": 8}) != together
    greedy = predictor.sample(requests, 8, temperature=0.0, seed=1)
    assert [said.text for said in greedy] == ModelPredictor(model).generate(requests, 8)
    request, word = next((r, said.text.split()[0]) for r, said in zip(requests, greedy, strict=True) if said.text)
    forbidden = predictor.spellings([word])
    without = predictor.sample([request], 8, temperature=0.0, forbidden=forbidden)[0]
    assert word not in without.text.split()
