"""Results of ``bench_step`` as rows, a page, and a figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import Spread, table
from benchmarks.profile_losses import OTHER, PHASES
from benchmarks.step_loops import LOOPS, Job, Ours
from benchmarks.step_models import BATCH
from clear_dist.types import View

# What caches are spread over: unlearning forget10 of CLEAR (``forget10+tofu``, ``retain90+tofu``) as the paper does.
EPOCHS, FORGET_ROWS, RETAIN_ROWS = 5, 779, 6989
FORGET_PICTURES, RETAIN_PICTURES = 379, 3389
TARGET_OF = ("cpu", "cpu-8x256")
TARGETS = {"npo": 2.5, "kl": 2.5, "scrub": 2.5, "rmu": 5.0}  # times clear_code's real tokens a second

Steps = Sequence[Mapping[str, float]]  # phase -> seconds, step by step


def cache_ms(job: Job, ours: Ours) -> tuple[float, float]:
    """(making the caches of the step's own examples and pictures, all caches of the paper's setting per step of it).

    The latter: every FORGET example and picture once; of RETAIN those that its steps come to; over ``EPOCHS`` passes
    of FORGET, a batch a step.
    """
    steps = EPOCHS * math.ceil(FORGET_ROWS / BATCH)
    here = spread = 0.0
    for view, seconds in ours.reference_seconds.items():
        here += seconds * BATCH
        drawn = steps * len(job.packed.encoded(view))
        spread += seconds * min(drawn, RETAIN_ROWS if view is View.RETAIN else FORGET_ROWS)
    pools = {view: {e.digest for e in job.packed.encoded(view)} - {None} for view in job.views}
    here += ours.tower_seconds * len(set().union(*pools.values()))
    if set(pools) - {View.RETAIN}:
        spread += ours.tower_seconds * FORGET_PICTURES
    if View.RETAIN in pools:
        spread += ours.tower_seconds * min(RETAIN_PICTURES, steps * len(pools[View.RETAIN]))
    return 1e3 * here, 1e3 * spread / steps


def row_of(
    job: Job,
    loop: str,
    steps: Steps,
    beside: Mapping[str, Steps],
    *,
    loss: float,
    peak_bytes: int,
    flops: tuple[float, float],
) -> dict[str, Any]:
    """A loop's figures. beside: the steps of the other loops, round by round, for ratios within a round.

    flops: needed and hardware operations of a step.
    """
    seconds = [sum(step.values()) for step in steps]
    typical = median(seconds)
    row: dict[str, Any] = {
        "method": job.method,
        "loop": loop,
        "step_ms": 1e3 * typical,
        "real_tokens_per_s": job.real_tokens / typical,
        "peak_mb": peak_bytes / 1e6,
        "mfu": None,  # once the peak is known: see utilise
        "loss": loss,
        "needed_tflop": flops[0] / 1e12,
        "hardware_tflop": flops[1] / 1e12,
        "real_tokens": job.real_tokens,
        "rounds": len(seconds),
        "step_ms_spread": Spread.of([1e3 * s for s in seconds]).json(),
        "phases_ms": {phase: 1e3 * median(s.get(phase, 0.0) for s in steps) for phase in (*PHASES, OTHER)},
    }
    for name, others in beside.items():
        ratios = [sum(o.values()) / mine for o, mine in zip(others, seconds, strict=True)]
        row[f"times_{name}"] = Spread.of(ratios).json()
    return row


def utilise(rows: Sequence[dict[str, Any]], peak: float) -> None:
    """Fill in what share of ``peak`` operations a second each loop's needed and computed operations are."""
    for row in rows:
        if row["step_ms"] is not None:
            row["mfu"], row["hardware_utilisation"] = (
                row[name] * 1e12 / (row["step_ms"] / 1e3) / peak for name in ("needed_tflop", "hardware_tflop")
            )


def missing(method: str, loop: str, why: str) -> dict[str, Any]:
    """A row without figures."""
    nothing = dict.fromkeys(("step_ms", "real_tokens_per_s", "peak_mb", "mfu", "loss"))
    return {"method": method, "loop": loop, **nothing, "note": why}


HEADER = (
    "loop",
    "step, ms",
    "real tokens/s",
    "times clear_code",
    "peak, MB",
    "MFU",
    "hardware",
    "loss",
    "caches, ms",
    "step with caches, ms",
)


def cells(row: Mapping[str, Any]) -> list[str]:
    if row["step_ms"] is None:
        return [row["loop"], *["-"] * (len(HEADER) - 1)]
    ratio = row.get("times_clear_code")
    times = "-" if ratio is None else f"{ratio['median']:.2f} ({ratio['min']:.2f}-{ratio['max']:.2f})"
    caches = [f"{row[k]:,.0f}" if k in row else "-" for k in ("caches_ms", "step_with_caches_ms")]
    return [
        row["loop"],
        f"{row['step_ms']:,.0f}",
        f"{row['real_tokens_per_s']:,.0f}",
        times,
        f"{row['peak_mb']:,.0f}",
        f"{row['mfu']:.1%}",
        f"{row['hardware_utilisation']:.1%}",
        f"{row['loss']:.4f}",
        *caches,
    ]


