"""The page of a scale study: speed, memory, scaling, what methods cost, measured against predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clear_dist.report.blocks import Block
from clear_dist.report.draw import Image
from clear_dist.report.markdown import block, escape, notes
from clear_dist.report.render import render, write_report
from clear_dist.report.scale_bars import agreement_image, memory_image, methods_image
from clear_dist.report.scale_lines import ACROSS, Quantity, line_image
from clear_dist.report.scale_read import ScaleData, agreement, amount, read_study
from clear_dist.report.scale_tables import costs_table, measured_table, named, points_table
from clear_dist.report.view import Facts, facts_from

MOST_MIXES = 3  # that get figures of their own; all are in the tables' file
LISTED = 12
MEANINGS = {
    "Tokens/s, images/s": "Tokens of text and pictures that are no padding, and pictures, of all GPUs together, by the "
    "seconds of an optimiser step.",
    "MFU": "Model FLOPs utilisation: operations the job needs (forward, backward through activations, gradients of "
    "what trains) by seconds, GPUs and the peak of one. On a CPU the measured share is of the fastest matrix product "
    "that the same ranks reached in the same run.",
    "Peak": "The highest point of a step, of the GPU or rank that needs most. Measured, it is what the allocator gave "
    "out; a prediction for a GPU counts the context and what the allocator loses as well.",
    "Strong scaling": "The same batch on more GPUs. Ideally N GPUs take an N-th of the time; shown is the fewest GPUs "
    "that a figure exists for, times the gain since.",
    "Weak scaling": "A batch for each GPU. Ideally a GPU keeps its speed; shown is what it keeps of the speed with the "
    "fewest GPUs that a figure exists for.",
    "Predicted": "By the planner: memory from the modules, time by a roofline at 65% of peak rates from data sheets.",
    "Measured": "The real engine with random weights and random examples of the mix: the median of its steps.",
    "z0 to z3, zpp, z3_offload": "The shipped DeepSpeed files: ZeRO stages 0 to 3, ZeRO++, and stage 3 with states in "
    "the host's memory.",
}


@dataclass(frozen=True)
class ScaleView:
    """Everything the page shows."""

    name: str
    headline: str
    lead: str
    notes: tuple[str, ...]
    gaps: tuple[str, ...]
    blocks: tuple[Block, ...]
    facts: tuple[Facts, ...]

    @property
    def images(self) -> tuple[Image, ...]:
        return tuple(image for one in self.blocks for image in one.images)


def scale_report(folder: Path, out: Path | None = None) -> tuple[Path, Path]:
    """Writes index.html, report.md and figures/ from scale_study.json, and returns the paths of the first two.

    Raises UserError, naming file and field, if that file is absent or broken.
    """
    view = scale_view(read_study(folder), folder.resolve().name)
    out = out or folder
    texts = {"index.html": render("scale.html.j2", view, MEANINGS), "report.md": scale_markdown(view)}
    write_report(out, view.images, texts)
    return out / "index.html", out / "report.md"


def scale_view(data: ScaleData, name: str) -> ScaleView:
    measured = len(data.measured)
    told = f"{measured} measured, " if measured else ""
    headline = f"{len(data.rows):,} points on {data.gpu['name']}: {told}all predicted"
    return ScaleView(
        name=name,
        headline=headline,
        lead=_lead(data),
        notes=_notes(data),
        gaps=_gaps(data),
        blocks=tuple(one for one in _blocks(data) if one),
        facts=facts_from({"machine": data.machine, "gpu": data.gpu, "grid": data.grid}),
    )


def _lead(data: ScaleData) -> str:
    fits = sum(row["predicted"]["fits"] for row in data.rows)
    said = [f"{fits:,} of {len(data.rows):,} points fit." if fits < len(data.rows) else "Every point fits."]
    for field, words in (("peak_bytes", "Measured peaks"), ("step_s", "Measured step times")):
        if found := agreement(data, field):
            said.append(
                f"{words} are {amount(found.middle)} times the predicted ones in the middle, {amount(found.low)} to "
                f"{amount(found.high)} over all points."
            )
    return " ".join(said)


def _notes(data: ScaleData) -> tuple[str, ...]:
    out = [
        "Every example is an average one of its mix. Real ones differ, and few of them do not fall to ranks evenly: "
        "the rank with most pictures is the slowest, and needs most."
    ]
    if not data.measured:
        out.insert(0, "Nothing was measured: every figure is the planner's, for comparing with others of the planner.")
    elif data.gpu["name"] == "cpu":
        out.append(
            "On a CPU the planner knows two cores of a laptop, not this machine: its step times are a guess. A rank "
            "has the same number of threads whatever their number, but they share the machine's memory and its caches."
        )
    recomputing = sum(row["predicted"]["recomputes"] for row in data.rows)
    if 0 < recomputing < len(data.rows):
        out.append(
            f"Activations are recomputed at {recomputing} of {len(data.rows)} points, where they do not fit otherwise. "
            "With more GPUs, or another method, they may fit again: speed above the ideal comes from there."
        )
    if any(not row["predicted"]["fits"] for row in data.rows):
        out.append("What does not fit has no speed: a cross at a panel's foot, a hatched bar.")
    if len(data.mixes) > MOST_MIXES:
        out.append(f"Figures are of the first {MOST_MIXES} mixes; scale_study.json has all {len(data.mixes)}.")
    return tuple(out)


def _gaps(data: ScaleData) -> tuple[str, ...]:
    failed = [f"{named(row)}: {row['why']}" for row in data.failed]
    more = (f"and {len(failed) - LISTED} more, in scale_study.json",) if len(failed) > LISTED else ()
    return (*failed[:LISTED], *more, *(f"Left out: {line}" for line in data.left_out))


def _blocks(data: ScaleData) -> Sequence[Block]:
    drawn: dict[str, list[Image | None]] = {key: [] for key in ("speed", "mfu", "memory", "strong", "weak")}
    speed = (Quantity("tokens_per_s", "tokens/s"), Quantity("images_per_s", "images/s"))
    mfu = (Quantity("mfu", "MFU, %", 100, logarithmic=False),)
    ideal = {
        "strong": (Quantity("tokens_per_s", f"speed, in {data.devices}", how="strong"),),
        "weak": (Quantity("tokens_per_s", "speed kept, %", logarithmic=False, how="weak"),),
    }
    for mix, models, end in _sheets(data):
        of = f"{data.baseline}, {mix}"
        for key, what in (("speed", speed), ("mfu", mfu)):
            title = f"{' and '.join(q.words for q in what)}: {of}, {data.compared} scaling"
            drawn[key].append(line_image(data, f"{key}{end}", mix, models, data.compared, what, title))
        drawn["memory"].append(memory_image(data, f"memory{end}", mix, models))
        for how, what in ideal.items():
            if data.has(how):
                title = f"{how.capitalize()} scaling: {of}. The dashed line is ideal"
                drawn[how].append(line_image(data, f"{how}{end}", mix, models, how, what, title))
    images = {key: tuple(image for image in found if image is not None) for key, found in drawn.items()}
    tables = tuple(points_table(data, mix, f"points-{i}") for i, mix in enumerate(data.mixes[:MOST_MIXES], 1))
    return (
        Block(
            "speed", "Speed", f"Tokens and images a second, of all {data.devices} together.", images["speed"], tables
        ),
        Block("mfu", "MFU", "How much of the peak goes into what the job needs.", images["mfu"]),
        Block("memory", "Memory", "At the highest point of a step.", images["memory"]),
        Block(
            "strong",
            "Strong scaling",
            f"One batch on more {data.devices}, beside the fewest it fits on.",
            images["strong"],
        ),
        Block(
            "weak",
            "Weak scaling",
            f"As large a batch on each of the {data.devices}, beside the fewest it fits on.",
            images["weak"],
        ),
        Block(
            "methods",
            "What methods cost",
            f"A step of another objective, by one of {data.baseline}: other views are read, references asked, blocks "
            "run. The examples of a step are those of every view.",
            _present(methods_image(data)),
            _present(costs_table(data)),
        ),
        Block(
            "agreement",
            "Measured against predicted",
            "What the planner is worth here. A ratio of 1 is a prediction that came true.",
            _present(agreement_image(data)),
            _present(measured_table(data)),
        ),
    )


def _sheets(data: ScaleData) -> list[tuple[str, tuple[str, ...], str]]:
    """(mix, models of one figure, end of its name): a figure a mix, and for every few models."""
    groups = [data.models[i : i + ACROSS] for i in range(0, len(data.models), ACROSS)]
    mixes = data.mixes[:MOST_MIXES]
    out = []
    for number, mix in enumerate(mixes, 1):
        for part, models in enumerate(groups, 1):
            end = (f"-{number}" if len(mixes) > 1 else "") + (f"-{part}" if len(groups) > 1 else "")
            out.append((mix, models, end))
    return out


def _present(found: Any) -> tuple[Any, ...]:
    return () if found is None else (found,)


def scale_markdown(view: ScaleView) -> str:
    """The same in Markdown. Every text that comes from the grid is escaped."""
    out = [f"# Scale study: {escape(view.name)}", "", f"**{escape(view.headline)}**", "", escape(view.lead), ""]
    out += [*notes("To bear in mind", view.notes), *notes("What failed, or was left out", view.gaps)]
    for one in view.blocks:
        out += block(one)
    out += ["## How it was made", ""]
    for facts in view.facts:
        out += [f"### {escape(facts.title)}", "", "| | |", "| --- | --- |"]
        out += [*(f"| {escape(k)} | {escape(v)} |" for k, v in facts.rows), ""]
    out += ["## What the terms mean", "", *(f"* **{escape(k)}**: {escape(v)}" for k, v in MEANINGS.items())]
    return "\n".join(out).rstrip() + "\n"
