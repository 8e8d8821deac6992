"""What the attack on a farm says, in sentences: does it work, is gold at chance, who was found out, what was kept.

    found out   U-LIRA's interval lies above .5, and above gold's interval where there is one
    no trace    the interval holds .5
    kept        retain accuracy >= 0.8 times the original's (board.KEPT_SHARE)

An interval that lies above .5 but reaches into gold's decides nothing. One that lies below .5 counts as found out: an
attack that is wrong more often than right need only be turned round.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from clear_dist.report.attack_file import Share, Vision
from clear_dist.report.board import KEPT_SHARE
from clear_dist.report.farm_read import FarmData
from clear_dist.report.words import number

CHANCE = 0.5
WIDE = 0.15  # an interval wider than this would hide most of what published methods leave behind
ANCHORS = ("original", "gold")
Mood = Literal["yes", "no", ""]
Found = Literal["told", "hidden", "unclear", "unknown"]


@dataclass(frozen=True)
class Line:
    """One sentence of the verdict. pills: (mood, words); moods are "yes" as wanted, "no" not so, "" undecided."""

    name: str
    pills: tuple[tuple[Mood, str], ...]
    text: str


@dataclass(frozen=True)
class FarmVerdict:
    headline: str
    lead: str
    lines: tuple[Line, ...]


def short(value: float) -> str:
    """Two decimals: .71."""
    return number(round(value, 2))[:-1]


def spoken(share: Share) -> str:
    """A figure for running text: ``.71 [.66, .76]``."""
    if share.low is None or share.high is None:
        return f"{short(share.value)} (no interval)"
    return f"{short(share.value)} [{short(share.low)}, {short(share.high)}]"


def found_out(row: Vision | None, gold: Vision | None) -> Found:
    """Whether U-LIRA tells a row's forgotten people from people never seen."""
    share = None if row is None else row.u_lira
    if share is None:
        return "unknown"
    if share.low is None or share.high is None:
        return "unclear"
    if share.high < CHANCE:
        return "told"
    if share.low <= CHANCE:
        return "hidden"
    limit = None if gold is None or gold.u_lira is None else gold.u_lira.high
    return "told" if limit is None or share.low > limit else "unclear"


def kept(row: Vision, original: Vision | None) -> float | None:
    """Retain accuracy as a share of the original's; None where either is not known, or the original's is 0."""
    if original is None or original.retain_acc is None or row.retain_acc is None or original.retain_acc.value == 0:
        return None
    return row.retain_acc.value / original.retain_acc.value


def attack_works(original: Vision | None) -> bool | None:
    """Whether U-LIRA recognises what the original learned; None where that was not measured."""
    share = None if original is None else original.u_lira
    return None if share is None or share.low is None else share.low > CHANCE


def gold_at_chance(gold: Vision | None) -> bool | None:
    share = None if gold is None else gold.u_lira
    if share is None or share.low is None or share.high is None:
        return None
    return share.low <= CHANCE <= share.high


def _original(row: Vision | None) -> Line:
    if row is None or row.u_lira is None:
        return Line("original", (("", "not measured"),), "Whether the attack works at all is not known.")
    said, works = f"U-LIRA {spoken(row.u_lira)}", attack_works(row)
    if works is None:
        return Line("original", (("", "unclear"),), f"{said}: without an interval it says little.")
    if works:
        why = "people it learned are told from people never seen. What follows can therefore show forgetting."
        return Line("original", (("yes", "the attack works"),), f"{said}: {why}")
    why = "even people it learned are not told from people never seen. No figure below is evidence of forgetting."
    return Line("original", (("no", "the attack does not work"),), f"{said}: {why}")


def _gold(row: Vision | None) -> Line:
    if row is None or row.u_lira is None:
        why = "What the attack finds where there is nothing to find is not known."
        return Line("gold", (("", "not measured"),), why)
    said = f"U-LIRA {spoken(row.u_lira)}"
    if row.u_lira.low is None or row.u_lira.high is None:
        return Line("gold", (("", "unclear"),), f"{said}: without an interval it says little.")
    if not gold_at_chance(row):
        why = "chance lies outside, although gold never saw these people. Something else than memory tells the two "
        return Line("gold", (("no", "not at chance"),), f"{said}: {why}sides apart; measure the methods by gold.")
    width = row.u_lira.high - row.u_lira.low
    wide = " That is wide: more shadow models would tell more." if width > WIDE else ""
    why = f"chance lies within. The interval is {short(width)} wide: a leak much smaller than {short(width / 2)} "
    return Line("gold", (("yes", "at chance"),), f"{said}: {why}would not be seen.{wide}")


