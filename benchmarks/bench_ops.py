"""How fast, how large and how exact are the ops, beside plain PyTorch and other people's kernels?

Every op by every implementation and peer, in one process and one run, all of a case in turns: forward (without
gradients), forward and backward, peak memory beyond the inputs, achieved TFLOP/s and TB/s, the ratio to the floor
computed from the device's own measured copy and matmul rates, and the error of the gradient against float64.

    python benchmarks/bench_ops.py [--device cpu|cuda] [--quick] [--ops a,b] [--impls a,b] [--budget SECONDS] --out DIR

writes DIR/bench_ops.json (and .csv) after every case, so that a run that is cut short leaves what it has; at its end
also a dated table and plots. Cases run in order of importance and none is begun that ``--budget`` has no time for.

* ``ratio_to_eager``  fwd_bwd_ms over that of ``eager`` with the same inputs in the same run; below 1 is faster
* ``ratio_to_floor``  fwd_bwd_ms over the floor; 1 is as fast as this device copies or multiplies matrices
* ``peak_mb``         10^6 bytes of one forward and backward, the returned gradient included
* ``grad_rel_err``    |g - g64| / |g64| on 32 rows, the student ``kl`` nats from its reference

What stands behind these: ``ops_cases`` (what), ``ops_peers`` (who), ``ops_measure``, ``ops_errors`` and ``ops_floors``
(how).
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from rich.console import Console

from benchmarks.common import RESULTS, device_of, machine, machine_lines, table
from benchmarks.ops_calls import Budget, DeviceLost
from benchmarks.ops_cases import COMPARING, OPS, Case, plan
from benchmarks.ops_errors import error_curve
from benchmarks.ops_floors import Rates, floor_ms, flops, least_bytes, measure_rates
from benchmarks.ops_measure import Measured, measure
from benchmarks.ops_peers import Variant, variants
from benchmarks.ops_plots import draw_all

Row = dict[str, Any]
FIELDS: tuple[str, ...] = (
    "op",
    "kind",
    "impl",
    "dtype",
    "T",
    "D",
    "V",
    "kl",
    "fwd_ms",
    "fwd_bwd_ms",
    "peak_mb",
    "grad_rel_err",
)
FIELDS += ("value_rel_err", "ratio_to_eager", "ratio_to_floor", "memory_to_eager", "fwd_ratio_to_floor", "floor_ms")
FIELDS += ("tflops", "tbps", "fwd_ms_min", "fwd_ms_max", "fwd_bwd_ms_min", "fwd_bwd_ms_max", "rounds", "scaling")
FIELDS += ("returns", "note", "skipped")
LIBRARIES = ("liger_kernel", "cut_cross_entropy", "fla-core")
KLS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


def rows_of(case: Case, found: Sequence[Measured], rates: Rates) -> list[Row]:
    """One row of results per variant; null where something was not measured."""
    eager = next((m for m in found if m.variant.name == "eager" and m.both), None)
    rows: list[Row] = []
    for one in found:
        row: Row = dict.fromkeys(FIELDS)
        row |= {
            "op": case.op,
            "kind": case.kind,
            "impl": one.variant.name,
            "dtype": case.dtype,
            "scaling": case.scaling,
        }
        row |= {"T": case.T, "D": case.D, "V": case.V, "note": one.variant.note, "skipped": one.skip}
        row |= {"returns": "mean" if one.variant.mean else "rows", "rounds": one.rounds, "peak_mb": one.peak}
        row["kl"] = case.kl if case.op in COMPARING else None
        row["floor_ms"] = floor_ms(case, rates, backward=True)
        if one.errors and not one.skip:
            row["value_rel_err"], row["grad_rel_err"] = one.errors
        if one.fwd and one.both:
            for name, spread in (("fwd_ms", one.fwd), ("fwd_bwd_ms", one.both)):
                row |= {name: spread["median"], f"{name}_min": spread["min"], f"{name}_max": spread["max"]}
            took = one.both["median"]
            row["ratio_to_floor"] = took / row["floor_ms"]
            row["fwd_ratio_to_floor"] = one.fwd["median"] / floor_ms(case, rates, backward=False)
            row["tflops"] = flops(case, backward=True) / took / 1e9 or None
            row["tbps"] = least_bytes(case, backward=True) / took / 1e9
            if eager and eager.both:
                row["ratio_to_eager"] = took / eager.both["median"]
            if eager and eager.peak and one.peak is not None:
                row["memory_to_eager"] = one.peak / eager.peak
        rows.append(row)
    return rows


class Results:
    """What there is so far, written after every case."""

    def __init__(self, out: Path, info: Mapping[str, Any], rates: Rates) -> None:
        self.out, self.info, self.rates = out, info, rates
        self.rows: list[Row] = []
        self.errors: list[Row] = []
        self.not_run: list[str] = []
        out.mkdir(parents=True, exist_ok=True)

    def write(self) -> list[Path]:
        measured = {"copy_tbps": self.rates.copy / 1e12}
        measured |= {f"matmul_{k}_tflops": v / 1e12 for k, v in self.rates.matmul.items()}
        whole = {"v": 1, "machine": dict(self.info), "rates": measured, "rows": self.rows}
        whole |= {"errors": self.errors, "not_run": self.not_run}
        result, sheet = self.out / "bench_ops.json", self.out / "bench_ops.csv"
        result.write_text(json.dumps(whole, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        with sheet.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            writer.writerows(self.rows)
        return [result, sheet]

    def finish(self) -> list[Path]:
        """The dated table and plots beside them."""
        stem = f"bench_ops_{self.info['date']}_{'gpu' if self.info['device'] == 'cuda' else 'cpu'}"
        figures = draw_all(self.rows, self.errors, self.out, stem)
        text = self.out / f"{stem}.md"
        pictures = "\n\n".join(f"![{f.stem}]({f.name})" for f in figures)
        text.write_text(f"{self.markdown()}\n\n{pictures}\n\n{machine_lines(self.info)}\n", encoding="utf-8")
        return [*self.write(), text, *figures]

    def markdown(self) -> str:
        matmul = ", ".join(f"{v / 1e12:,.3g} TFLOP/s in {k}" for k, v in self.rates.matmul.items())
        parts = [
            "# Ops",
            f"Floors from this device's own rates: copy {self.rates.copy / 1e12:.3g} TB/s, matmul {matmul}. Times are "
            "medians of interleaved rounds; ratios are of forward and backward; memory is the peak of forward and "
            "backward beyond the inputs; errors are relative, against float64, the student at the stated KL from its "
            "reference.",
        ]
        for name, rows in by_case(self.rows).items():
            if not rows[0]["scaling"]:
                parts += [f"## {name}", table(HEADER, [cells(r) for r in rows if not r["skipped"]])]
                skipped = [f"{r['impl']} ({r['skipped']})" for r in rows if r["skipped"]]
                parts += [f"Not measured: {'; '.join(skipped)}."] if skipped else []
        if self.not_run:
            parts.append(f"No time was left for: {'; '.join(self.not_run)}.")
        return "\n\n".join(parts)


HEADER = ("implementation", "fwd, ms", "fwd+bwd, ms", "time / eager", "time / floor", "peak, MB", "peak / eager")
HEADER += ("TFLOP/s", "TB/s", "gradient error")


def by_case(rows: Sequence[Row]) -> dict[str, list[Row]]:
    out: dict[str, list[Row]] = {}
    for r in rows:
        shape = " x ".join(str(r[k]) for k in ("T", "D", "V") if r[k])
        kind = f" {r['kind']}" if r["kind"] else ""
        kl = f", KL {r['kl']:g}" if r["kl"] else ""
        out.setdefault(f"{r['op']}{kind}, {r['dtype']}, {shape}{kl}", []).append(r)
    return out


def figures(value: float | None) -> str:
    """Three figures, and never 1.2e+04."""
    return "-" if value is None else f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def cells(row: Row) -> list[str]:
    """A result as a line of a table."""
    error, spread = row["grad_rel_err"], (figures(row["fwd_bwd_ms_min"]), figures(row["fwd_bwd_ms_max"]))
    return [
        row["impl"] + (" (mean only)" if row["returns"] == "mean" else ""),
        figures(row["fwd_ms"]),
        f"{figures(row['fwd_bwd_ms'])} ({spread[0]}-{spread[1]})",
        *(
            figures(row[k])
            for k in ("ratio_to_eager", "ratio_to_floor", "peak_mb", "memory_to_eager", "tflops", "tbps")
        ),
        "-" if error is None else f"{error:.1e}",
    ]


def chosen(case: Case, device: torch.device, quick: bool, impls: Sequence[str]) -> list[Variant]:
    """The variants of a case that were asked for; ``eager`` always, since it is what the others are compared with."""
    return [v for v in variants(case, device, quick) if not impls or v.name in (*impls, "eager")]


def curves_of(device: torch.device, quick: bool, ops: Sequence[str]) -> list[Case]:
    """Where errors are followed down to students that are nearly their reference."""
    D, V = (24, 136) if quick else (4096, 32064) if device.type == "cuda" else (1024, 32000)
    made = [Case("linear_kl", d, 32, D, V, "forward", compile=False) for d in ("bf16", "fp32")]
    made += [Case("logits_kl", d, 32, None, V, "forward", compile=False) for d in ("bf16", "fp32")]
    return [c for c in made if c.op in ops]


def bench(
    results: Results, cases: Sequence[Case], args: argparse.Namespace, budget: Budget, say: Callable[[str], None]
) -> None:
    """Cases in order; the error curves after the first plain ones, before the scaling ones. Stops where time does."""
    device = device_of(args.device)
    curves: list[Case] = curves_of(device, args.quick, args.ops)
    first = next((i for i, c in enumerate(cases) if c.scaling), len(cases))
    work = [*((c, False) for c in cases[:first]), *((c, True) for c in curves), *((c, False) for c in cases[first:])]
    for at, (case, curve) in enumerate(work):
        if budget.left <= 0:
            results.not_run = [("errors of " if e else "") + c.name for c, e in work[at:]]
            break
        say(f"[{budget.spent:5.0f} s] {'errors of ' if curve else ''}{case.name}")
        found = chosen(case, device, args.quick, args.impls)
        try:
            if curve:
                results.errors += error_curve(case, found, KLS, device, budget)
            else:
                results.rows += rows_of(case, measure(case, found, device, budget, args.quick), results.rates)
        except torch.OutOfMemoryError:
            results.not_run.append(f"{case.name} (its inputs do not fit)")
        except DeviceLost as error:
            results.rows += rows_of(case, error.found, results.rates)
            results.not_run = [f"{case.name} (the GPU failed: {error})", *(c.name for c, _ in work[at + 1 :])]
            break
        results.write()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def names(known: Sequence[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        asked = [name.strip() for name in text.split(",") if name.strip()]
        unknown = [name for name in asked if known and name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown {', '.join(unknown)}; known: {', '.join(known)}")
        return asked

    return parse


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: the GPU if any")
    parser.add_argument("--quick", action="store_true", help="tiny shapes, two rounds: does it run? not a measurement")
    parser.add_argument("--ops", type=names(OPS), default=list(OPS), help=f"of {','.join(OPS)} (default: all)")
    parser.add_argument("--impls", type=names(()), default=[], help="implementations and peers (default: all)")
    parser.add_argument("--budget", type=float, help="seconds after which nothing new is begun (default: no limit)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where results go (default: benchmarks/results)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None, clock: Callable[[], float] = time.monotonic) -> int:
    args = parse(arguments)
    budget = Budget(args.budget, clock)
    if args.threads:
        torch.set_num_threads(args.threads)
    device = device_of(args.device)
    console = Console()
    info = machine(device)
    info["versions"] |= versions(LIBRARIES)
    results = Results(args.out, info, measure_rates(device, args.quick))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of peers, about themselves
        bench(results, plan(device, args.quick, args.ops), args, budget, lambda t: console.print(t, soft_wrap=True))
        written = results.finish()
    console.print(results.markdown(), markup=False, soft_wrap=True)
    for path in written:
        console.print(f"wrote {path}", soft_wrap=True)
    return 0


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Of those that are installed."""
    out: dict[str, str] = {}
    for name in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            out[name] = metadata.version(name)
    return out


if __name__ == "__main__":
    sys.exit(main())