def verdicts(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each target and whether it is met, where both loops were timed."""
    out = []
    for row in rows:
        target = TARGETS.get(row["method"])
        if target and row["loop"] == "ours" and "times_clear_code" in row:
            got = row["times_clear_code"]["median"]
            said = "met" if got >= target else "missed"
            out.append(f"{row['method']}: {got:.2f} times clear_code's real tokens/s, target {target:g}: {said}")
    return out


def markdown_of(rows: Sequence[Mapping[str, Any]], info: Mapping[str, Any]) -> str:
    shape = (
        f"{BATCH} examples of every view, half of them with a picture ({info['image_tokens']} tokens), LoRA, AdamW. "
        "The loops take turns, round by round, from the same weights, and compute the same loss and the same gradients "
        f"(largest difference of a loss {info['largest_loss_difference']:.0e}, fp32, before timing). Real tokens are "
        "those of the examples, each standing alone, without padding: one number for all loops. Peak is weights, "
        "optimiser, caches in memory and what a step adds at its highest."
    )
    mfu = (
        "MFU = needed operations / time / peak. Needed: 2PN + 4DC + 2AN a decoder block forward, 2PN + 8DC + 4AN "
        "backward (P weights of its projections, A of LoRA's, N tokens, C pairs that see each other, D wide), 4VDT for "
        "the head on T answer tokens and 2VDT where the reference's distribution is compared; no dW of frozen weights, "
        "no padding, no vision tower, no reference's forward, nothing above the last layer that is looked at. "
        "Hardware: what the loop computes of the same kind, padding, tower and reference included. Peak "
        f"{info['peak_tflops']:.3g} TFLOP/s ({info['peak_source']})."
    )
    caches = (
        "Caches: the reference's statistics and the tower's output for the step's own examples; then the step with "
        f"all caches of the paper's setting spread over its steps ({EPOCHS} epochs over {FORGET_ROWS} forget rows; "
        f"of {RETAIN_ROWS:,} retain rows, the reference is asked about those that steps draw)."
    )
    parts = [f"# One unlearning step of {info['model']}, {info['dtype']}", shape, mfu, caches]
    for method in dict.fromkeys(r["method"] for r in rows):
        mine = [r for r in rows if r["method"] == method]
        equation = next((r["objective"] for r in mine if "objective" in r), "")
        parts.append(f"## {method}" + (f": `{equation}`" if equation else ""))
        parts.append(table(HEADER, [cells(r) for r in mine]))
        timed = [r for r in mine if "phases_ms" in r]
        if timed:
            phases = [[r["loop"], *(f"{r['phases_ms'][p]:,.0f}" for p in (*PHASES, OTHER))] for r in timed]
            parts.append(table(("milliseconds", *PHASES, OTHER), phases))
        parts += [f"{r['loop']}: {r['note']}." for r in mine if r.get("note")]
    if (info["device"], info["model"]) == TARGET_OF and (said := verdicts(rows)):
        parts += ["## Targets", "\n".join(f"- {line}" for line in said)]
    return "\n\n".join(parts)


COLOURS = dict(zip(LOOPS, ("#0072B2", "#9aa5b1", "#E69F00"), strict=True))


def draw(rows: Sequence[Mapping[str, Any]], title: str, path: Path) -> None:
    """Real tokens per second and peak memory, methods beside each other."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    methods = list(dict.fromkeys(r["method"] for r in rows))
    figure, axes = plt.subplots(2, 1, figsize=(1.4 + 1.15 * max(4, len(methods)), 5.6), layout="constrained")
    for axis, key, label in zip(axes, ("real_tokens_per_s", "peak_mb"), ("real tokens/s", "peak, MB"), strict=True):
        for i, loop in enumerate(LOOPS):
            found = {r["method"]: r for r in rows if r["loop"] == loop and r[key] is not None}
            places = [m + 0.27 * (i - 1) for m, name in enumerate(methods) if name in found]
            heights = [found[name][key] for name in methods if name in found]
            axis.bar(places, heights, 0.25, color=COLOURS[loop], label=loop)
            for place, height, name in zip(places, heights, (n for n in methods if n in found), strict=True):
                ratio = found[name].get("times_clear_code")
                if key == "real_tokens_per_s" and loop == "ours" and ratio is not None:
                    text = f"{ratio['median']:.1f}x"
                    axis.annotate(text, (place, height), (0, 2), textcoords="offset points", ha="center", fontsize=8)
        axis.set_xticks(range(len(methods)), methods)
        axis.set_ylabel(label)
        axis.margins(y=0.12)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_title(title)
    figure.legend(*axes[0].get_legend_handles_labels(), frameon=False, ncols=len(LOOPS), loc="outside lower center")
    figure.savefig(path, dpi=150)
    plt.close(figure)
