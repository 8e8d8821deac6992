"""Where does the time of one unlearning step go?

    python benchmarks/profile_losses.py --method npo [--model tiny|DIR] [--device cpu|cuda] --out DIR

Takes real steps on CLEAR-mini, as ``bench_packing`` does (batch packed on the CPU, student with LoRA, reference
through the same weights, objective, backward, AdamW), and shows each phase:

* ``batch making``        pictures and tokens packed and moved to the device
* ``reference forward``   the reference model's pass, adapter off
* ``student forward``     the student's, up to the final hidden states
* ``head and ops``        per-token statistics from the hidden states, and the objective
* ``backward``            of everything
* ``optimiser``           AdamW's update

Times are wall-clock medians of steps that are not profiled (a profiler slows small operators most), the device's queue
empty before and after each phase. Then a few steps run under ``torch.profiler``; DIR gets its trace, with the phases as
labels (``profile_METHOD.trace.json.gz``; open it at ui.perfetto.dev), and one page: the phases, and the operators that
take the most time of their own.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from rich.console import Console
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.bench_packing import LAYOUTS, Runner, Work, choose, prepare
from benchmarks.common import RESULTS, Spread, device_of, machine, table, write_results
from clear_dist.config import UnlearnConfig
from clear_dist.data.load import load_dataset
from clear_dist.data.packing import PixelCache
from clear_dist.engine.step import loss_of
from clear_dist.methods import METHODS, Sum
from clear_dist.models.load import Dtype
from clear_dist.recipes.unlearn import objective_of
from clear_dist.types import UserError

BATCH, REFERENCE, STUDENT, HEAD = "batch making", "reference forward", "student forward", "head and ops"
BACKWARD, OPTIMISER = "backward", "optimiser"
PHASES = (BATCH, REFERENCE, STUDENT, HEAD, BACKWARD, OPTIMISER)
OTHER = "between them"
# Methods of the engine's StepModule and the phase each is. The reference's pass runs the same ``_run`` as the
# student's: the outermost label counts.
LABELS = {"_reference": REFERENCE, "_run": STUDENT, "_statistics": HEAD, "_head": HEAD}
OPERATORS = 15  # of the table


class Phases:
    """Labels stretches of a step for the profiler, and takes their time."""

    def __init__(self, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> None:
        self.device, self.clock = device, clock
        self.inside = False
        self.steps: list[dict[str, float]] = []  # phase -> seconds, and OTHER

    @contextmanager
    def __call__(self, label: str) -> Iterator[None]:
        if self.inside:
            yield
            return
        self.inside = True
        try:
            began = self._now()
            with record_function(label):
                yield
                ended = self._now()
            self.steps[-1][label] = self.steps[-1].get(label, 0.0) + ended - began
        finally:
            self.inside = False

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around a whole step: what no phase accounts for is OTHER."""
        self.steps.append({})
        began = self._now()
        yield
        took = self._now() - began
        self.steps[-1][OTHER] = took - sum(self.steps[-1].values())

    def wrap(self, owner: object, name: str, label: str) -> None:
        """Calls of a method of ``owner`` are labelled from now on."""
        method: Callable[..., Any] = getattr(owner, name)

        def labelled(*args: Any, **more: Any) -> Any:
            with self(label):
                return method(*args, **more)

        setattr(owner, name, labelled)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self.clock()


class Labelled:
    """A runner of ``bench_packing`` whose steps are labelled."""

    def __init__(self, runner: Runner, work: Work) -> None:
        self.runner, self.work = runner, work
        self.phases = Phases(runner.device)
        self.phases.wrap(runner, "batch", BATCH)
        for name, label in LABELS.items():
            self.phases.wrap(runner.module, name, label)

    def step(self, number: int) -> None:
        """What ``Runner.train`` does."""
        number %= len(self.work.steps)
        objective, phase = self.work.objective, self.phases
        with phase.step():
            batch = self.runner.batch(self.work, number)
            values = self.runner.module(batch, objective.needs)
            with phase(HEAD):
                loss, _ = loss_of(objective, values, batch, self.work.totals(number), progress=0.0)
            with phase(BACKWARD):
                loss.backward()
            with phase(OPTIMISER):
                self.runner.optimizer.step()
                self.runner.optimizer.zero_grad(set_to_none=True)


def build(args: argparse.Namespace, device: torch.device, dtype: Dtype) -> Labelled:
    """The steps of a method, ready to run.

    Raises:
        UserError: the method needs more than one backward pass a step.
    """
    more = {"global_batch": args.global_batch} if args.global_batch else {}
    config = UnlearnConfig(data=args.data, model=args.model, method=args.method, **more)
    if not isinstance(objective_of(config).rule, Sum):
        raise UserError(f"--method {args.method}: its update rule is several backward passes a step. Choose another.")
    data = load_dataset(config.data, forget=config.forget_split or "forget10", seed=config.seed)
    model = prepare(config, dtype, "sdpa", device)
    work = choose(config, data, model, args.steps)
    return Labelled(Runner(model, config, args.layout, PixelCache(model.processor)), work)


