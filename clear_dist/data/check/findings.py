"""What a check found: a fault breaks a promise of the layout, a warning is for somebody to look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["fault", "warning"]


@dataclass(frozen=True)
class Finding:
    """kind: a slug, e.g. ``swapped-label``. place: config and row, e.g. ``forget10[3]``, or a file. pictures: digests
    of those to look at."""

    kind: str
    place: str
    what: str
    severity: Severity = "fault"
    pictures: tuple[str, ...] = ()


@dataclass
class Report:
    """findings, in the order of the checks; counts: rows of every config; people: pictures and questions of each."""

    source: str
    findings: list[Finding] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    people: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add(self, kind: str, place: str, what: str, *, warn: bool = False, pictures: Iterable[str] = ()) -> None:
        self.findings.append(Finding(kind, place, what, "warning" if warn else "fault", tuple(pictures)))

    @property
    def faults(self) -> list[Finding]:
        return [f for f in self.findings if f.severity == "fault"]

    @property
    def sound(self) -> bool:
        return not self.faults

    def kinds(self) -> Counter[str]:
        return Counter(f.kind for f in self.findings)
