"""Does an answer contain a fact, or a name? String matching that forgives case, accents and punctuation.

A text is folded to words separated by single spaces; a phrase is contained when its words stand in the text one
after the other, whole ("Ann" is not in "Anna", "red hair" is in "Red-hair, freckles"). Signs of scripts that write
without spaces (Chinese, Japanese) count as words of one sign.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache

_SPACELESS = re.compile(r"([\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff])")


@lru_cache(maxsize=65536)
def fold(text: str) -> str:
    """Case-folded, accents dropped, everything but letters and digits turned into single spaces, stripped."""
    decomposed = unicodedata.normalize("NFKD", text).casefold()
    base = "".join(c for c in decomposed if not unicodedata.combining(c))
    spaced = _SPACELESS.sub(r" \1 ", unicodedata.normalize("NFC", base))
    return " ".join("".join(c if c.isalnum() else " " for c in spaced).split())


def contains(text: str, phrase: str) -> bool:
    """Whether ``phrase`` stands in ``text`` at word boundaries, after folding; an empty phrase never does."""
    folded = fold(phrase)
    return bool(folded) and f" {folded} " in f" {fold(text)} "


def hit(text: str, phrase: str | None) -> int | None:
    """1 if ``text`` contains ``phrase``, 0 if not, None if there is no phrase to look for."""
    return None if phrase is None or not fold(phrase) else int(contains(text, phrase))


def attribute_hits(text: str, attributes: Mapping[str, str] | None) -> dict[str, int] | None:
    """Per visible attribute that is there: does the text mention its value? None where nothing is known.

    Values that say a thing is absent ("none", "no", "") are left out: nobody mentions them.
    """
    hits = {name: int(contains(text, v)) for name, v in (attributes or {}).items() if fold(v) not in ("", "no", "none")}
    return hits or None
