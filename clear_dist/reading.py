"""JSON and YAML that somebody else wrote, as plain values: nothing in it runs, ends the reader or fills the memory.

Both readers raise ValueError and nothing else, whatever is wrong; who calls them adds the file and what to do. What
they return can be printed, written as UTF-8 and made a float, number by number.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

DEEPEST = 100  # lists and mappings inside each other; Python's own limit depends on who calls
MOST = 100_000  # values of a YAML file, each alias counted as what it stands for
DIGITS = 308  # of a whole number: more are beyond all floats
_TOO_DEEP = f"lists and mappings are nested more than {DEEPEST} deep"


def json_value(
    text: str | bytes,
    *,
    parse_constant: Callable[[str], Any] | None = None,
    parse_float: Callable[[str], Any] | None = None,
    object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> Any:
    """What ``json.loads`` returns, hooks included. Raises ValueError; NaN and infinity are let through."""
    try:
        text = text if isinstance(text, str) else text.decode("utf-8")
        value = json.loads(
            text,
            parse_int=_whole,
            parse_constant=parse_constant,
            parse_float=parse_float,
            object_pairs_hook=object_pairs_hook,
        )
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    if text.count("[") + text.count("{") > DEEPEST:
        _check(value, most=None)
    if "\\ud" in text or "\\uD" in text:
        _whole_characters(json.dumps(value, ensure_ascii=False))
    return value


def finite(text: str) -> float:
    """``parse_constant`` and ``parse_float`` that raise ValueError on NaN, infinity and 1e999."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is no finite number")
    return value


def is_file(name: str | Path) -> bool:
    """Whether there is such a file; False, too, where no file can have this name: one too long, with a zero byte, or a
    link in a circle."""
    try:
        return Path(name).is_file()
    except (OSError, ValueError, RuntimeError):
        return False


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """``object_pairs_hook`` that raises ValueError where a key occurs twice: which of the two counts?"""
    out = dict(pairs)
    if len(out) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"key {twice!r} occurs twice in one object; remove one")
    return out


def yaml_value(text: str) -> Any:
    """What ``yaml.safe_load`` returns. Raises ValueError: also for a key that occurs twice, and for aliases that are
    nested in themselves or stand for more than ``MOST`` values."""
    try:
        value = yaml.load(text, _Loader)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(" ".join(str(error).split())) from None
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        TypeError,
    ) as error:  # PyYAML's, of a tag whose text does not fit it
        raise ValueError(f"a value does not fit its tag ({type(error).__name__}: {error})") from None
    _check(value, most=MOST)
    return value


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice, and mappings merged (``<<``) into more than anybody writes."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(keys)) < len(keys):
            twice = next(key for i, key in enumerate(keys) if key in keys[:i])
            raise yaml.YAMLError(f"key {twice!r} occurs twice in one mapping; remove one")
        return node

    def flatten_mapping(self, node: Any) -> None:
        super().flatten_mapping(node)
        if len(node.value) > MOST // 100:
            raise yaml.YAMLError(f"a mapping has more than {MOST // 100:,} keys")


def _whole(digits: str) -> int:
    if len(digits) > DIGITS:
        raise ValueError(f"a whole number of {len(digits):,} digits; at most {DIGITS} are read")
    return int(digits)


def _whole_characters(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"half of a character ({text[error.start]!a}), which no file can hold") from None


def _check(value: object, most: int | None) -> None:
    """Raises ValueError on what is nested too deeply; with ``most`` on too many values, numbers and texts too."""
    rest, seen = [(value, 0)], 0
    while rest:
        inside, depth = rest.pop()
        seen += 1
        if depth > DEEPEST:
            raise ValueError(_TOO_DEEP)
        if most is not None:
            if seen > most:
                raise ValueError(f"more than {most:,} values, aliases written out")
            if isinstance(inside, int) and inside.bit_length() > 1023:
                raise ValueError(f"a whole number beyond all floats, of {inside.bit_length():,} bits")
            elif isinstance(inside, str):
                _whole_characters(inside)
        if isinstance(inside, dict):
            rest.extend((part, depth + 1) for pair in inside.items() for part in pair)
        elif isinstance(inside, list | tuple | set):
            rest.extend((part, depth + 1) for part in inside)
