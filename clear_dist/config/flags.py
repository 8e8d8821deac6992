"""Lists as flags and files give them, in the one form a field has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def from_flags(values: Any, comma: Sequence[str], pairs: Sequence[str]) -> Any:
    """What a model validator is given, with lists made text (``comma``: A,B,C) or mappings (``pairs``: KEY=VALUE).

    Raises ValueError naming an item that is no KEY=VALUE.
    """
    if not isinstance(values, dict):
        return values
    values = dict(values)
    for name in comma:
        if isinstance(values.get(name), list | tuple):
            values[name] = ",".join(map(str, values[name]))
    for name in pairs:
        if isinstance(values.get(name), list | tuple):  # flags: KEY=VALUE, repeated
            values[name] = dict(key_value(f"`{name}`", item) for item in values[name])
    return values


def key_value(name: str, item: object) -> tuple[str, str]:
    if not isinstance(item, str):  # in a file: a list of mappings
        raise ValueError(f"{name}: expected a mapping, or a list of KEY=VALUE, got {item!r} in it")
    key, sign, value = item.partition("=")
    if not (key.strip() and sign and value.strip()):
        raise ValueError(f"{name} {item}: expected KEY=VALUE")
    return key.strip(), value.strip()
