"""Visible attributes in an answer: which does it state, and are they there?

For pictures whose attributes are known (``Example.attributes``: name -> value, CLEAR-mini's names and words). An
answer is cut into words; every noun of the table ("shirt", "hair", "skin") is looked for, with the words that say
something of it: those before it, back to where its noun phrase begins ("a light blue shirt"), or after it where a verb
or a colon follows ("the hair is short", "hair: grey"). Negation is handled ("no hat", "without glasses or a hat",
"not bald").

    right: attributes stated as they are
    wrong: statements that the picture contradicts: another colour, a hat where there is none, "no glasses" where
        there are some
    possible: attributes that are there to be stated (values "no" and "none" are not)

    precision = right / (right + wrong)     recall = right / possible     F1 = their harmonic mean

A true denial ("no hat") is neither right nor wrong: otherwise denying things would pay. wrong / (right + wrong) is
CHAIR's rate (arXiv 1809.02156) on attributes. An attribute that the table does not know counts as right where its
value stands in the answer, and is never wrong: its other values are unknown. The rules and the table are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from clear_dist.metrics.leak import words as words_of

_ABSENT: Final = frozenset({"", "no", "none", "false", "absent"})


def _table(text: str) -> dict[str, str]:
    """(value: synonym synonym; value: ...) -> word -> value; every value is its own synonym."""
    out: dict[str, str] = {}
    for entry in text.split(";"):
        value, _, synonyms = entry.partition(":")
        out |= dict.fromkeys([value.strip(), *synonyms.split()], value.strip())
    return out


_COLOURS: Final = _table(
    "red: crimson scarlet maroon; green: lime; blue: navy; yellow; purple: violet lilac; orange; white; black; pink; "
    "grey: gray silver; teal: turquoise; brown: beige"
)


@dataclass(frozen=True)
class _Thing:
    """A noun with values. attribute: the one it belongs to; nouns: its names; values: word -> value."""

    attribute: str
    nouns: frozenset[str]
    values: Mapping[str, str]


def _thing(attribute: str, nouns: str, values: Mapping[str, str]) -> _Thing:
    return _Thing(attribute, frozenset(nouns.split()), values)


THINGS: Final = (
    _thing("shirt", "shirt shirts tshirt top blouse sweater jumper pullover sweatshirt hoodie polo tee", _COLOURS),
    _thing("wall", "wall walls background backdrop", _COLOURS),
    _thing("eyes", "eye eyes eyed", _COLOURS),
    _thing(
        "skin",
        "skin skinned complexion",
        _table("pale: fair ivory; light; tan: tanned olive bronze; brown; dark: black ebony"),
    ),
    _thing("face", "face faced", _table("round: rounded circular; long: elongated oblong; square: angular boxy")),
    _thing(
        "hair_style",
        "hair haired haircut",
        _table("short: cropped; long; curly: curled wavy; spiky: spiked; bobbed: bob; braided: braids plaited"),
    ),
    _thing(
        "hair_colour",
        "hair haired haircut",
        _COLOURS | _table("blond: blonde golden; red: ginger auburn; brown: brunette chestnut; grey: silver"),
    ),
)
# Nouns that state an attribute by themselves: word -> (attribute, value).
NOUNS: Final[dict[str, tuple[str, str]]] = {
    **dict.fromkeys(("beard", "beards", "bearded", "goatee"), ("facial_hair", "beard")),
    **dict.fromkeys(("moustache", "mustache", "moustaches", "mustaches"), ("facial_hair", "moustache")),
    **dict.fromkeys(("glasses", "spectacles", "eyeglasses", "sunglasses"), ("glasses", "yes")),
    **dict.fromkeys(("hat", "hats", "cap", "beanie", "fedora", "beret"), ("hat", "yes")),
    **dict.fromkeys(("bald", "hairless"), ("hair_style", "bald")),
    **dict.fromkeys(("braids", "plaits"), ("hair_style", "braided")),
    **dict.fromkeys(("curls",), ("hair_style", "curly")),
    **dict.fromkeys(("blond", "blonde"), ("hair_colour", "blond")),
    **dict.fromkeys(("brunette",), ("hair_colour", "brown")),
    **dict.fromkeys(("redhead", "redhaired"), ("hair_colour", "red")),
}
_HEADS: Final = frozenset(NOUNS) | {noun for thing in THINGS for noun in thing.nouns}
_ADJECTIVES: Final = frozenset(word for thing in THINGS for word in thing.values)
_DENIALS: Final = frozenset({"no", "not", "without", "never", "neither", "nor", "lacks", "lacking", "none", "cannot"})
_LINKS: Final = frozenset({"is", "are", "was", "were", "looks", "appears", "seems"})
# Words at which the phrase of a noun begins: nothing before them belongs to it.
_EDGES: Final = (
    frozenset(
        """
        a an the his her their its he she they it with has have had having wears wear wearing wore in of by from on at
        against before behind beside near under over to who which that whose person man woman someone stands
        standing but while tone shape colour color
        """.split()
    )
    | _LINKS
    | _DENIALS
)
_SHADES: Final = frozenset({"dark", "light", "pale", "bright", "very", "quite", "rather"})  # before a value
# Words that a denial reaches across: "does not wear any glasses or a hat".
_DENIED: Final = frozenset(
    """
    a an any the wear wears wearing have has having show shows visible see seen or nor and of his her their facial
    """.split()
)


@dataclass(frozen=True)
class Claim:
    """One statement of an answer: ``attribute`` is ``value``, or is not (``denied``)."""

    attribute: str
    value: str
    denied: bool = False


@dataclass(frozen=True)
class VisibleScore:
    """Counts of one answer; they add up over answers. Rates are None where nothing was stated or can be."""

    right: int
    wrong: int
    possible: int

    def __add__(self, other: VisibleScore) -> VisibleScore:
        return VisibleScore(self.right + other.right, self.wrong + other.wrong, self.possible + other.possible)

    @property
    def precision(self) -> float | None:
        stated = self.right + self.wrong
        return self.right / stated if stated else None

    @property
    def recall(self) -> float | None:
        return self.right / self.possible if self.possible else None

    @property
    def f1(self) -> float | None:
        """2 right / (2 right + wrong + missed); 0 where nothing right was stated, None where nothing can be."""
        total = self.right + self.wrong + self.possible
        return 2 * self.right / total if self.possible else None


def mentioned(text: str, attributes: Mapping[str, str]) -> VisibleScore:
    """Which of a picture's attributes an answer states, rightly and wrongly."""
    truth = {name: value.casefold().strip() for name, value in attributes.items()}
    possible = {name for name, value in truth.items() if value not in _ABSENT}
    right: set[str] = set()
    wrong: set[Claim] = set()
    for claim in claims(text):
        if claim.attribute not in truth:
            continue
        same = _same(claim.value, truth[claim.attribute])
        if claim.denied == same:
            wrong.add(claim)
        elif same:
            right.add(claim.attribute)
    said = f" {' '.join(word.text for word in words_of(text))} "
    known = {thing.attribute for thing in THINGS} | {attribute for attribute, _ in NOUNS.values()}
    for name in possible - known:
        value = " ".join(word.text for word in words_of(truth[name]))
        if value and f" {value} " in said:
            right.add(name)
    return VisibleScore(len(right & possible), len(wrong), len(possible))


