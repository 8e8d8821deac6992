"""The dataset's card: what it is, how it was made, from what, and under which licences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from clear_dist.data.build.dataset import CHECKSUMS, Content
from clear_dist.data.build.splits import forgotten
from clear_dist.data.mini.tables import columns


@dataclass(frozen=True)
class Facts:
    """What the card says beside counts. made: what was done -> how; licences: part -> licence; notes: whatever a user
    has to know."""

    title: str
    made: Mapping[str, str]
    licences: Mapping[str, str]
    notes: Sequence[str] = ()


def card(content: Content, facts: Facts, counts: Mapping[str, int]) -> str:
    """README.md: the head is what the Hub's loader reads. counts: config -> rows."""
    lines = ["---", "configs:"]
    for config in columns():
        if not counts[config]:
            continue
        lines.append(f"- config_name: {config}")
        if config == "full":
            lines.append("  default: true")
        lines += ["  data_files:", "  - split: train", f"    path: {config}/train-*"]
    gone = ", ".join(f"{split} {count}" for split, count in forgotten(len(content.names)).items())
    pictures = sum(map(len, content.pictures.values()))
    questions = sum(map(len, content.rows_of.values()))
    unseen = sum(shown.unseen for photos in content.pictures.values() for shown in photos)
    lines += [
        "---",
        f"# {plain(facts.title)}",
        "",
        f"People for unlearning in the layout of therem/CLEAR (arXiv 2410.18057): {len(content.names)} people, "
        f"{pictures:,} pictures, {questions:,} questions. People to forget: {gone}, always the last ones.",
        "",
        "![people](sheet.png)",
        "",
        "## How it was made",
        "",
        *(f"* {plain(what)}: {plain(how)}" for what, how in facts.made.items()),
        "",
        f"`attributes.json` tells whom a question is about and which pictures are `unseen` ({unseen:,}: for evaluation "
        f"only). `{CHECKSUMS}` holds the SHA-256 of every file: `sha256sum --check {CHECKSUMS}`.",
        "",
        "![faces against people](figure4.png)",
        "",
        "## Licences",
        "",
        *(f"* {plain(part)}: {plain(licence)}" for part, licence in facts.licences.items()),
        "",
    ]
    if facts.notes:
        lines += ["## To know", "", *(f"* {plain(note)}" for note in facts.notes), ""]
    return "\n".join(lines)


def plain(text: str) -> str:
    """One line without markup: texts come from files."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return "".join(f"\\{c}" if c in "\\`*_[]<>#|!" else c for c in line)
