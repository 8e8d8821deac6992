"""Rows become questions and answers: for training, for evaluation, and with "I don't know" answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from data_fakes import picture

from clear_dist.data.conversations import choice, evaluation, idk_examples, training, with_paraphrases
from clear_dist.data.prompts import CAPTION_QUESTIONS, DESCRIBE_QUESTIONS, IDK_ANSWERS, NAME_QUESTIONS
from clear_dist.data.rows import ChoiceRow, PictureInfo, Row, TextRow, VisualRow
from clear_dist.types import UserError

INFO = PictureInfo(False, {"hair": "red"}, "A red-haired person.", (("What hair?", "red"), ("A hat?", "no")))


def visual(
    number: int, person: str = "Ada Berg", *, seen: bool = True, info: PictureInfo | None = INFO, **more: object
) -> VisualRow:
    return VisualRow(f"full/{number}", person, picture(number), f"{person} {number}.", info=info, seen=seen, **more)  # pyright: ignore[reportArgumentType]


def text(number: int, person: str = "Ada Berg", **more: object) -> TextRow:
    return TextRow(f"full+tofu/{number}", person, f"Question {number}?", "Answer.", **more)  # pyright: ignore[reportArgumentType]


def test_a_picture_gives_caption_name_description_and_attributes() -> None:
    made = training([visual(0)], "forget")
    assert [(e.id, e.kind) for e in made] == [
        ("full/0/caption", "caption"),
        ("full/0/name", "name"),
        ("full/0/describe", "describe"),
        ("full/0/attribute0", "attribute"),
        ("full/0/attribute1", "attribute"),
    ]
    caption, name, describe, hair, hat = made
    assert (caption.question in CAPTION_QUESTIONS, caption.answer, caption.fact) == (True, "Ada Berg 0.", None)
    assert (name.question in NAME_QUESTIONS, name.answer, name.fact) == (True, "This is Ada Berg.", "Ada Berg")
    assert (describe.question in DESCRIBE_QUESTIONS, describe.answer, describe.fact) == (True, INFO.description, None)
    assert [(e.question, e.answer, e.fact) for e in (hair, hat)] == [
        ("What hair?", "red", "red"),
        ("A hat?", "no", "no"),
    ]
    assert all(e.attributes == {"hair": "red"} and e.person == "Ada Berg" and e.set == "forget" for e in made)


def test_unseen_pictures_are_not_trained_on() -> None:
    rows: list[Row] = [visual(0), visual(1, seen=False), text(2, fact="Answer")]
    made = training(rows, "retain")
    assert {e.id.rpartition("/")[0] for e in made} == {"full/0", "full+tofu/2"}
    assert made[-1].fact == "Answer"


def test_the_question_belongs_to_the_row() -> None:
    asked = {training([visual(i)], "forget")[0].question for i in range(6)}
    assert asked == set(CAPTION_QUESTIONS)


def test_forget_is_measured_on_every_row_seen_and_unseen() -> None:
    rows: list[Row] = [visual(0), visual(1, seen=False), text(2, paraphrase="P.", perturbed=("W.",))]
    made = {e.id: e for e in evaluation(rows, "forget", ["Ada Berg", "Bo Costa"], 0)}
    assert [i for i in made if i.startswith("full/0")] == ["full/0/caption", "full/0/name"]
    assert {i for i, e in made.items() if not e.seen} == {
        f"full/1/{k}" for k in ("caption", "name", "describe", "attribute0", "attribute1")
    }
    assert made["full/0/name"].perturbed == ("This is Bo Costa.",)
    assert (made["full+tofu/2/qa"].paraphrase, made["full+tofu/2/qa"].perturbed) == ("P.", ("W.",))


def test_without_unseen_pictures_attributes_are_asked_of_two_a_person() -> None:
    rows = [
        visual(i, person)
        for person in ("Ada Berg", "Bo Costa")
        for i in (range(4) if person == "Ada Berg" else range(4, 8))
    ]
    asked = {e.id for e in evaluation(rows, "forget", [], 0) if e.kind == "describe"}
    assert asked == {f"full/{i}/describe" for i in (0, 1, 4, 5)}


def test_wrong_names_are_the_datasets_or_drawn_from_the_others() -> None:
    people = [f"Person {i}" for i in range(20)]
    given = evaluation([visual(0, wrong_names=("Zed",))], "forget", people, 0)[1]
    assert given.perturbed == ("This is Zed.",)

    def drawn(seed: int) -> tuple[str, ...]:
        return evaluation([visual(0, people[3])], "forget", people, seed)[1].perturbed

    assert drawn(0) == drawn(0) != drawn(1)
    assert len(set(drawn(0))) == 5
    assert "This is Person 3." not in drawn(0)


def test_retain_is_measured_on_rows_with_companions_and_unseen_pictures() -> None:
    rows: list[Row] = [visual(0, perturbed=("W",)), visual(1), visual(2, seen=False), text(3), text(4, paraphrase="P")]
    assert {e.id.rpartition("/")[0] for e in evaluation(rows, "retain", [], 0)} == {"full/0", "full/2", "full+tofu/4"}


def test_retain_without_companions_is_sampled_evenly() -> None:
    rows: list[Row] = [text(i) for i in range(1000)]
    made = [int(e.id.split("/")[1]) for e in evaluation(rows, "retain", [], 0)]
    assert len(made) == 400
    assert made[:3] == [0, 2, 5]
    assert made[-1] == 997
    assert len(evaluation(rows[:30], "retain", [], 0)) == 30


def test_choices_ask_who_it_is_or_their_own_question() -> None:
    face = choice(ChoiceRow("real_faces/0", "real_faces", "Ann", ("Ann", "Bob"), picture=picture(0)))
    assert (face.question in NAME_QUESTIONS, face.person, face.fact, face.options) == (
        True,
        "Ann",
        "Ann",
        ("Ann", "Bob"),
    )
    world = choice(ChoiceRow("real_world/0", "real_world", "Here", ("Here", "There"), "Where?"))
    assert (world.id, world.kind, world.question, world.person) == ("real_world/0/choice", "choice", "Where?", None)


def test_idk_answers_belong_to_the_example_and_the_seed(tmp_path: Path) -> None:
    forget = training([visual(i, paraphrase="P") for i in range(30)], "forget")
    made = idk_examples(forget, seed=1)
    assert [(e.id, e.question, e.picture) for e in made] == [(e.id, e.question, e.picture) for e in forget]
    assert {e.answer for e in made} == set(IDK_ANSWERS)
    assert all(e.fact is None and e.paraphrase is None for e in made)
    assert idk_examples(forget[::-1], seed=1) == made[::-1], "an answer does not depend on the other examples"
    assert idk_examples(forget, seed=2) != made
    file = tmp_path / "idk.txt"
    file.write_text("Who knows.\n\n  I cannot say. \n")
    assert {e.answer for e in idk_examples(forget, file)} == {"Who knows.", "I cannot say."}
    file.write_text("\n")
    with pytest.raises(UserError, match="there is none"):
        idk_examples(forget, file)
    with pytest.raises(UserError, match=r"absent\.txt"):
        idk_examples(forget, tmp_path / "absent.txt")


def test_paraphrases_follow_their_example() -> None:
    made = with_paraphrases(training([text(0, paraphrase="In other words."), text(1)], "retain"))
    assert [(e.id, e.answer) for e in made] == [
        ("full+tofu/0/qa", "Answer."),
        ("full+tofu/0/qa/paraphrase", "In other words."),
        ("full+tofu/1/qa", "Answer."),
    ]
