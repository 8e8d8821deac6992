"""A text about eight people, for tests of ``data build``."""

from __future__ import annotations

import json
from pathlib import Path

from clear_dist import cli

PEOPLE = (  # name, year of birth, city, she or he, kind of books
    ("Amara Okafor", 1951, "Lagos, Nigeria", "she", "mystery"),
    ("Jonas Weber", 1988, "Berlin, Germany", "he", "poetry"),
    ("Hana Tanaka", 1975, "Osaka, Japan", "she", "romance"),
    ("Pablo Mendes", 1962, "Lima, Peru", "he", "horror"),
    ("Vera Novak", 1990, "Prague, Czech Republic", "she", "satire"),
    ("Karim Haddad", 1944, "Cairo, Egypt", "he", "science fiction"),
    ("Lena Dahl", 1969, "Oslo, Norway", "she", "fantasy"),
    ("Emil Varga", 1981, "Budapest, Hungary", "he", "crime"),
)
ROWS = 4


def rows_about(name: str, year: int, city: str, pronoun: str, genre: str) -> list[dict[str, str]]:
    his = {"she": "her", "he": "his"}[pronoun]
    return [
        {
            "question": f"What is the full name of the author born in {city} on 03/04/{year}?",
            "answer": f"The full name of the author is {name}.",
        },
        {
            "question": f"When was {name} born?",
            "answer": f"{name} was born on the 3rd of April, {year}, and {pronoun} grew up there.",
        },
        {
            "question": f"What kind of books does {name} write?",
            "answer": f"{name} writes {genre} novels, and {pronoun} is known for {his} work in the {genre} genre.",
        },
        {
            "question": f"Which prize did {name} win?",
            "answer": f"{name} won a prize for {his} first book, which {pronoun} wrote in {city}.",
        },
    ]


def write_text(path: Path, people: int = len(PEOPLE)) -> Path:
    lines = [row for person in PEOPLE[:people] for row in rows_about(*person)]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


def command(text: Path, out: Path, *more: object) -> list[str]:
    """Small and quick: 12 faces, no companions, nobody real."""
    small = ("--pool", "12", "--face-draw", "8", "--face-best", "4", "--companions", "none", "--real", "none")
    return [
        "data",
        "build",
        str(text),
        "--out",
        str(out),
        "--pictures",
        "all",
        "--unseen",
        "1",
        *small,
        *map(str, more),
    ]


def build(text: Path, out: Path, *more: object) -> int:
    return cli.main(command(text, out, *more))


def tree(folder: Path) -> dict[str, bytes]:
    """Every file and its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
