"""The figures of ``bench_farm`` as rows, Markdown and bars.

Every ratio is that of two medians; beside it stand the least and most of the same ratio within one round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.figure import Figure

from benchmarks.common import Spread, table
from benchmarks.farm_crew import Variant
from benchmarks.farm_ways import Case

Row = dict[str, Any]
PAPER_MODELS, PAPER_PICTURES, PAPER_EPOCHS = 256, 1885, 20
TRAINING, TAKEN, MODELS, PARTS, DERIVED = "training", "taken away", "whole models", "one model", "derived"


def ratio(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """Of the medians; ``min`` and ``max``: of pairs of one round. The first lies between the others."""
    pairs = [a / b for a, b in zip(above, below, strict=True)]
    return {"median": median(above) / median(below), "min": min(pairs), "max": max(pairs)}


def best_plain(speeds: Mapping[str, Sequence[float]]) -> str:
    """The faster of the plain loops on files."""
    return max((name for name in speeds if name.endswith("loader processes")), key=lambda name: median(speeds[name]))


def training_rows(
    case: Case, variants: Sequence[Variant], farm: str, speeds: Mapping[str, Sequence[float]], about: Row
) -> list[Row]:
    """Images a second of training alone, and what each thing brings. ``farm``: the variant that has them all."""
    plain = speeds[best_plain(speeds)]
    resident = speeds.get("plain, resident")
    rows: list[Row] = []
    for variant in variants:
        found = speeds[variant.name]
        row = {
            "part": TAKEN if variant.lacks else TRAINING,
            "size": case.size,
            "variant": variant.name,
            "processes": variant.processes,
            "threads": variant.threads,
            "images_per_s": Spread.of(found).json(),
            **about,
        }
        if variant.lacks:
            row |= {"without": variant.lacks, "farm_over_it": ratio(speeds[farm], found)}
        else:
            row["ratio_to_plain"] = ratio(found, plain)
            if resident is not None:
                row["ratio_to_resident"] = ratio(found, resident)
        rows.append(row)
    fastest = max((v for v in variants if v.name.startswith("farm")), key=lambda v: median(speeds[v.name]))
    rate = median(speeds[fastest.name])
    rows.append(
        {
            "part": DERIVED,
            "size": case.size,
            "variant": fastest.name,
            "models": PAPER_MODELS,
            "images_a_model": PAPER_PICTURES * PAPER_EPOCHS,
            "minutes": PAPER_MODELS * PAPER_PICTURES * PAPER_EPOCHS / rate / 60,
        }
    )
    return rows


def start_up_row(
    case: Case, starts: Sequence[float], rates: Sequence[float], workers: int, images: float, about: Row
) -> Row:
    """What a worker that lives on saves: start-up before every model of ``images``, beside that model's training.

    starts: seconds until ``workers`` processes are ready. rates: images a second of all of them.
    """
    models = [images * workers / rate for rate in rates]
    anew = [start + model for start, model in zip(starts, models, strict=True)]
    return {
        "part": TAKEN,
        "size": case.size,
        "variant": "new process",
        "without": "persistent workers (a new process for every model)",
        "start_up_s": Spread.of(starts).json(),
        "model_s": Spread.of(models).json(),
        "images_per_s": Spread.of([images * workers / s for s in anew]).json(),
        "farm_over_it": ratio(anew, models),
        **about,
    }


def model_rows(case: Case, workers: int, found: Sequence[Mapping[str, Mapping[str, float]]], about: Row) -> list[Row]:
    """Models an hour; found: for each round what ``farm_crew.whole_models`` measured."""
    hourly = {
        "plain": [3600 / r["plain"]["wall"] for r in found],
        "farm": [3600 * r["farm"]["models"] / r["farm"]["wall"] for r in found],
    }
    steady = {
        "plain": [3600 / r["plain"]["seconds"] for r in found],
        "farm": [3600 * workers / r["farm"]["model"] for r in found],
    }
    return [
        {
            "part": MODELS,
            "size": case.size,
            "variant": name,
            "processes": workers if name == "farm" else 1,
            "models": int(found[0]["farm"]["models"]) if name == "farm" else 1,
            "images_a_model": found[0][name]["images"],
            "wall_s": Spread.of([r[name]["wall"] for r in found]).json(),
            "models_per_hour": Spread.of(hourly[name]).json(),
            "steady_models_per_hour": Spread.of(steady[name]).json(),
            "ratio_to_plain": ratio(hourly[name], hourly["plain"]),
            "steady_ratio_to_plain": ratio(steady[name], steady["plain"]),
            **about,
        }
        for name in hourly
    ]


def phase_rows(case: Case, found: Sequence[Mapping[str, float]]) -> list[Row]:
    """Seconds of one model's parts, and their share of it; augmentation is beside the sum."""
    apart = "augmentation (photo)"
    sums = [sum(v for k, v in r.items() if k != apart) for r in found]
    return [
        {
            "part": PARTS,
            "size": case.size,
            "variant": name,
            "seconds": Spread.of([r[name] for r in found]).json(),
            "share": None if name == apart else median([r[name] / s for r, s in zip(found, sums, strict=True)]),
        }
        for name in found[0]
    ]


def of_part(rows: Sequence[Row], part: str, size: int | None = None) -> list[Row]:
    return [r for r in rows if r["part"] == part and size in (None, r["size"])]


def _text(spread: Mapping[str, float], digits: int = 2) -> str:
    return Spread(spread["median"], spread["min"], spread["max"]).text(digits)


