"""What does one unlearning step cost, by the project's loop and by those people run today?

    python benchmarks/bench_step.py [--device cpu|cuda] [--model tiny|cpu-8x256|llava-1.5-7b|llava-1.5-13b]
        [--methods npo,rmu] --out DIR

A LLaVA of the wanted shape with random weights takes steps of the same job, 16 examples of every view with the
dataset's mix of lengths, pictures and text, by three loops (``step_loops``): ``ours``; ``clear_code``, as CLEAR's
public code goes about it; ``hf_trainer``, as common LLM toolkits do. All of them have the project's losses.

Before anything is timed the loops have to agree in fp32 on the CPU: the same loss to 1e-4 and the same gradients to
1e-3 (in norm, relative); else nothing is timed. On a GPU, where weights are bf16, the small shape is compared. The
loops then take turns, round by round, each step from the same weights; every phase of a step is timed with the device's
queue empty around it. Where a step does not fit a GPU it is cut into halves, quarters, ... that are accumulated, each
loop as far as it needs; a loop whose second copy of the model does not fit has a row that says so.

DIR gets ``bench_step.json`` (``bench_step_gpu.json`` on a GPU), and a dated page and figure.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")  # loops of unlike shapes share one GPU

import torch
from rich.console import Console
from torch import Tensor

from benchmarks.common import RESULTS, device_of, machine, write_results
from benchmarks.step_flops import hardware_ours, hardware_padded, needed, peak_flops
from benchmarks.step_loops import LOOPS, Job, Loop, Ours, gradients, make_job, untouched
from benchmarks.step_memory import peak_of
from benchmarks.step_models import BATCH, SHAPES, Student, build_student
from benchmarks.step_padded import Padded
from benchmarks.step_rows import cache_ms, draw, markdown_of, missing, row_of, utilise
from clear_dist.errors import nearest
from clear_dist.types import UserError

METHODS = ("npo", "dpo", "kl", "scrub", "llmu", "rmu", "gd", "pubg")
TOLERANCE = 1e-4  # of losses, fp32, absolute below 1 and relative above
GRADIENT_TOLERANCE = 1e-3  # |g - g_ours| / |g_ours|, fp32
CHECKED = "tiny"  # the shape compared in fp32 where the one timed is bf16


@dataclass
class Probe:
    """A first step that moves nothing: what it computed, how high memory rose, examples of a view at a time."""

    loss: float
    peak: int
    micro_batch: int
    gradients: Mapping[str, Tensor]


@dataclass
class Entry:
    """A loop, ready, or why it is not."""

    loop: Loop | None
    probe: Probe | None = None
    why: str = ""


@dataclass
class Budget:
    """Wall-clock time of the whole run."""

    minutes: float
    began: float = field(default_factory=time.monotonic)

    @property
    def spent(self) -> bool:
        return time.monotonic() - self.began > 60 * self.minutes


def loops_of(job: Job, folder: Path, micro_batch: int) -> dict[str, Entry]:
    """All three, each after a first step."""
    out: dict[str, Entry] = {}
    lacks = job.student.no_copy if job.student.copy is None and job.objective.needs.reference else ""
    for name in LOOPS:
        if name == "ours":
            entry = Entry(Ours(job, folder))
        else:
            entry = Entry(None, why=lacks) if lacks else Entry(Padded(job, name))
        if entry.loop is not None:
            entry.probe = _probe(job, entry.loop, micro_batch)
            if entry.probe is None:
                entry = Entry(None, why="a step of one example of every view does not fit")
        out[name] = entry
    return out


def _probe(job: Job, loop: Loop, micro_batch: int) -> Probe | None:
    """None where not even one example of every view fits."""
    losses: list[float] = []
    while micro_batch:
        job.cut(micro_batch)
        try:
            peak = peak_of(lambda: losses.append(loop.step(update=False)), job.student.device)
        except torch.cuda.OutOfMemoryError:
            gradients(job.student)
            torch.cuda.empty_cache()
            micro_batch //= 2
            continue
        loop.phases.steps.clear()
        return Probe(losses[-1], peak, micro_batch, gradients(job.student))
    return None


def disagreement(entries: Mapping[str, Entry]) -> tuple[float, float]:
    """(losses, gradients): the largest differences from ours."""
    ours = entries["ours"].probe
    assert ours is not None
    losses = norms = 0.0
    size = sum(float(g.float().square().sum()) for g in ours.gradients.values()) ** 0.5
    for entry in entries.values():
        if entry.probe is None:
            continue
        losses = max(losses, abs(entry.probe.loss - ours.loss) / max(1.0, abs(ours.loss)))
        names = ours.gradients.keys() | entry.probe.gradients.keys()
        zero = torch.zeros((), device=next(iter(ours.gradients.values())).device)
        apart = (ours.gradients.get(n, zero).float() - entry.probe.gradients.get(n, zero).float() for n in names)
        norms = max(norms, sum(float(d.square().sum()) for d in apart) ** 0.5 / size)
    return losses, norms


def agreed(method: str, entries: Mapping[str, Entry]) -> float:
    """The largest difference of a loss. Raises UserError: the loops do not compute the same."""
    losses, norms = disagreement(entries)
    if not (losses <= TOLERANCE and norms <= GRADIENT_TOLERANCE):
        found = ", ".join(f"{name} {e.probe.loss:.6f}" for name, e in entries.items() if e.probe is not None)
        raise UserError(
            f"{method}: the loops disagree, so nothing is timed. Losses: {found} (allowed {TOLERANCE:.0e}); gradients "
            f"differ by {norms:.1e} of their norm (allowed {GRADIENT_TOLERANCE:.0e})."
        )
    return losses


def check_small(methods: Sequence[str], questions: int) -> float:
    """Compare the loops on a small shape in fp32 on the CPU; the largest difference of a loss."""
    student = build_student(CHECKED, torch.device("cpu"), torch.float32)
    worst = 0.0
    for method in methods:
        with tempfile.TemporaryDirectory() as folder:
            job = make_job(method, student, questions=questions)
            worst = max(worst, agreed(method, loops_of(job, Path(folder) / "reference", BATCH)))
    return worst


def bench(
    method: str,
    student: Student,
    *,
    rounds: int,
    questions: int,
    micro_batch: int,
    budget: Budget,
) -> tuple[list[dict[str, Any]], float]:
    """(rows of a method, largest difference of a loss). Raises UserError: see :func:`agreed`."""
    job = make_job(method, student, questions=questions)
    with tempfile.TemporaryDirectory() as folder:
        entries = loops_of(job, Path(folder) / "reference", micro_batch)
        apart = agreed(method, entries) if student.dtype is torch.float32 else 0.0
        ready = [(name, e.loop, e.probe) for name, e in entries.items() if e.loop and e.probe]
        for number in range(rounds):
            if number and budget.spent:
                break
            turn = number % len(ready)
            for _, loop, probe in ready[turn:] + ready[:turn]:
                job.cut(probe.micro_batch)
                with untouched(student):
                    loop.step()
        return [_row(job, name, entries) for name in LOOPS], apart


def _row(job: Job, name: str, entries: Mapping[str, Entry]) -> dict[str, Any]:
    entry, ours = entries[name], entries["ours"].probe
    if entry.loop is None or entry.probe is None:
        return missing(job.method, name, entry.why)
    job.cut(entry.probe.micro_batch)
    packed = list(job.packed.micro_batches(0))
    if isinstance(entry.loop, Ours):
        hardware = hardware_ours(job, packed)
    else:
        hardware = hardware_padded(job, [b for v in job.views for b in job.padded.micro_batches(0, {v})])
    timed = {n: e.loop.phases.steps for n, e in entries.items() if e.loop is not None and n != "ours"}
    row = row_of(
        job,
        name,
        entry.loop.phases.steps,
        timed if name == "ours" else {},
        loss=entry.probe.loss,
        peak_bytes=entry.loop.resident() + entry.probe.peak,
        flops=(needed(job, packed), hardware),
    )
    row |= {"objective": str(job.objective), "micro_batch": entry.probe.micro_batch, "note": entry.loop.note}
    row["loss_difference"] = abs(entry.probe.loss - ours.loss) if ours is not None else None
    if isinstance(entry.loop, Ours):
        here, spread = cache_ms(job, entry.loop)
        row |= {"caches_ms": here, "step_with_caches_ms": row["step_ms"] + spread}
        row |= {"caches_mb": entry.loop.cache_bytes / 1e6, "tower_cached": job.packed.features is not None}
    return row


def run(args: argparse.Namespace, info: dict[str, Any], device: torch.device) -> list[dict[str, Any]]:
    """All rows; fills what the page says of the run into ``info``."""
    budget = Budget(args.minutes)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    worst = 0.0 if dtype is torch.float32 else check_small(args.methods, args.questions)
    peak, source = peak_flops(device, dtype)
    student = build_student(args.model, device, dtype)
    rows: list[dict[str, Any]] = []
    for method in args.methods:
        if budget.spent:
            rows += [missing(method, name, f"not run: {args.minutes:g} minutes were over") for name in LOOPS]
            continue
        found, apart = bench(
            method,
            student,
            rounds=args.rounds,
            questions=args.questions,
            micro_batch=args.micro_batch,
            budget=budget,
        )
        rows += found
        worst = max(worst, apart)
        # Again after every method: a measured peak is only as high as what else the machine did let it be.
        peak = max(peak, peak_flops(device, dtype)[0])
    utilise(rows, peak)
    info |= {"model": args.model, "dtype": str(dtype).removeprefix("torch."), "questions": args.questions}
    info |= {"peak_tflops": peak / 1e12, "peak_source": source, "largest_loss_difference": worst}
    info["image_tokens"] = student.config.image_seq_length
    return rows


def _methods(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in METHODS:
            known = ", ".join(METHODS)
            raise argparse.ArgumentTypeError(f"{name} is not one of {known}{nearest(name, METHODS, quoted=True)}")
    if not names:
        raise argparse.ArgumentTypeError(f"expected names with commas between, of {', '.join(METHODS)}")
    return list(dict.fromkeys(names))


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {text}")
    return int(text)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: the GPU if any")
    parser.add_argument("--model", choices=list(SHAPES), help="default: cpu-8x256, on a GPU llava-1.5-7b")
    parser.add_argument("--methods", type=_methods, default=list(METHODS), help=f"default: {','.join(METHODS)}")
    parser.add_argument("--rounds", type=_positive, default=3, help="steps of every loop (default: %(default)s)")
    parser.add_argument(
        "--questions", type=_positive, default=1, help="examples that a picture has, at most 16 (default: %(default)s)"
    )
    parser.add_argument(
        "--micro-batch",
        type=_positive,
        default=BATCH,
        help="examples of a view at a time; fewer where they do not fit a GPU (default: %(default)s)",
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="begin nothing after so long (default: %(default)s)")
    parser.add_argument("--threads", type=_positive, help="CPU threads (default: torch's)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where results go (default: benchmarks/results)")
    args = parser.parse_args(arguments)
    if args.questions > BATCH or args.micro_batch > BATCH:
        parser.error(f"--questions and --micro-batch: expected at most {BATCH}, the examples of a view a step")
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    device = device_of(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("bench_step: --device cuda: torch sees no GPU. Use --device cpu.", file=sys.stderr)
        return 2
    args.model = args.model or ("llava-1.5-7b" if device.type == "cuda" else "cpu-8x256")
    info = machine(device)
    try:
        rows = run(args, info, device)
    except UserError as error:
        print(f"bench_step: {error}", file=sys.stderr)
        return 2
    text = markdown_of(rows, info)
    title = f"One unlearning step of {args.model}, {info['dtype']}, {device.type}"
    written = write_results("bench_step", args.out, info, rows, text, lambda to: draw(rows, title, to))
    console = Console()
    console.print(text, markup=False, soft_wrap=True)
    for path in written:
        console.print(f"wrote {path}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