_PILLS: dict[Found, tuple[Mood, str]] = {
    "told": ("no", "found out"),
    "hidden": ("yes", "no trace found"),
    "unclear": ("", "unclear"),
    "unknown": ("", "not measured"),
}


def _method(name: str, row: Vision, original: Vision | None, gold: Vision | None) -> Line:
    found = found_out(row, gold)
    share = row.u_lira
    if share is None:
        text = "U-LIRA was not measured"
    elif found == "told" and share.value < CHANCE:
        text = f"U-LIRA {spoken(share)}: below chance, so an attacker need only turn the answer round"
    elif found == "told":
        text = f"U-LIRA {spoken(share)}: forgotten people can be told from people never seen"
    elif found == "hidden" and share.high is not None:
        text = f"U-LIRA {spoken(share)}: chance lies within; up to {short(share.high)} cannot be ruled out"
    elif share.low is None:
        text = f"U-LIRA {spoken(share)}: cannot be judged"
    else:
        text = f"U-LIRA {spoken(share)}: above chance, but not clearly above gold"
    share_kept = kept(row, original)
    if share_kept is None:
        return Line(name, (_PILLS[found],), f"{text}. Whether the rest is kept is not known.")
    lost = share_kept < KEPT_SHARE - 1e-9
    pill: tuple[Mood, str] = ("no", "rest lost") if lost else ("yes", "rest kept")
    return Line(name, (_PILLS[found], pill), f"{text}. Retain: {100 * share_kept:.0f}% of the original's.")


def _headline(data: FarmData, methods: dict[str, Vision]) -> tuple[str, str]:
    original, gold = data.row("original"), data.row("gold")
    found = {name: found_out(row, gold) for name, row in methods.items()}
    keeps = {name: kept(row, original) for name, row in methods.items()}
    good = [
        name for name in methods
        if found[name] == "hidden" and (share := keeps[name]) is not None and share >= KEPT_SHARE - 1e-9
    ]  # fmt: skip
    told = sum(v == "told" for v in found.values())
    lead = [f"{told} of {len(methods)} methods {'is' if told == 1 else 'are'} found out by U-LIRA"]
    if open_ := sum(v in ("unclear", "unknown") for v in found.values()):
        lead.append(f"{open_} cannot be decided")
    lost = sum(share is not None and share < KEPT_SHARE - 1e-9 for share in keeps.values())
    lead.append(f"{lost} {'loses' if lost == 1 else 'lose'} more than a fifth of retain accuracy")
    said = "; ".join(lead) + "."
    if good:
        said += f" No trace found, and the rest kept: {', '.join(good)}. That is no proof that nothing is left."
    if original is None or original.u_lira is None:
        return "The attack was not tried on the original: nothing can be concluded.", said
    if not (works := attack_works(original)):
        why = "has no interval on the original" if works is None else "does not recognise what the original learned"
        return f"The attack {why}: nothing can be concluded.", said
    if not methods:
        return "The attack works; no method was attacked.", "Only original and gold have rows."
    if gold_at_chance(gold) is False:
        return "Gold is not at chance: the methods must be measured by gold.", said
    if not good:
        return "No method hides the forgotten people and keeps the rest.", said
    leave, keep = ("leaves", "keeps") if len(good) == 1 else ("leave", "keep")
    return f"{len(good)} of {len(methods)} methods {leave} no trace that U-LIRA finds, and {keep} the rest.", said


def judge_farm(data: FarmData) -> FarmVerdict:
    """The verdict: original and gold first, then the methods in the file's order."""
    original, gold = data.row("original"), data.row("gold")
    methods = {name: row for name, row in data.rows.items() if name.lower() not in ANCHORS}
    headline, lead = _headline(data, methods)
    lines = [_original(original), _gold(gold)]
    lines += [_method(name, row, original, gold) for name, row in methods.items()]
    return FarmVerdict(headline, lead, tuple(lines))
