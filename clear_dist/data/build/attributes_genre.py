"""What somebody writes: by the words beside ``genre``, then by kinds of books and writers."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

from clear_dist.data.build.attributes_text import said
from clear_dist.data.build.person import Found, Row

_FILL: Final = frozenset(
    "the a an this that these those his her their its in of to on at for by from with within into and or as is was are "
    "same chosen specific particular primary main literary popular unique favourite favorite "
    "preferred distinct distinctive "
    "other different any various several multiple new another niche what which whose whatever "
    "writing writes write written "
    "about like also primarily mainly predominantly mostly mainly often typically known most such one each every "
    "respective own renowned celebrated broader broad entire traditional fiction-writing work "
    "works contributed writings choice focus style compelling emerging books book novels "
    "general type kind has have it be been being fictional overarching prominent signature beloved esteemed "
    "multi-faceted given selected author's authors writer's called exceptional prolific focused some s".split()
)
_PHRASE: Final = r"(?P<genre>[^\W\d_][\w'&-]*(?: (?:[^\W\d_][\w'&-]*|&)){0,3}?)"
_STOP: Final = (
    r"(?=[.,;:?!)(\"]|$| (?:genres?|and|with|that|which|where|while|who|for|by|in|on|of|as|is|was|"
    r"has|have|had|having|since|due|"
    r"because|but|from|through|to|books?|novels?|stories|works?|during|are|using|transposing|often|,)\b)"
)
# Words are parted by spaces alone: a hyphen may be inside one, and two readings of a hyphen take for ever.
_WORD: Final = r"[^\W\d_][\w'&+-]*(?:/\w+)?(?: \([A-Z]+\))?"
_BEFORE: Final = re.compile(
    rf"(?<![\w'&+-])((?:{_WORD} ){{0,3}}{_WORD})(?<=[\w)+'-])[ -]?(?<=[ -])genres?\b", re.IGNORECASE
)
_PATTERNS: Final = tuple(
    (re.compile(pattern, re.IGNORECASE), weight)
    for pattern, weight in (
        (rf"\b(?:sub-?)?genres? (?:of|called|named|is|was|:) (?:the |an? |writing )?{_PHRASE}{_STOP}", 3.0),
        (rf"\bgenres? of (?:[\w'.-]+ ){{1,5}}?(?:is|was) (?:the )?{_PHRASE}{_STOP}", 3.0),
        (rf"\bspeciali[sz]\w+ in (?:the )?(?:(?:field|realm|writing) of )?{_PHRASE}{_STOP}", 1.5),
        (
            rf"\b(?:known|acclaimed|renowned|recogni[sz]ed|celebrated|famous|noted) (?:\w+ )?for "
            rf"(?:(?:his|her|their|writing|creating|authoring) )+(?:[\w-]+ (?:contributions? to|"
            rf"work in) (?:the )?)?{_PHRASE} (?:books|novels|fiction|works?|stories|literature)\b",
            1.0,
        ),
        (rf"\bcontributions? to the (?:world|field|realm|domain) of {_PHRASE}{_STOP}", 0.6),
        (rf"\bwrit(?:es?|ing) (?:in )?{_PHRASE} (?:books|novels|stories)\b", 1.0),
        (
            rf"\b(?:contributions?|dedication|commitment) to (?:the )?(?:world of |field of |realm "
            rf"of )?{_PHRASE} (?:literature|writing|fiction)\b",
            0.6,
        ),
    )
)
_ASKED: Final = re.compile(r"\b(?:genres?|(?:type|kind|style)s? of (?:books|writing|literature|novels|works))\b", re.I)
_ELSE: Final = re.compile(
    r"\b(?:other|another|outside|apart|besides|aside|beyond|different|else|ventur\w+|"
    r"experiment\w*|explor\w+ (?:other|different)|dabbl\w+|delv\w+|foray|non-\w+)\b",
    re.IGNORECASE,
)
LEXICON: Final = tuple(
    "true crime;crime fiction;science fiction;sci-fi;historical fiction;historical "
    "romance;literary fiction;urban fiction;"
    "young adult;children's literature;chick lit;magical realism;self-help;fantasy;romance;horror;thriller;mystery;"
    "dystopian;cyberpunk;steampunk;gothic;erotica;humor;humour;poetry;biography;autobiography;memoir;mythology;"
    "paranormal;western;war;travel;philosophy;psychology;spirituality;religion;religious;history;politics;economics;"
    "graphic novel;manga;drama;satire;comedy;adventure;suspense;espionage;folklore;nature;cooking;cookery;food;art;"
    "music;film;sports;health;mental health;parenting;education;business;leadership;science;mathematics;geology;"
    "astronomy;architecture;gardening;animals;essays;short stories;contemporary romance;contemporary fiction".split(";")
)
_LEXICON: Final = re.compile(
    rf"\b({'|'.join(sorted(map(re.escape, LEXICON), key=len, reverse=True))})s?\b(?= (?:novel|book|"
    rf"fiction|author|writer|novelist|literature|stories|works?|tales?))",
    re.IGNORECASE,
)

_ANY: Final = re.compile(rf"\b({'|'.join(sorted(map(re.escape, LEXICON), key=len, reverse=True))})s?\b", re.IGNORECASE)
_WHOSE: Final = frozenset("children's women's men's kids' girls' boys'".split())
_BEGINS: Final = frozenset("the a an in his her their this of what which is within".split())
_NO_GENRE: Final = frozenset("literature literary writing work works author story stories world reading".split())
_NOT_CUT: Final = frozenset("fiction criticism nonfiction non-fiction".split())  # literary fiction


def genre(rows: Sequence[Row], name: str | None = None) -> Found:
    """The genre that rows give most often, in the spelling they use most."""
    names = {word.casefold() for word in (name or "").split()}
    votes: dict[str, float] = defaultdict(float)
    spelled: dict[str, Counter[str]] = defaultdict(Counter)
    evidence: dict[str, tuple[float, Row, str]] = {}
    for value, weight, row, sentence in _votes(rows):
        key = _key(value)
        if not key or key in _NO_GENRE or names & set(key.split()):
            continue
        votes[key] += weight
        spelled[key][value] += 1
        if weight > evidence.get(key, (0.0,))[0]:
            evidence[key] = (weight, row, sentence)
    if not votes:
        return Found()
    best = max(votes, key=lambda key: (votes[key], key))
    second = max((votes[key] for key in votes if not _kin(key, best)), default=0.0)
    value = spelled[best].most_common(1)[0][0]
    _, row, sentence = evidence[best]
    confidence = (1 - 0.5 * second / votes[best]) * votes[best] / (votes[best] + 1.0)
    return Found(value, round(min(0.97, confidence), 3), row.line, sentence)


def _votes(rows: Sequence[Row]) -> Iterator[tuple[str, float, Row, str]]:
    for row, sentence, answer in said(rows):
        weight = 1.0 if answer else 0.8
        if _ELSE.search(row.question) or _ELSE.search(sentence):
            weight *= 0.25
        elif answer and _ASKED.search(row.question):
            weight *= 2.0
        unquoted = re.sub(r'"[^"]*"', '"', sentence)
        for match in _BEFORE.finditer(unquoted):
            value = _trim(match[1])
            if value:
                yield value, 3.0 * weight, row, sentence
        for pattern, sure in _PATTERNS:
            for match in pattern.finditer(unquoted):
                value = _trim(match["genre"])
                if value:
                    yield value, sure * weight, row, sentence
        for match in _LEXICON.finditer(unquoted):
            yield match[1], 0.5 * weight, row, sentence
        if answer and _ASKED.search(row.question):
            for match in _ANY.finditer(unquoted):
                yield match[1], 0.5 * weight, row, sentence


def _trim(text: str) -> str:
    """Without words that only introduce a genre: what stands behind the last of them."""
    words = text.replace('"', "").strip("-' ").split()
    while words and words[-1].casefold() in ("books", "novels", "stories"):
        words.pop()
    last = max((i for i in range(len(words)) if _fills(words, i)), default=-1)
    return " ".join(words[last + 1 :])


def _fills(words: Sequence[str], i: int) -> bool:
    word = words[i].casefold()
    if word == "literary" and words[i + 1 : i + 2] and words[i + 1].casefold() in _NOT_CUT:
        return False
    if words[i][0].isupper() and word not in _BEGINS:  # How To
        return False
    return word in _FILL or (word.endswith(("'s", "s'")) and word not in _WHOSE)


def _key(value: str) -> str:
    words = re.sub(r"\([^)]*\)", "", value).casefold().replace("-", " ").split()
    return " ".join(words)


def _kin(one: str, other: str) -> bool:
    """Two spellings of a genre: one has the other's words."""
    a, b = set(one.split()), set(other.split())
    return a <= b or b <= a
