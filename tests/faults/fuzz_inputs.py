"""Inputs nobody should write: hostile values, good values with a few places changed, good files with damaged bytes."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

HOSTILE_TEXTS = (
    *(
        "",
        " ",
        "\n",
        "\0",
        "\x1b[2J\x1b]0;owned\x07",
        "\u202egnp.exe",
        "\ud800",
        "\ufeff",
        "\x85",
        "e\u0301",
        "\U0001f600",
    ),
    *("../../etc/passwd", "/etc/passwd", "..", "C:\\x", "~", "a" * 5_000, "nan", "1e999", "-1", "0x10", "true", "null"),
    *("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{7*7}}", "%s%n", "=1+1", "__class__", "--help"),
)
HOSTILE_NUMBERS = (
    *(math.nan, math.inf, -math.inf, -0.0, 1e308, -1e308, 5e-324, 0.1, 0, 1, -1, 2, 3, 2**31, 2**63, 2**64, -(2**63)),
    *(10**400, -(10**400)),
)
SPLICED = (
    *(b"NaN", b"1e999", b"-Infinity", b"null", b"true", b"[]", b"{}", b'{"a":1,"a":2}', b'"\\ud800"', b"\\u0000"),
    *(
        b"[" * 2_000,
        b'{"a":' * 2_000,
        b"9" * 5_000,
        b"\xff\xfe",
        b"\0",
        b"\xef\xbb\xbf",
        b"\n",
        b"\r",
        b"\x85",
        b"\x1b[2J",
    ),
)


def hostile() -> st.SearchStrategy[Any]:
    """A value of the wrong kind, size or shape, more often than not."""
    leaf = st.one_of(
        st.sampled_from(HOSTILE_TEXTS),
        st.sampled_from(HOSTILE_NUMBERS),
        st.sampled_from((None, True, False)),
        st.text(max_size=8),
        st.floats(),
    )
    return st.one_of(
        leaf, leaf, leaf, st.lists(leaf, max_size=2), st.dictionaries(st.text(max_size=4), leaf, max_size=2)
    )


@st.composite
def altered(draw: st.DrawFn, good: Sequence[Any], most: int = 3) -> Any:
    """One of the good values of lists, mappings and scalars; up to ``most`` of its places replaced, removed, doubled,
    nested or renamed."""
    value = copy.deepcopy(draw(st.sampled_from(good)))
    for _ in range(draw(st.sampled_from((0, 1, 1, 1, 2, most)))):
        value = _change(draw, value)
    return value


def _change(draw: st.DrawFn, value: Any) -> Any:
    kinds = "replace", "replace", "replace", "remove", "double", "nest", "rename"
    if not isinstance(value, list | dict) or not value or draw(st.integers(0, 5)) == 0:
        return draw(hostile())
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = draw(st.sampled_from(keys))
    inside = value[key]
    if isinstance(inside, list | dict) and inside and draw(st.integers(0, 3)):
        value[key] = _change(draw, inside)
        return value
    match draw(st.sampled_from(kinds)):
        case "replace":
            value[key] = draw(hostile())
        case "remove":
            del value[key]
        case "nest":
            value[key] = [inside]
        case "double" if isinstance(value, list):
            value.append(copy.deepcopy(inside))
        case "rename" if isinstance(value, dict):
            value[draw(st.sampled_from(HOSTILE_TEXTS))] = value.pop(key)
        case _:
            value[key] = [inside, copy.deepcopy(inside)]
    return value


@st.composite
def damaged(draw: st.DrawFn, good: Sequence[bytes], most: int = 3) -> bytes:
    """The bytes of a good file: cut, flipped, with spans inserted, deleted, doubled or taken from another file."""
    data = draw(st.sampled_from(good))
    for _ in range(draw(st.sampled_from((1, 1, 2, most)))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        span = draw(st.integers(1, 40))
        match draw(st.sampled_from(("cut", "flip", "flip", "insert", "splice", "delete", "double", "other"))):
            case "cut":
                data = data[:at]
            case "flip" if data:
                data = data[:at] + bytes([data[at] ^ (1 << draw(st.integers(0, 7)))]) + data[at + 1 :]
            case "insert":
                data = data[:at] + draw(st.binary(min_size=1, max_size=6)) + data[at:]
            case "splice":
                data = data[:at] + draw(st.sampled_from(SPLICED)) + data[at:]
            case "delete":
                data = data[:at] + data[at + span :]
            case "double":
                data = data[: at + span] + data[at:]
            case _:
                other = draw(st.sampled_from(good))
                data = data[:at] + other[at:]
    return data


def files(good_bytes: Sequence[bytes], good_values: Sequence[Any]) -> st.SearchStrategy[bytes]:
    """Contents of a JSON file from three sources: values changed, bytes damaged, nothing to do with it at all."""
    values = altered(good_values).map(lambda value: json.dumps(value).encode())
    noise = st.one_of(st.binary(max_size=60), st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace")))
    return st.one_of(values, values, values, damaged(good_bytes), damaged(good_bytes), noise)
