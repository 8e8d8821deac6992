"""The page of an attack on a farm of vision models: verdict, leaderboard, Table 2, figures 5 and 6, who is exposed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clear_dist.report.blocks import Block
from clear_dist.report.board import vision_table
from clear_dist.report.cells import Table
from clear_dist.report.draw import Image
from clear_dist.report.farm_facts import farm_facts, setting
from clear_dist.report.farm_figures import accuracy_image, roc_image
from clear_dist.report.farm_panels import epochs_image, logits_image
from clear_dist.report.farm_read import FarmData, read_farm
from clear_dist.report.farm_tables import estimators_table, exposed_tables, rates_table
from clear_dist.report.farm_verdict import FarmVerdict, judge_farm
from clear_dist.report.latex import latex
from clear_dist.report.markdown import block, escape, notes
from clear_dist.report.paper import table_2
from clear_dist.report.render import render, write_report
from clear_dist.report.view import Facts
from clear_dist.report.words import clean

LISTED = 12  # missing tasks that are named; of more only the number is said
MEANINGS = {
    "Forget, holdout, retain": "People to forget; people the model never saw; people it learned and is to keep. A "
    "picture is identified if the nearest enrolment vector (cosine) is its person's.",
    "Enrolment vector": "Mean embedding of a few pictures of a person. Nobody is enrolled by a model: a person never "
    "seen can be identified too, so perfect forgetting brings forget down to holdout, not to zero.",
    "Original, gold": "The original is a shadow model that saw the people to forget. Gold was trained again without "
    "them, which is what perfect unlearning would give.",
    "Shadow model": "One of many models trained alike on other people, so that half of them saw the people to forget "
    "and half did not. The attack learns from some what forgetting leaves behind, and is tried on the others.",
    "U-LIRA": "For each picture two normal distributions of its logit, one over models that forgot it and one over "
    "models that never saw it; the likelier one is the answer. Accuracy is balanced: .5 is chance, 1 is always right. "
    "CLEAR, section 5.2, after arXiv 2403.01218 and 2112.03570.",
    "U-MIA": "One logistic regression of the logit over all pictures together: a weaker attacker.",
    "AUC, true positives at a rate": "AUC: how often a forgotten picture gets the higher score of the two; .5 is "
    "chance. At a rate of .01: the share of forgotten ones recognised if one in a hundred never seen may be accused.",
    "Interval": "95%, by a bootstrap over models: whole models are drawn again, and the attack fitted anew each time.",
    "Logit": "ln(c / (1 - c)) of the cosine c between a picture's embedding and its person's enrolment vector.",
}


@dataclass(frozen=True)
class FarmView:
    """Everything the page shows."""

    name: str
    verdict: FarmVerdict
    gaps: tuple[str, ...]
    limits: tuple[str, ...]
    blocks: tuple[Block, ...]
    paper: Table
    command: str | None
    facts: tuple[Facts, ...]

    @property
    def images(self) -> tuple[Image, ...]:
        return tuple(image for one in self.blocks for image in one.images)


def _gaps(data: FarmData) -> tuple[str, ...]:
    out = []
    if not data.facts.get("finished", True):
        out.append(
            "The attack began, but did not come to its end: its files may be of different attacks. Run it again."
        )
    missing = data.facts.get("incomplete")
    if isinstance(missing, list) and missing:
        more = f" and {len(missing) - LISTED} more" if len(missing) > LISTED else ""
        tasks = "1 task of the farm is" if len(missing) == 1 else f"{len(missing)} tasks of the farm are"
        named = ", ".join(map(str, missing[:LISTED])) + more
        out.append(
            f"{tasks} not done: {named}. The figures rest on the models that are; finish the farm and attack again."
        )
    skipped = data.facts.get("skipped")
    if isinstance(skipped, Mapping):
        out += [f"{row} is left out: {why}" for row, why in skipped.items()]
    return (*out, *data.gaps)


def _limits(data: FarmData) -> tuple[str, ...]:
    out = [
        "Other people. Intervals are over models, not over identities: they say what other models trained alike would "
        "give for these very people and pictures. Other people to forget could give other figures.",
        "What “never seen” leaves open: those models were trained without the picture, but start from the same "
        "pretraining and saw other people. Only forgotten against never seen is told apart, not learned against "
        "forgotten.",
        "Stronger attackers. U-LIRA knows the method and has many shadow models, yet looks at one number of each "
        "picture; an attack that finds nothing is no proof that nothing is left.",
    ]
    methods = [name for name in data.rows if name.lower() not in ("original", "gold")]
    if len(methods) > 2:
        out.append(
            f"The best of {len(methods)}. Each interval misses in one of twenty cases; of so many methods side by side "
            "one may look better than the next by chance."
        )
    if setting(data.facts, "enrolment") == "paper":
        out.append(
            "Pictures apart from enrolment. As in the paper, the pictures a person is enrolled with are attacked too, "
            "so a part of each likeness is that of a picture to itself (--enrolment held_out leaves them out)."
        )
    return tuple(out)


def _present(*found: Any) -> tuple[Any, ...]:
    return tuple(one for one in found if one is not None)


def _blocks(data: FarmData, paper: Table) -> tuple[Block, ...]:
    name = data.name
    found = [
        Block(
            "board",
            "Leaderboard",
            "How far each method hides that people were ever there, and what it keeps. Read an interval before a rank.",
            _present(accuracy_image(data)),
            (vision_table(data.rows, f"Vision: {name}", "leaderboard"),),
        ),
        Block(
            "clear",
            "Beside the CLEAR paper",
            "Table 2 as printed, of a ResNet-18 on photographs of well-known people, and ours in the same rows. Models "
            "and data differ: only the shape of the table compares, never a figure with a figure. The paper prints no "
            "intervals.",
            tables=(paper,),
        ),
        Block(
            "attacks",
            "The attacks, closer",
            "Accuracy by other estimates, and what an attacker reaches who must seldom accuse wrongly.",
            _present(roc_image(data)),
            _present(estimators_table(data), rates_table(data)),
        ),
        Block(
            "logits",
            "What the attacks see",
            "The one number of each picture that both attacks read. A method that pushes people to forget away from "
            "everybody else makes them stand out, on whichever side.",
            _present(logits_image(data)),
        ),
        Block(
            "epochs",
            "Epoch by epoch",
            "Of the methods that were watched while they unlearned: where they stop decides what they leave behind.",
            _present(epochs_image(data)),
        ),
        Block(
            "exposed",
            "Who is exposed",
            "The ten most and the ten least exposed. Each figure rests on few target models and has no interval: the "
            "extremes of many such figures are in part luck.",
            tables=exposed_tables(data),
        ),
    ]
    return tuple(one for one in found if one)


def _paper(data: FarmData) -> Table:
    """Table 2 without the column that says which run a row is of: there is one."""
    whole = table_2([(data.name, "board", data.rows)])
    *groups, (_, ours) = whole.groups
    rows = tuple(replace(row, cells=row.cells[:-1]) for row in whole.rows)
    return replace(whole, head=whole.head[:-1], rows=rows, groups=(*groups, ("Ours, with 95% intervals", ours - 1)))


def farm_view(data: FarmData) -> FarmView:
    paper = _paper(data)
    command = data.facts.get("command")
    return FarmView(
        name=data.name,
        verdict=judge_farm(data),
        gaps=_gaps(data),
        limits=_limits(data),
        blocks=_blocks(data, paper),
        paper=paper,
        command=command if isinstance(command, str) else None,
        facts=farm_facts(data.facts),
    )


def farm_markdown(view: FarmView) -> str:
    """The same in Markdown. Every text that comes from data is escaped."""
    out = [f"# Attack on a farm: {escape(view.name)}", "", f"**{escape(view.verdict.headline)}**", ""]
    out += [escape(view.verdict.lead), "", "## Verdict", ""]
    for line in view.verdict.lines:
        pills = ", ".join(words for _, words in line.pills)
        out.append(f"* **{escape(line.name)}** ({pills}): {escape(line.text)}")
    out += ["", *notes("To bear in mind", view.gaps), *notes("What this page does not show", view.limits)]
    for one in view.blocks:
        out += block(one)
    if view.command is not None or view.facts:
        out += ["## How it was made", ""]
    if view.command is not None:
        out += ["    " + " ".join(clean(view.command).split()), ""]
    for facts in view.facts:
        out += [f"### {escape(facts.title)}", "", "| | |", "| --- | --- |"]
        out += [*(f"| {escape(k)} | {escape(v)} |" for k, v in facts.rows), ""]
    out += ["## What the terms mean", "", *(f"* **{escape(k)}**: {escape(v)}" for k, v in MEANINGS.items())]
    return "\n".join(out).rstrip() + "\n"


def farm_report(folder: Path, out: Path | None = None) -> tuple[Path, Path]:
    """Writes index.html, report.md, table2.tex and figures/ and returns the paths of the first two.

    Reads attack.json (required), curves.json, examples.csv and run.json; what is absent is said on the page. The same
    files give the same bytes. Raises UserError naming file and field if one of them is broken.

    Args:
        folder: where the attack was written to.
        out: where the page goes; default ``folder``.
    """
    view = farm_view(read_farm(folder))
    out = out or folder
    texts = {
        "index.html": render("farm.html.j2", view, MEANINGS),
        "report.md": farm_markdown(view),
        "table2.tex": latex(view.paper),
    }
    write_report(out, view.images, texts)
    return out / "index.html", out / "report.md"
