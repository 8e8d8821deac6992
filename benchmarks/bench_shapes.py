"""Do the papers' shapes show on CLEAR-mini? Every method, three seeds, against what the papers say must happen.

Sweeps (``clear-dist sweep``, resumable) into one folder, then one table of claims:

* ``all``     every method of the table with its preset
* ``long``    ga, gd, kl and rmu run three times as long; ``harsh``: twice as long at two to three times the rate;
  ``rmu``: three times as long with a tenth of the retain weight
* ``text``, ``visual``  the default method on one modality, asked about both
* ``l1``      ga and gd with an L1 penalty on the LoRA weights, measured as they go, compared at matched forgetting

Forget accuracy is relative: original 1, gold 0. Retain accuracy is a share of the original's.

    python benchmarks/bench_shapes.py --out runs/shapes            # about an hour on two cores
    python benchmarks/bench_shapes.py --out runs/shapes --only read  # from sweeps already there
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.common import RESULTS, device_of, machine, write_results  # noqa: E402

SEEDS = "0,1,2"
L1 = (0.0, 3e-05, 0.0001, 0.001, 0.01)
SWEEPS: dict[str, list[str]] = {
    "all": ["--methods", "all"],
    "long": ["--methods", "ga,gd,kl,rmu", "--epochs", "36"],
    "harsh": ["--methods", "gd,kl,rmu", "--epochs", "24", "--lr", "3e-3"],
    "rmu": ["--methods", "rmu", "--epochs", "36", "--grid", "set.alpha=0.1"],
    "text": ["--methods", "npo", "--modality", "text", "--eval-modality", "both"],
    "visual": ["--methods", "npo", "--modality", "visual", "--eval-modality", "both"],
    "l1": ["--methods", "ga,gd", "--grid", "l1=" + ",".join(f"{x:g}" for x in L1), "--eval-every", "10"],
}
LEVELS = (0.75, 0.5, 0.25, 0.1)  # of what was known of the forget set at the start
Row = Mapping[str, Any]


def run(which: Sequence[str], out: Path, more: Sequence[str]) -> None:
    """The sweeps themselves; what is finished is not run again."""
    for name in which:
        command = [
            sys.executable,
            "-m",
            "clear_dist",
            "sweep",
            *SWEEPS[name],
            "--seeds",
            SEEDS,
            "--out",
            str(out / name),
        ]
        subprocess.run([*command, *more], check=True, cwd=ROOT)


def rows_of(out: Path, name: str) -> list[Row]:
    path = out / name / "sweep.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def value(row: Row, which: str, metric: str) -> float:
    """A figure of a run: of a set, or of the aftermath."""
    summary = row["summary"]
    entry = summary["aftermath"][metric] if which == "aftermath" else summary["sets"][which]["all"][metric]
    return float("nan") if entry is None else float(entry["value"])


class Sweep:
    """The finished rows of one sweep, with the original and gold of each seed."""

    def __init__(self, rows: Sequence[Row]) -> None:
        done = [r for r in rows if "summary" in r]
        self.anchors = {(r["method"], r["seed"]): r for r in done if r["method"] in ("original", "gold")}
        self.runs = [r for r in done if r["method"] not in ("original", "gold")]

    def of(self, method: str) -> list[Row]:
        return [r for r in self.runs if r["method"] == method]

    def forget(self, row: Row, metric: str) -> float:
        """1: as the original; 0: as gold."""
        original, gold = (value(self.anchors[name, row["seed"]], "forget", metric) for name in ("original", "gold"))
        return (value(row, "forget", metric) - gold) / (original - gold)

    def retain(self, row: Row, metric: str) -> float:
        """A share of the original's."""
        return value(row, "retain", metric) / value(self.anchors["original", row["seed"]], "retain", metric)

    def figures(self, method: str) -> dict[str, list[float]]:
        """figure -> one value a seed."""
        rows = self.of(method)
        return {
            "forget_name": [self.forget(r, "name_accuracy") for r in rows],
            "forget_fact": [self.forget(r, "fact_accuracy") for r in rows],
            "retain_name": [self.retain(r, "name_accuracy") for r in rows],
            "retain_fact": [self.retain(r, "fact_accuracy") for r in rows],
            "named_anyone": [value(r, "aftermath", "named_anyone") for r in rows],
            "attribute_recall": [value(r, "aftermath", "attribute_recall") for r in rows],
        }


