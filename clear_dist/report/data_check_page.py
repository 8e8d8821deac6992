"""The page of ``clear-dist data check``: what a dataset is, what is wrong with it, and the pictures concerned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clear_dist.report.cells import Cell, Row, Table, text
from clear_dist.report.data_figures import balance_image
from clear_dist.report.data_kinds import meaning_of
from clear_dist.report.data_pieces import Section, Thumbnail, several, thumbnail
from clear_dist.report.render import render

MEANINGS = {
    "Fault": "A promise of the layout that is broken: figures of a run on this dataset would be wrong, or it would "
    "stop.",
    "Warning": "Something to look at, which may be meant. It does not make the dataset unsound.",
    "Place": "Config and row, counted from 0: forget10[3] is the fourth row of forget10; or a file.",
    "Balance": "Half of the people have as many pictures as the median, or more. Who has less than half of that is "
    "drawn in another colour.",
}


@dataclass(frozen=True)
class Found:
    place: str
    what: str
    pictures: tuple[Thumbnail, ...]


@dataclass(frozen=True)
class KindView:
    """Findings of one kind and severity. key: id on the page. more: how many are not shown."""

    key: str
    kind: str
    fault: bool
    count: int
    meaning: str
    advice: str
    findings: tuple[Found, ...]

    @property
    def more(self) -> int:
        return self.count - len(self.findings)

    @property
    def with_pictures(self) -> bool:
        return any(found.pictures for found in self.findings)

    @property
    def told(self) -> str:
        return several(self.count, "fault" if self.fault else "warning")


@dataclass(frozen=True)
class CheckView:
    """Everything the page shows."""

    source: str
    headline: str
    lead: str
    kinds: tuple[KindView, ...]
    blocks: tuple[Section, ...]


def data_check_page(found: Mapping[str, Any], pictures: Mapping[str, bytes], *, shown: int = 5) -> str:
    """The HTML page of a check.

    Args:
        found: the object that ``clear-dist data check --json`` prints.
        pictures: digest -> PNG or JPEG, small; a digest that is not there is shown as a gap.
        shown: findings of each kind in full; the others are counted.
    """
    return render("data_check.html.j2", check_view(found, pictures, shown), MEANINGS)


def shown_pictures(found: Mapping[str, Any], shown: int) -> list[str]:
    """Digests of the pictures that a page has a place for, each once, in the order of the page."""
    findings = [one for group in _grouped(found).values() for one in group[:shown]]
    return list(dict.fromkeys(digest for one in findings for digest in one["pictures"]))


def check_view(found: Mapping[str, Any], pictures: Mapping[str, bytes], shown: int) -> CheckView:
    faults = sum(one["severity"] == "fault" for one in found["findings"])
    warnings = len(found["findings"]) - faults
    told = several(warnings, "warning")
    sound = f"Sound, with {told}" if warnings else "Sound: nothing was found"
    rows = sum(found["counts"].values())
    lead = (
        f"{several(len(found['people']), 'person', 'people')} and {several(rows, 'row')} in "
        f"{several(len(found['counts']), 'config')} were looked at."
    )
    balance = balance_image(found["people"])
    blocks = (
        Section(
            "balance",
            "Balance",
            "Who has much fewer pictures or questions than most is learned less well, and forgotten sooner.",
            () if balance is None else (balance,),
        ),
        Section(
            "rows",
            "What was looked at",
            "Rows of each config; a config that could not be read counts none.",
            tables=() if not found["counts"] else (_counts(found["counts"]),),
        ),
    )
    return CheckView(
        source=found["source"],
        headline=several(faults, "fault") + (f", {told}" if warnings else "") if faults else sound,
        lead=lead,
        kinds=tuple(
            _kind(number, group, pictures, shown) for number, group in enumerate(_grouped(found).values(), start=1)
        ),
        blocks=tuple(block for block in blocks if block),
    )


def _grouped(found: Mapping[str, Any]) -> dict[tuple[bool, str], list[Mapping[str, Any]]]:
    """(is a warning, kind) -> findings: faults first, kinds in the order in which they were found."""
    out: dict[tuple[bool, str], list[Mapping[str, Any]]] = {}
    for one in sorted(found["findings"], key=lambda one: one["severity"] != "fault"):
        out.setdefault((one["severity"] != "fault", one["kind"]), []).append(one)
    return out


def _kind(number: int, group: list[Mapping[str, Any]], pictures: Mapping[str, bytes], shown: int) -> KindView:
    kind, fault = group[0]["kind"], group[0]["severity"] == "fault"
    meaning, advice = meaning_of(kind)
    findings = []
    for one in group[:shown]:
        of = len(one["pictures"])
        findings.append(
            Found(
                one["place"],
                one["what"],
                tuple(
                    thumbnail(pictures.get(digest), f"Picture {at} of {of} at {one['place']}: {kind}")
                    for at, digest in enumerate(one["pictures"], start=1)
                ),
            )
        )
    return KindView(f"kind-{number}", kind, fault, len(group), meaning, advice, tuple(findings))


def _counts(counts: Mapping[str, int]) -> Table:
    rows = tuple(Row((text(name), Cell(f"{count:,}", kind="number"))) for name, count in counts.items())
    return Table("rows-by-config", "Rows by config", ("Config", "Rows"), rows)
