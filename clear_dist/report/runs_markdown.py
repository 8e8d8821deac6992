"""The report of several runs in Markdown."""

from __future__ import annotations

from clear_dist.report.markdown import block, escape, notes, samples
from clear_dist.report.runs_view import RunsView


def runs_markdown(view: RunsView) -> str:
    """The whole file. Every text that comes from data or a model is escaped."""
    out = ["# Unlearning runs compared", "", f"**{view.headline}**", ""]
    out += [escape(" ".join(view.lead)), ""] if view.lead else []
    out += notes("To bear in mind", view.gaps)
    for one in view.boards:
        out += block(one)
    out += notes("What this report does not show", view.limits)
    for one in view.blocks:
        out += block(one)
    out += samples(view.samples)
    out += ["## The runs", ""]
    for card in view.cards:
        out += [f"### {escape(card.name)}", "", f"**{escape(card.headline)}** {escape(' '.join(card.details))}", ""]
        out += [*(f"* {escape(gap)}" for gap in card.gaps), ""] if card.gaps else []
    return "\n".join(out).rstrip() + "\n"
