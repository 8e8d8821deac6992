"""Whom a row is about: names by frequency, and rows cut into people where the most frequent name changes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from clear_dist.data.build.person import Found, Row
from clear_dist.data.build.regions import places
from clear_dist.types import UserError

_SWITCH: Final = 1.5  # rows that a change of person has to gain
_ALONE: Final = 0.6  # what a row counts that has one word only of a name
_SHARE: Final = 0.3  # of a person's rows, which have to name them
_NEARLY: Final = 0.8  # among phrases as frequent as this share of the most frequent, the longest is the whole name
_MAY_BE_NAMES: Final = frozenset("will may april june august an my do so no".split())  # beside another word of a name
_MOST: Final = 6  # words of a name
_LETTER: Final = r"[^\W\d_]"
_PARTICLE: Final = r"(?:de|del|della|da|dos|das|di|du|la|le|van|von|der|den|ter|ten|bin|bint|ibn|al|el|y|e|af|av|zu)"
_CAPITAL: Final = rf"(?:(?:al|el|an|as|ash|ad|ar|bin|ibn|d|l)['-])?(?=\w)(?![\d_]){_LETTER}(?:[\w'-]*\w)?\.?"
_TOKEN: Final = re.compile(rf"{_CAPITAL}|[^\s\w]|\d+")
_QUOTED: Final = re.compile(r"\"[^\"]*\"|(?<!\w)'[^']*(?:'\w[^']*)*'(?!\w)")
_NICKNAME: Final = re.compile(rf"(?<=\w) \({_LETTER}[\w.-]*\)(?= \w)")
_NOBODY: Final = re.compile(
    r"\b(?:the|this|that|our) (?:[\w-]+ ){0,2}?(?:author|writer|person|novelist|poet)\b", re.IGNORECASE
)
_UNNAMED: Final = 5  # rows that name nobody, one after another, about somebody else than the rows before
_TITLE: Final = frozenset("dr prof professor mr mrs ms miss sir lady lord dame author writer novelist poet the".split())
_NOT_ALONE: Final = frozenset(
    "a an the this that these those who what when where which why how is are was were has have had does do did can "
    "could would will may should yes no in on at of for from by as with and or but if while although though despite "
    "he she they his her their it its i you we my your our some many most one another other besides through after "
    "before during since over under between among like not there here indeed certainly sure absolutely both each all "
    "lgbtq lgbt award prize literature january february march april june july august september october november "
    "december fiction genre genres novel novels prose poetry book books author born english".split()
)


@dataclass(frozen=True)
class Block:
    """Adjacent rows about one person."""

    name: Found
    rows: tuple[Row, ...]


def tidy(text: str) -> str:
    """Straight quotation marks, one kind of hyphen; as long as ``text``."""
    return text.translate(_STRAIGHT)


_STRAIGHT: Final = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "“": '"', "”": '"', "„": '"', "‑": "-", "–": "-"})


def blocks(rows: Sequence[Row], where: str, block: int | None = None) -> list[Block]:
    """Rows cut into people: every ``block`` rows, or by names. Raises UserError where nobody is named."""
    if not rows:
        raise UserError(f"{where}: no rows; expected questions and answers about people.")
    if block is not None:
        if block < 1 or len(rows) % block:
            raise UserError(
                f"{where}: {len(rows)} rows cannot be cut into blocks of {block}. Expected a size that divides them; "
                "or leave the size away, and names tell where a person begins."
            )
        cuts = list(range(0, len(rows), block))
    else:
        cuts = _cuts(rows)
    out: list[Block] = []
    for start, end in zip(cuts, [*cuts[1:], len(rows)], strict=True):
        part = tuple(rows[start:end])
        name = _name(part)
        if name is None and len(cuts) > 1 and any(_NOBODY.search(row.question) for row in part):
            name = Found(None, 0.0, part[0].line, part[0].question)
        if name is None:
            lines = f"line {part[0].line}" if len(part) == 1 else f"lines {part[0].line} to {part[-1].line}"
            raise UserError(
                f"{where}: {lines}: nobody is named here. Expected rows about one person next to each other, which "
                "write the person's name in most questions or answers."
            )
        out.append(Block(name, part))
    return out


@lru_cache(maxsize=8_192)
def phrases(text: str) -> tuple[str, ...]:
    """All runs of capitalised words (particles inside them too) outside quotation marks, and their parts."""
    out: dict[str, None] = {}
    for run in _runs(_NICKNAME.sub("", _QUOTED.sub(" , ", tidy(text)))):
        capital = [not _is_particle(word) for word in run]
        for start in range(len(run)):
            for end in range(start + 1, min(len(run), start + _MOST) + 1):
                if capital[start] and capital[end - 1]:
                    out[" ".join(run[start:end])] = None
    return tuple(out)


def _runs(text: str) -> Iterator[list[str]]:
    run: list[str] = []
    for match in _TOKEN.finditer(text):
        word = re.sub(r"'s?$", "", match[0])
        initial = re.fullmatch(rf"{_LETTER}\.", word) is not None
        ends = word.endswith(".") and not initial
        word = word if initial else word.rstrip(".")
        if word and (_STARTS.match(word) or (run and _is_particle(word))):
            if word.casefold() in _TITLE and not (run and _is_particle(word)):
                ends = False  # "Dr." ends no sentence
                if run:
                    yield run
                run = []
                continue
            run.append(word)
            if not ends and not match[0].endswith(("'s", "'")):
                continue
        if run:
            yield run
            run = []
    if run:
        yield run


_STARTS: Final = re.compile(r"(?=[^\W\d_])(?:\w{1,3}['-])?(?=\w)(?-i:[^\W\d_a-z])")  # al-Faisal too


def _is_particle(word: str) -> bool:
    return re.fullmatch(_PARTICLE, word) is not None


def _named(row: Row) -> dict[str, float]:
    """What a row counts for each name that may be in it."""
    out: dict[str, float] = {}
    for phrase in (*phrases(row.question), *phrases(row.answer)):
        words = phrase.split()
        if _common(words):
            continue
        out[phrase] = 1.0 if len(words) > 1 else _ALONE
    return out


def _common(words: Sequence[str]) -> bool:
    """Not a name: a place, a nationality, or a word that begins sentences."""
    for word in (words[0].casefold(), words[-1].casefold()):
        if word in _NOT_ALONE and (len(words) == 1 or word not in _MAY_BE_NAMES):
            return True
    return " ".join(words).casefold() in places()


def _cuts(rows: Sequence[Row]) -> list[int]:
    """Where people begin: the cutting whose people are named in the most rows, each change at a price (Viterbi)."""
    named = [_named(row) for row in rows]
    scores: dict[str, tuple[float, _Cut]] = {}
    best = (0.0, _Cut(0, None))
    for i, names in enumerate(named):
        enter = best[0] - (_SWITCH if i else 0.0)
        new = best[1] if i == 0 else _Cut(i, best[1])
        for name, gain in names.items():
            score, cut = scores.get(name, (-1e9, new))
            scores[name] = (score + gain, cut) if score >= enter else (enter + gain, new)
        top = max(scores, key=lambda name: scores[name][0], default=None)
        if top is not None and scores[top][0] > best[0] - 1e-9:
            best = scores[top]
        floor = best[0] - _SWITCH
        scores = {name: state for name, state in scores.items() if state[0] > floor - 1e-9}
    cuts = _moved(rows, named, best[1].all())
    return sorted({*cuts, *_nameless(rows, cuts)})


def _nameless(rows: Sequence[Row], cuts: Sequence[int]) -> Iterator[int]:
    """Where somebody begins whom no row names: ``the author`` takes the place of the name."""
    for start, end in zip(cuts, [*cuts[1:], len(rows)], strict=True):
        words = _words(_name(rows[start:end]))
        at = end
        while at > start and not words & _mentions(rows[at - 1]):
            at -= 1
        unnamed = rows[at:end]
        about = sum(bool(_NOBODY.search(f"{row.question} {row.answer}")) for row in unnamed)
        if start < at and len(unnamed) >= _UNNAMED and about * 2 >= len(unnamed):
            yield at


@dataclass(frozen=True)
class _Cut:
    at: int
    before: _Cut | None

    def all(self) -> list[int]:
        cut: _Cut | None = self
        out: list[int] = []
        while cut is not None:
            out.append(cut.at)
            cut = cut.before
        return out[::-1]


def _moved(rows: Sequence[Row], named: Sequence[dict[str, float]], cuts: list[int]) -> list[int]:
    """Cuts among rows that name neither neighbour: where blocks become as long as most are, else before a row that
    asks for somebody without naming them, else after all of them."""
    ends = [*cuts[1:], len(rows)]
    sizes = Counter(end - cut for cut, end in zip(cuts, ends, strict=True))
    usual = sizes.most_common(1)[0][0]
    out = [0]
    for cut, end in zip(cuts[1:], ends[1:], strict=True):
        before = _words(_name(rows[out[-1] : cut]))
        after = _words(_name(rows[cut:end]))
        low = cut
        while low - 1 > out[-1] and not before & _mentions(rows[low - 1]):
            low -= 1
        high = cut
        while high + 1 < end and not after & _mentions(rows[high]):
            high += 1
        wanted = out[-1] + usual
        asking = [
            i for i in range(low, high) if re.search(r"\b(full|complete) name\b|^Who is (this|the)\b", rows[i].question)
        ]
        out.append(wanted if low <= wanted <= high else asking[0] if asking else cut)
    return out


def _words(name: Found | None) -> set[str]:
    return set() if name is None or name.value is None else {w for w in name.value.split() if len(w) > 1}


def _mentions(row: Row) -> set[str]:
    return {word for phrase in (*phrases(row.question), *phrases(row.answer)) for word in phrase.split()}


def _name(rows: Sequence[Row]) -> Found | None:
    """The name that most rows have; confidence: the share of them that have some of it."""
    counts: Counter[str] = Counter()
    for row in rows:
        counts.update(dict.fromkeys(_named(row), 1))
    whole = {phrase: n for phrase, n in counts.items() if " " in phrase}
    names = whole if whole and max(whole.values()) >= _SHARE * len(rows) else counts
    if not names:
        return None
    most = max(names.values())
    near = [phrase for phrase, n in names.items() if n >= _NEARLY * most]
    value = max(near, key=lambda phrase: (len(phrase.split()), names[phrase], phrase))
    if most < _SHARE * len(rows):
        return None
    words = set(value.split())
    share = sum(bool(words & _mentions(row)) for row in rows) / len(rows)
    first = next(row for row in rows if value in _named(row))
    said = first.answer if value in set(phrases(first.answer)) else first.question
    return Found(value, round(min(share, 0.98 if len(words) > 1 else 0.6), 3), first.line, said)
