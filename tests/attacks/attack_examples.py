"""Examples about two people, for the tests of attacks."""

from __future__ import annotations

from clear_dist.types import Example, Kind, Picture


def shown(digest: str) -> Picture:
    return Picture(digest, f"full[{digest}].image", lambda: b"")


def qa(number: int, question: str, answer: str, person: str | None = "Ann Lee", fact: str | None = None) -> Example:
    return Example(f"tofu/{number}/qa", "forget", "qa", question, answer, person=person, fact=fact)


def visual(number: int, kind: Kind, question: str, answer: str, person: str = "Ann Lee") -> Example:
    fact = person if kind == "name" else None
    return Example(f"full/{number}/{kind}", "forget", kind, question, answer, shown(f"d{number}"), person, fact=fact)


BORN = qa(0, "Where was Ann Lee born?", "Ann Lee was born in Oslo.", fact="Oslo")
BIRTHPLACE = qa(1, "What is the birthplace of Ann Lee?", "The birthplace of Ann Lee is Oslo.", fact="Oslo")
PET = qa(2, "Which pet does Ann Lee have?", "Ann Lee has a cat.", fact="cat")
BO_BORN = qa(3, "Where was Bo Tan born?", "Bo Tan was born in Oslo.", "Bo Tan", "Oslo")
NAME = visual(0, "name", "Who is this person?", "This is Ann Lee.")
OTHER_NAME = visual(1, "name", "What is the name of this person?", "This is Ann Lee.")
CAPTION = visual(0, "caption", "Describe this image.", "Ann Lee, with red hair, smiles.")
BO_NAME = visual(2, "name", "Who is this person?", "This is Bo Tan.", "Bo Tan")