def markdown(rows: Sequence[Row], intro: str) -> str:
    """All tables: median (least-most of all rounds)."""
    parts = ["# The farm beside a plain loop", intro]
    for size in dict.fromkeys(r["size"] for r in rows):
        mine = of_part(rows, TRAINING, size)
        first = mine[0]
        parts.append(f"## Training alone, {size} px, batch {first['batch']}, {first['rounds']} rounds")
        more = "ratio_to_resident" in first
        head = ["", "processes x threads", "images/s", "times plain", *(["times resident"] if more else [])]
        body = [
            [
                r["variant"],
                f"{r['processes']} x {r['threads']}",
                _text(r["images_per_s"], 0),
                _text(r["ratio_to_plain"]),
                *([_text(r["ratio_to_resident"])] if more else []),
            ]
            for r in mine
        ]
        parts.append(table(head, body))
        parts.append("What each thing brings: the farm over the farm without it.")
        taken = of_part(rows, TAKEN, size)
        body = [[r["without"], _text(r["images_per_s"], 0), _text(r["farm_over_it"])] for r in taken]
        parts.append(table(["without", "images/s", "farm over it"], body))
        for r in of_part(rows, DERIVED, size):
            parts.append(
                f"Derived, not measured: {r['models']} models of {r['images_a_model']:,} images each "
                f"({PAPER_PICTURES:,} pictures, {PAPER_EPOCHS} epochs) at the images/s of {r['variant']}: "
                f"{r['minutes']:,.1f} minutes of training."
            )
    parts += _whole_tables(rows)
    return "\n\n".join(parts)


def _whole_tables(rows: Sequence[Row]) -> list[str]:
    parts: list[str] = []
    whole = of_part(rows, MODELS)
    if whole:
        farm = whole[-1]
        parts.append(f"## Whole models, {farm['size']} px, {farm['images_a_model']:,.0f} images each")
        parts.append(
            "From start-up to what is kept: the plain loop one model in a process (each further one takes as long), "
            f"the farm {farm['models']} models with {farm['processes']} worker(s), pictures not decoded before. "
            "Steady: without start-up, and in the farm without decoding."
        )
        head = ["", "seconds", "models/hour", "times plain", "steady models/hour", "times plain"]
        body = [
            [
                r["variant"],
                _text(r["wall_s"], 1),
                _text(r["models_per_hour"], 0),
                _text(r["ratio_to_plain"]),
                _text(r["steady_models_per_hour"], 0),
                _text(r["steady_ratio_to_plain"]),
            ]
            for r in whole
        ]
        parts.append(table(head, body))
    phases = of_part(rows, PARTS)
    if phases:
        parts.append(f"## Where the time of one model of the farm goes, {phases[0]['size']} px")
        body = [
            [r["variant"], _text(r["seconds"], 3), "-" if r["share"] is None else f"{r['share']:.1%}"] for r in phases
        ]
        parts.append(table(["part", "seconds", "share"], body))
    return parts


def draw(rows: Sequence[Row], path: Path) -> None:
    """Images a second at each size, and what each thing brings at the first."""
    sizes = list(dict.fromkeys(r["size"] for r in of_part(rows, TRAINING)))
    figure = Figure(figsize=(4.2 * (len(sizes) + 1), 3.8), layout="constrained")
    axes = figure.subplots(1, len(sizes) + 1, squeeze=False)[0]
    for axis, size in zip(axes, sizes, strict=False):
        mine = of_part(rows, TRAINING, size)
        spreads = [r["images_per_s"] for r in mine]
        labels = [r["variant"].replace(", ", "\n").replace(" processes", "s") for r in mine]
        colours = ["#2f6fdd" if r["variant"].startswith("farm") else "#9aa5b1" for r in mine]
        _bars(axis, labels, spreads, [f"{r['ratio_to_plain']['median']:.1f}x" for r in mine], colours)
        axis.set_title(f"training, {size} px")
    axes[0].set_ylabel("images per second")
    taken = of_part(rows, TAKEN, sizes[0])
    spreads = [r["farm_over_it"] for r in taken]
    labels = [r["variant"].replace(" ", "\n") for r in taken]
    _bars(axes[-1], labels, spreads, [f"{s['median']:.2f}" for s in spreads], ["#2f6fdd"] * len(taken))
    axes[-1].axhline(1, color="#444444", lw=0.8)
    axes[-1].set_title(f"farm over the farm without it, {sizes[0]} px")
    figure.savefig(path, dpi=140)


def _bars(
    axis: Any, labels: Sequence[str], spreads: Sequence[Mapping[str, float]], texts: Sequence[str], colours: list[str]
) -> None:
    """Medians, whiskers from least to most, a text above each."""
    middle = [s["median"] for s in spreads]
    whiskers = [[s["median"] - s["min"] for s in spreads], [s["max"] - s["median"] for s in spreads]]
    axis.bar(range(len(labels)), middle, yerr=whiskers, color=colours, width=0.62, error_kw={"lw": 1, "capsize": 3})
    for x, (spread, text) in enumerate(zip(spreads, texts, strict=True)):
        axis.annotate(text, (x, spread["max"]), (0, 3), textcoords="offset points", ha="center", fontsize=8)
    axis.set_xticks(range(len(labels)), labels, fontsize=7)
    axis.margins(y=0.15)
    axis.spines[["top", "right"]].set_visible(False)
