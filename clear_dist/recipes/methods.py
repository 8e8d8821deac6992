"""List the methods: what each of them optimises, where it comes from, what it needs and what it costs."""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from clear_dist.config import MethodsConfig
from clear_dist.methods import METHODS, VARIANTS, Objective, Setting, Variant
from clear_dist.methods.text import number
from clear_dist.types import View

CLEAR = "arXiv 2410.18057, appendix A"
OURS = "clear_dist"
# Passes over the model, counted in forward passes: a backward pass is as dear as two of them.
FORWARD_BACKWARD, FORWARD = 3, 1
SUPPLIES = {
    View.IDK: "IDK answers",
    View.RANDOM: "answers about others",
    View.SAFE: "safe answers",
    View.GUIDE: "teacher answers",
    View.AUGMENTED: "pictures",
}


@dataclass(frozen=True)
class Entry:
    """A method of the table in one variant: everything a listing says of it.

    common: retain terms that can be added, all off. cost: passes relative to gd; see :func:`cost`. variants: variant
    of other code -> its equation, None where that code does the same.
    """

    name: str
    objective: Objective
    about: str
    source: str
    hyperparameters: dict[str, Setting]
    common: dict[str, Setting]
    cost: float
    variants: dict[Variant, str | None]

    @property
    def equation(self) -> str:
        return str(self.objective)

    @property
    def needs(self) -> list[str]:
        """What a run has to have besides forget and retain examples, in words."""
        needs = self.objective.needs
        out = [words for view, words in SUPPLIES.items() if view in needs.views]
        if needs.reference:
            out.append("reference")
        return out + [f"decoder block {layer}" for layer in needs.layers]

    @property
    def shown_cost(self) -> str:
        """``1.17``, or ``1.17 x 8/blocks`` where blocks above the eighth are not run."""
        depth = self.objective.needs.depth
        return f"{self.cost:.2f}" + (f" x {depth}/blocks" if depth else "")

    def to_json(self) -> dict[str, object]:
        """Its fields and what its objective needs, in JSON's types; views in lower case."""
        needs = self.objective.needs
        return {
            "name": self.name,
            "equation": self.equation,
            "about": self.about,
            "source": self.source,
            "needs": {
                "views": [str(v) for v in needs.views],
                "reference": bool(needs.reference),
                "layers": list(needs.layers),
                "pairs": [[str(v) for v in pair] for pair in needs.pairs],
                "depth": needs.depth,
                "train_layers": None if self.objective.train_layers is None else list(self.objective.train_layers),
            },
            "hyperparameters": self.hyperparameters,
            "common": self.common,
            "cost": round(self.cost, 4),
            "variants": self.variants,
        }


def run(config: MethodsConfig) -> None:
    """``clear-dist methods [--json | --markdown] [--preset ...]``."""
    if config.markdown:
        from .methods_page import markdown

        print(markdown(), end="")
    elif config.json:
        print(json.dumps([entry.to_json() for entry in listing(config.preset)], indent=2))
    else:
        Console().print(table(config.preset))


def listing(variant: Variant = "paper") -> list[Entry]:
    """Every method, in the table's order, as the paper or another code base has it."""
    return [describe(name, variant) for name in METHODS]


def describe(name: str, variant: Variant = "paper") -> Entry:
    """One method. KeyError: no such method."""
    method = METHODS[name]
    objective = method.build(variant=variant)
    own = method.hyperparameters(variant)
    return Entry(
        name=name,
        objective=objective,
        about=plain(method.about),
        source=source(inspect.getdoc(method.paper) or ""),
        hyperparameters=own,
        common={k: v for k, v in method.settings(variant).items() if k not in own},
        cost=cost(objective) / cost(METHODS["gd"].build()),
        variants={
            v: None if method.equation(v) is method.paper else str(method.build(variant=v))
            for v in VARIANTS
            if v != "paper"
        },
    )


def source(docstring: str) -> str:
    """Where an equation is from: the arXiv numbers a docstring gives; without any, CLEAR's, unless it says ours."""
    found = list(dict.fromkeys(re.findall(r"arXiv\s+(\d{4}\.\d{4,5})", docstring)))
    if found:
        return ", ".join(f"arXiv {number}" for number in found)
    return OURS if re.search(r"\bOurs\b", docstring) else CLEAR


def cost(objective: Objective) -> int:
    """Passes over the model for one example of each view, in forward passes: a student's forward and backward are
    three, a reference's forward is one, on the views it is asked about. Groups of an update rule run one by one."""
    total = 0
    for group in objective.rule.groups(objective):
        total += FORWARD_BACKWARD * len(group.needs.views) + FORWARD * len(group.needs.reference)
    return total


def plain(text: str) -> str:
    """A docstring's words without its marks."""
    return text.replace("``", "")


def shown(value: Setting) -> str:
    """A setting as it is typed: 0.5, true, npo."""
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else number(value)


def table(variant: Variant = "paper") -> Table:
    """For a terminal of 80 columns or more; every cell but the names wraps."""
    whose = {"paper": "", "clear_code": " of CLEAR's public code", "tofu": " of TOFU's code"}[variant]
    out = Table(
        title=f"methods{whose}: --method NAME --set KEY=VALUE",
        caption="Cost: passes over the model, relative to gd. More retain terms for any method: --set retain_weight=1, "
        "kl_weight=1, match_weight=1 (match_layer=7).",
        show_lines=True,
        expand=True,
    )
    out.add_column("method", no_wrap=True)
    out.add_column("equation, hyperparameters", ratio=1)
    out.add_column("needs, source", width=24)
    out.add_column("cost", width=8)
    for entry in listing(variant):
        settings = "  ".join(f"{key}={shown(value)}" for key, value in entry.hyperparameters.items())
        lines = [f"[bold]{escape(entry.equation)}[/bold]", escape(entry.about), f"[dim]{escape(settings)}[/dim]"]
        needs = ", ".join(entry.needs)
        out.add_row(
            entry.name,
            "\n".join(lines if settings else lines[:2]),
            f"{needs}\n[dim]{entry.source}[/dim]" if needs else f"[dim]{entry.source}[/dim]",
            entry.shown_cost,
        )
    return out