def claims(text: str) -> list[Claim]:
    """What an answer states of the attributes the table knows, each statement once, in order."""
    tokens = _tokens(text)
    found: dict[Claim, None] = {}
    for i, token in enumerate(tokens):
        if token in NOUNS and not (token in _ADJECTIVES and _describes(tokens, i)):
            listed = tokens[i + 1 : i + 2] == [":"] and bool(_DENIALS & set(tokens[i + 2 : i + 3]))  # "hat: no"
            found[Claim(*NOUNS[token], denied=_is_denied(tokens, i) or listed)] = None
        if token == "shaven" and i and tokens[i - 1] == "clean":
            for value in ("beard", "moustache"):
                found[Claim("facial_hair", value, denied=not _is_denied(tokens, i - 1))] = None
        things = [thing for thing in THINGS if token in thing.nouns]
        if not things:
            continue
        if token == "hair" and i and tokens[i - 1] == "facial":
            if _is_denied(tokens, i):
                found |= dict.fromkeys(Claim("facial_hair", value, denied=True) for value in ("beard", "moustache"))
            continue
        before, denied = _before(tokens, i, things), _is_denied(tokens, i)
        if token == "hair" and denied and not before:
            found[Claim("hair_style", "bald")] = None
        after, after_denied = _after(tokens, i, things)
        for thing in things:
            found |= dict.fromkeys(Claim(thing.attribute, thing.values[w], denied) for w in before if w in thing.values)
            found |= dict.fromkeys(
                Claim(thing.attribute, thing.values[w], after_denied) for w in after if w in thing.values
            )
    return list(found)