def claims(out: Path) -> list[dict[str, Any]]:
    """claim, what was seen (medians, every seed's value), and whether it holds; claims without a run are left out."""
    everything, long, harsh, weak = (Sweep(rows_of(out, name)) for name in ("all", "long", "harsh", "rmu"))
    found: list[dict[str, Any]] = []

    def claim(text: str, seen: Mapping[str, Sequence[float]], holds: Callable[[dict[str, float]], bool]) -> None:
        if all(seen.values()):
            medians = {k: median(v) for k, v in seen.items()}
            shown = {k: {"median": medians[k], "seeds": list(v)} for k, v in seen.items()}
            found.append({"claim": text, "seen": shown, "holds": holds(medians)})

    def seen_of(sweep: Sweep, method: str, *names: str) -> dict[str, list[float]]:
        figures = sweep.figures(method)
        return {name: figures[name] for name in names}

    forget, retain = ("forget_name", "forget_fact"), ("retain_name", "retain_fact")
    half = "takes more than half of retain (names or facts)"
    for method in ("ga", "gd", "kl", "rmu"):
        seen = seen_of(everything, method, *forget)
        claim(f"{method} forgets: names and facts below .1", seen, lambda m: max(m.values()) < 0.1)
        for sweep, how in (
            (everything, "at its preset"),
            (long, "run three times as long"),
            (harsh, "run twice as long at 3e-3"),
        ):
            seen = seen_of(sweep, method, *retain)
            claim(f"{method}, {how}, {half}", seen, lambda m: min(m.values()) < 0.5)
    seen = seen_of(weak, "rmu", *retain)
    claim(f"rmu with a tenth of the retain weight, run long, {half}", seen, lambda m: min(m.values()) < 0.5)
    seen = seen_of(everything, "retain_ft", *forget)
    claim("retain_ft forgets less than .3", seen, lambda m: 1 - min(m.values()) < 0.3)
    for method in ("idk", "npo", "scrub"):
        seen = seen_of(everything, method, *retain)
        claim(
            f"{method} keeps retain: facts within .05, names within .15",
            seen,
            lambda m: m["retain_fact"] >= 0.95 and m["retain_name"] >= 0.85,
        )
    for name, figure, other in (("text", "name_accuracy", "names"), ("visual", "fact_accuracy", "facts")):
        sweep = Sweep(rows_of(out, name))
        left = [value(r, "forget", figure) for r in sweep.runs]
        base = [value(sweep.anchors["original", r["seed"]], "forget", figure) for r in sweep.runs]
        shares = {f"forget {other} / original": [a / b for a, b in zip(left, base, strict=True)]}
        claim(
            f"{name}-only unlearning leaves {other} above .7 of the original", shares, lambda m: min(m.values()) > 0.7
        )
    seen = seen_of(everything, "pubg", "named_anyone")
    claim("pubg's answers name nobody from the forget set", seen, lambda m: m["named_anyone"] == 0.0)
    recalls = {m: everything.figures(m)["attribute_recall"] for m in ("pubg", "npo", "ga", "idk")}
    claim(
        "pubg states visible attributes rightly more often than npo, ga and idk (share of them, recall)",
        recalls,
        lambda m: all(m["pubg"] > m[other] for other in ("npo", "ga", "idk")),
    )
    return found


def at_level(curve: Sequence[Mapping[str, float]], level: float) -> float | None:
    """r/r0 where f/f0 first falls to ``level`` (f, r: answers found word for word), linearly between evaluations."""
    f0, r0 = curve[0]["exact/forget"], curve[0]["exact/retain"]
    points = [(p["exact/forget"] / f0, p["exact/retain"] / r0) for p in curve]
    for (fa, ra), (fb, rb) in pairwise(points):
        if fb <= level < fa:
            return ra + (rb - ra) * (fa - level) / (fa - fb)
    return None


def matched(out: Path) -> list[dict[str, Any]]:
    """method, penalty -> retain kept where a share of the forget set is still known; None: never got there."""
    table = []
    rows = [r for r in rows_of(out, "l1") if "curve" in r]
    for method in dict.fromkeys(r["method"] for r in rows):
        for weight in L1:
            curves = [r["curve"] for r in rows if r["method"] == method and float(r["grid"]["l1"]) == weight]
            line: dict[str, Any] = {"method": method, "l1": weight}
            for level in LEVELS:
                kept = [at_level(curve, level) for curve in curves]
                reached = [k for k in kept if k is not None]
                line[f"{level:g}"] = {"median": median(reached) if reached else None, "reached": len(reached)}
            ends = [c[-1]["exact/forget"] / c[0]["exact/forget"] for c in curves]
            line["known at the end"] = median(ends) if ends else None
            table.append(line)
    return table


def markdown(found: Sequence[Mapping[str, Any]], table: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| claim | seen: median (every seed) | holds |", "| --- | --- | --- |"]
    for entry in found:
        seen = "; ".join(
            f"{k} {v['median']:.2f} ({' '.join(f'{x:.2f}' for x in v['seeds'])})" for k, v in entry["seen"].items()
        )
        lines.append(f"| {entry['claim']} | {seen} | {'yes' if entry['holds'] else '**no**'} |")
    if table:
        head = " | ".join(f"{level:g} known" for level in LEVELS)
        lines += ["", "Retain kept (share of the start) when so much of the forget set is still known, medians:", ""]
        lines += [f"| method | L1 weight | {head} | known at the end |", "| --- " * (len(LEVELS) + 3) + "|"]
        for line in table:
            cells = [
                "never" if (c := line[f"{level:g}"])["median"] is None else f"{c['median']:.2f} (of {c['reached']})"
                for level in LEVELS
            ]
            end = line["known at the end"]
            shown = "" if end is None else f"{end:.2f}"
            lines.append(f"| {line['method']} | {line['l1']:g} | {' | '.join(cells)} | {shown} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the sweeps")
    parser.add_argument("--only", nargs="+", choices=[*SWEEPS, "read"], default=list(SWEEPS), help="sweeps to run")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    args, more = parser.parse_known_args()
    run([name for name in args.only if name != "read"], args.out, more)
    found, table = claims(args.out), matched(args.out)
    text = markdown(found, table)
    print(text)
    table_of_all = (args.out / "all" / "sweep.md").read_text(encoding="utf-8").partition("\n\n")[2]
    text = f"# Shapes of the papers on CLEAR-mini\n\n{text}\n## Every method\n\n{table_of_all}"
    info = machine(device_of("auto"))
    front = args.out / "all" / "front.png"
    for path in write_results(
        "shapes", args.results, info, [*found, *table], text, lambda figure: shutil.copyfile(front, figure)
    ):
        print(path)


if __name__ == "__main__":
    main()
