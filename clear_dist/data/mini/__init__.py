"""CLEAR-mini: drawn people in CLEAR's layout, made by the program, no download."""

from clear_dist.data.mini.base import BaseData, BaseQA, base_examples
from clear_dist.data.mini.text import PRIVACY_PREFIX, vocabulary_texts
from clear_dist.data.mini.world import PRESETS, World, build_world
from clear_dist.data.mini.write import sheet, write_clear_mini

__all__ = [
    "PRESETS",
    "PRIVACY_PREFIX",
    "BaseData",
    "BaseQA",
    "World",
    "base_examples",
    "build_world",
    "sheet",
    "vocabulary_texts",
    "write_clear_mini",
]