def _same(value: str, truth: str) -> bool:
    return value == truth or (value == "yes" and truth not in _ABSENT and truth in ("true", "present"))


def _tokens(text: str) -> list[str]:
    """Folded words; ",", ":" and "." at a pause, a colon or an end; "n't" becomes "not", "&" becomes "and"."""
    out: list[str] = []
    end = 0
    for word in words_of(text):
        gap = text[end : word.start]
        if any(sign in gap for sign in ".;!?\n()"):
            out.append(".")
        elif ":" in gap:
            out.append(":")
        elif "," in gap:
            out.append(",")
        elif "&" in gap:
            out.append("and")
        if word.text == "t" and out and out[-1].endswith("n") and gap in ("'", "’"):
            out[-1] = out[-1][:-1]
            out.append("not")
        elif word.text == "shirt" and out and out[-1] == "t":
            out[-1] = "tshirt"
        else:
            out.append(word.text)
        end = word.end
    return out


def _before(tokens: list[str], i: int, things: list[_Thing]) -> list[str]:
    """The words before a noun that belong to its phrase."""
    values = {word for thing in things for word in thing.values}
    out: list[str] = []
    for j in range(i - 1, -1, -1):
        token = tokens[j]
        if token in _EDGES or token in (".", ":") or (token in _HEADS and token not in values):
            break
        if token in (",", "and") and (j == 0 or tokens[j - 1] not in values):
            break  # "glasses and short hair" begins a phrase, "short and grey hair" goes on with one
        out.append(token)
    return _without_shades(out[::-1], things)


def _after(tokens: list[str], i: int, things: list[_Thing]) -> tuple[list[str], bool]:
    """The words after "is" and the like that say something of a noun, and whether they deny it."""
    j = i + 1
    while j < len(tokens) and tokens[j] in ("tone", "shape", "colour", "color", "style"):
        j += 1
    if j >= len(tokens) or (tokens[j] not in _LINKS and tokens[j] != ":"):
        return [], False
    values = {word for thing in things for word in thing.values}
    out: list[str] = []
    denied = False
    for k in range(j + 1, len(tokens)):
        token = tokens[k]
        if token in _DENIALS and not out:
            denied = True
        elif token in (",", "and"):
            if next((t for t in tokens[k + 1 :] if t not in _SHADES), "") not in values:
                break
        elif token in (".", ":", "but", "with", "in", "by") or token in _LINKS or token in _HEADS - values:
            break
        else:
            out.append(token)
    return _without_shades(out, things), denied


def _without_shades(phrase: list[str], things: list[_Thing]) -> list[str]:
    """A phrase without "dark", "light" and the like where they only shade the colour that follows."""
    colours = {word for thing in things if thing.attribute != "skin" for word in thing.values}
    return [
        word
        for k, word in enumerate(phrase)
        if not (word in _SHADES and k + 1 < len(phrase) and phrase[k + 1] in colours)
    ]


def _describes(tokens: list[str], i: int) -> bool:
    """Whether a word stands as an adjective before a noun of the table ("blond hair"), which then speaks for it."""
    for token in tokens[i + 1 :]:
        if token in _HEADS and token not in _ADJECTIVES:
            return True
        if token not in _ADJECTIVES and token != "and":
            return False
    return False


def _is_denied(tokens: list[str], i: int) -> bool:
    """Whether a denial before the word reaches it: across articles, verbs of wearing, adjectives, and other nouns
    joined by "or". Across "and" only "without" reaches; a comma ends it."""
    joined = crossed_and = False
    for token in reversed(tokens[:i]):
        if token in _DENIALS:
            return not crossed_and or token == "without"
        crossed_and |= token == "and"
        joined |= token in ("or", "nor", "and")
        if token not in _DENIED and token not in _ADJECTIVES and not (token in _HEADS and joined):
            return False
    return False