def run(labelled: Labelled, warm: int, steps: int, profiled: int, trace: Path) -> list[dict[str, Any]]:
    """Steps that warm up, steps that are timed, steps that are profiled; returns the operators of the last."""
    for number in range(warm):
        labelled.step(number)
    labelled.phases.steps.clear()
    for number in range(steps):
        labelled.step(number)
    gpu = labelled.runner.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]
    timed = list(labelled.phases.steps)
    with profile(activities=activities) as profiler:
        for number in range(profiled):
            labelled.step(number)
    labelled.phases.steps = timed
    profiler.export_chrome_trace(str(trace))
    found = []
    for event in profiler.key_averages():
        if event.key in PHASES:
            continue
        own = event.self_device_time_total if gpu else event.self_cpu_time_total
        found.append({"operator": event.key, "ms_per_step": own / 1e3 / profiled, "calls": event.count / profiled})
    return sorted(found, key=lambda row: -row["ms_per_step"])[:OPERATORS]


def rows_of(steps: Sequence[dict[str, float]]) -> list[dict[str, Any]]:
    """A row per phase, in the order of a step, and what is left."""
    total = Spread.of([sum(step.values()) for step in steps]).median
    rows: list[dict[str, Any]] = []
    for phase in (*PHASES, OTHER):
        spread = Spread.of([1e3 * step.get(phase, 0.0) for step in steps])
        rows.append({"phase": phase, "ms": spread.json(), "share": spread.median / 1e3 / total, "steps": len(steps)})
    return rows


def markdown_of(
    args: argparse.Namespace,
    rows: Sequence[dict[str, Any]],
    operators: Sequence[dict[str, Any]],
    work: Work,
    dtype: str,
) -> str:
    total = sum(r["ms"]["median"] for r in rows)
    phases = [
        [r["phase"], f"{r['ms']['median']:.2f}", f"{r['ms']['min']:.2f}-{r['ms']['max']:.2f}", f"{r['share']:.0%}"]
        for r in rows
    ]
    top = [[f"`{o['operator'][:70]}`", f"{o['ms_per_step']:.2f}", f"{o['calls']:,.0f}"] for o in operators]
    parts = [
        f"# One step of {args.method}, phase by phase",
        f"`{work.objective}`",
        f"{work.examples / len(work.steps):.0f} examples a step on {args.data}, model {args.model}, {dtype}, layout "
        f"{args.layout}; medians of {rows[0]['steps']} steps after warming up, {total:.1f} ms together.",
        table(("phase", "ms", "lowest-highest", "share"), phases),
        "## Operators under the profiler, by their own time a step",
        table(("operator", "ms", "calls"), top),
    ]
    return "\n\n".join(parts)


def draw(rows: Sequence[dict[str, Any]], title: str, path: Path) -> None:
    """Bars in the order of a step, each with its milliseconds and share."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 3.4), layout="constrained")
    middle = [r["ms"]["median"] for r in rows]
    whiskers = [[r["ms"]["median"] - r["ms"]["min"] for r in rows], [r["ms"]["max"] - r["ms"]["median"] for r in rows]]
    colours = ["#D55E00" if r["phase"] == HEAD else "#9aa5b1" if r["phase"] == OTHER else "#0072B2" for r in rows]
    names = [r["phase"] for r in rows]
    axis.barh(names, middle, xerr=whiskers, color=colours, height=0.62, error_kw={"lw": 1, "capsize": 3})
    for i, row in enumerate(rows):
        text = f"{row['ms']['median']:.1f} ms, {row['share']:.0%}"
        axis.annotate(text, (row["ms"]["max"], i), (6, 0), textcoords="offset points", va="center")
    axis.invert_yaxis()
    axis.set_xlim(0, 1.25 * max(r["ms"]["max"] for r in rows))
    axis.set_xlabel("milliseconds a step (median; whiskers: lowest and highest)")
    axis.set_title(title)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=sorted(METHODS), default="npo", help="default: %(default)s")
    parser.add_argument("--data", default="clear-mini", help="dataset, as of clear-dist unlearn (default: %(default)s)")
    parser.add_argument("--model", default="tiny", help="model directory, Hub name or tiny (default: %(default)s)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: the GPU if any")
    parser.add_argument("--dtype", choices=("auto", "fp32", "bf16"), default="auto", help="default: bf16 on a GPU")
    parser.add_argument("--layout", choices=list(LAYOUTS), default="dense", help="default: %(default)s")
    parser.add_argument("--global-batch", type=int, help="forget examples a step (default: the preset's)")
    parser.add_argument("--steps", type=int, default=20, help="steps that are timed (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="two steps: does it run? not a measurement")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where results go (default: benchmarks/results)")
    args = parser.parse_args(arguments)
    args.steps = 2 if args.quick else max(1, args.steps)
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    device = device_of(args.device)
    dtype: Dtype = args.dtype if args.dtype != "auto" else ("bf16" if device.type == "cuda" else "fp32")
    info = machine(device)
    args.out.mkdir(parents=True, exist_ok=True)
    name = f"profile_{args.method}"
    trace = args.out / f"{name}.trace.json.gz"
    try:
        labelled = build(args, device, dtype)
        warm, profiled = (1, 1) if args.quick else (5, 3)
        operators = run(labelled, warm, args.steps, profiled, trace)
    except UserError as error:
        print(f"profile_losses: {error}", file=sys.stderr)
        return 2
    rows = rows_of(labelled.phases.steps)
    text = markdown_of(args, rows, operators, labelled.work, dtype)
    title = f"One step of {args.method}: {args.model}, {dtype}, {device.type}"
    written = write_results(name, args.out, info, rows, text, lambda to: draw(rows, title, to))
    console = Console()
    console.print(text, markup=False, soft_wrap=True)
    for path in [*written, trace]:
        console.print(f"wrote {path}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
