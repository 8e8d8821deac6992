"""What came back under each attack, in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from clear_dist.attacks import ATTACKS

SHOWN = (("forget", "fact_accuracy", "fact"), ("forget", "name_accuracy", "name"), ("retain", "fact_accuracy", "kept"))
ORDER = ("original", "unlearned", "gold")


def attack_table(summary: Mapping[str, Any]) -> Table:
    """Rows: no attack, then every attack; columns: per model, facts and names right on the forget set, facts right on
    the retain set, in percent; a dash where it was not measured."""
    models = {name: m for name, m in summary["models"].items() if m.get("robustness")}
    names = [n for n in ORDER if n in models] + [n for n in models if n not in ORDER]
    table = Table(title="under attack, % right: forget facts, forget names, retain facts", pad_edge=False)
    table.add_column("attack", no_wrap=True)
    for name in names:
        for _, _, word in SHOWN:
            table.add_column(f"{escape(name)}\n{word}", justify="right", no_wrap=True)
    attacks = sorted({a for name in names for a in models[name]["robustness"]}, key=_place)
    table.add_row("none", *(_cell(models[n]["sets"], s, m) for n in names for s, m, _ in SHOWN), end_section=True)
    for attack in attacks:
        cells = [_cell(models[n]["robustness"].get(attack) or {}, s, m) for n in names for s, m, _ in SHOWN]
        table.add_row(escape(attack), *cells)
    means = [models[n].get("prefix_mean") or {} for n in names]
    if any(means):
        table.add_row(
            "prefix mean", *(_percent(mean.get(m) if s == "forget" else None) for mean in means for s, m, _ in SHOWN)
        )
    return table


def _place(attack: str) -> tuple[int, int, str]:
    """By kind, then by step or name."""
    stem, _, step = attack.partition("@")
    stems = [s for family in ATTACKS.values() for s in family]
    kind = "prefix" if stem.startswith("prefix_") else stem
    return stems.index(kind) if kind in stems else len(stems), int(step) if step.isdecimal() else 0, attack


def _cell(sets: Mapping[str, Any], set_name: str, metric: str) -> str:
    estimate = ((sets.get(set_name) or {}).get("all") or {}).get(metric)
    return _percent(None if estimate is None else estimate["value"])


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f}"
