"""How much faster is a training step when sequences are packed instead of padded?

A step is what the training loop does: pack the batch on the CPU, one forward of the engine's own ``StepModule``
(student with LoRA, and the reference through the same weights), per-token statistics, the objective, one backward,
one AdamW update. All layouts are given the very same examples in the same order:

* ``padded``   one sequence a row, filled up to the longest: the plain way;
* ``unshared`` packed rows with a block-diagonal mask, every question with its own copy of the picture;
* ``dense``    packed rows in which the questions on one picture share its tokens: the project's default;
* ``varlen``   flash-attention's variable-length kernels, where flash-attention is installed.

What is counted. ``real tokens`` are the tokens of the examples, each standing alone, padding excluded: the same number
for every layout, so that the ratio of real tokens per second is the ratio of examples per second and can be gained
only by time, never by counting. A layout that shares pictures pushes fewer tokens through the model for the same
examples; that is shown as ``model tokens`` (positions that are not padding) beside ``positions`` (padding included),
and is not credited twice.

Before anything is timed, every per-example statistic of every layout is compared with the padded one (fp32, largest
difference 1e-5): a fast layout that computes something else is no result. The layouts then take turns, round by round,
so that whatever else the machine does hits all of them; the ratio is taken within each round, and the median, smallest
and largest are reported.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.common import RESULTS, Spread, device_of, interleaved, machine, table, write_results
from clear_dist.config import UnlearnConfig
from clear_dist.data.encode import Encoded, encode_all
from clear_dist.data.load import Dataset, load_dataset
from clear_dist.data.order import Order
from clear_dist.data.packing import Layout, PixelCache, pack
from clear_dist.engine.optimizer import adamw
from clear_dist.engine.step import StepModule, Totals, loss_of
from clear_dist.engine.world import World
from clear_dist.methods import Objective
from clear_dist.models import Model, add_lora, inspect_model, load_model
from clear_dist.models.family import FLASH
from clear_dist.models.load import Attention, Dtype, choose_attention
from clear_dist.recipes.common import model_dir
from clear_dist.recipes.training import make_plan
from clear_dist.recipes.unlearn import objective_of
from clear_dist.recipes.views import views_of
from clear_dist.types import Batch, UserError, View

TOLERANCE = 1e-5  # fp32, per-example mean of every statistic
TOLERANCE_BF16 = 5e-2  # flash-attention knows no fp32
LAYOUTS: Mapping[str, tuple[Layout, bool]] = {  # name -> (layout, questions share their picture)
    "padded": ("padded", False),
    "unshared": ("dense", False),
    "dense": ("dense", True),
    "varlen": ("varlen", False),
}
# What is timed: (method, hyperparameters). The first compares with the reference, the second is one plain forward.
METHODS: Mapping[str, dict[str, float]] = {
    "npo": {"beta": 0.5, "retain_weight": 1.0, "kl_weight": 1.0},
    "retain_ft": {},
}


@dataclass(frozen=True)
class Work:
    """The steps of one method: for each, the examples of every view, as the training loop would choose them."""

    objective: Objective
    row_length: int
    steps: Sequence[Mapping[str, list[Encoded]]]

    @property
    def examples(self) -> int:
        return sum(len(view) for step in self.steps for view in step.values())

    @property
    def real_tokens(self) -> int:
        """Tokens of the examples, each alone: the same for every layout."""
        return sum(e.length for step in self.steps for view in step.values() for e in view)

    def totals(self, step: int) -> dict[View, Totals]:
        return {View(v): Totals(len(es), sum(len(e.answer) for e in es)) for v, es in self.steps[step].items()}


def choose(config: UnlearnConfig, data: Dataset, model: Model, steps: int) -> Work:
    """The examples of the first ``steps`` optimiser steps, in the order training takes them."""
    objective = objective_of(config)
    views = views_of(config, objective, data)
    pools, counts = views.pools, views.batch
    plan, _ = make_plan(config, model.info, objective, pools, counts, World(0, 1, 0, model.device))
    taken: dict[str, list[list[Encoded]]] = {}
    for view, pool in pools.items():
        encoded = encode_all(pool, model.processor, config.max_length)
        order = Order(
            pool,
            seed=config.seed,
            view=str(view),
            questions_per_picture=config.questions_per_picture,
            one_run_per_picture=True,
        )
        n = counts[view]
        taken[str(view)] = [[encoded[i] for i in order.take(s * n, n)] for s in range(steps)]
    return Work(objective, plan.row_length, [{view: of[s] for view, of in taken.items()} for s in range(steps)])


class Runner:
    """A model in training, fed in one layout. Runners of one model share its weights."""

    def __init__(self, model: Model, config: UnlearnConfig, layout: str, pixels: PixelCache) -> None:
        self.model, self.layout, self.device = model, layout, model.device
        self.module = StepModule(model.module, model.family)
        self.pixels = pixels
        trainable = [p for p in self.module.parameters() if p.requires_grad]
        self.optimizer = adamw(trainable, config.lr, config.weight_decay, self.device)

    def batch(self, work: Work, step: int) -> Batch:
        layout, share = LAYOUTS[self.layout]
        made = pack(
            work.steps[step],
            self.model.processor,
            row_length=work.row_length,
            pixels=self.pixels,
            layout=layout,
            share=share,
            multiple_of=8 if self.device.type == "cuda" else 1,
        )
        return made.to(self.device)

    def train(self, work: Work, step: int) -> None:
        """One optimiser step, batch making included."""
        batch = self.batch(work, step)
        values = self.module(batch, work.objective.needs)
        loss, _ = loss_of(work.objective, values, batch, work.totals(step), progress=0.0)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def statistics(self, work: Work, step: int) -> dict[str, torch.Tensor]:
        """``view/statistic`` -> [N of the view]: the mean over each example's tokens, fp32 on the CPU."""
        batch = self.batch(work, step)
        values = self.module(batch, work.objective.needs)
        out: dict[str, torch.Tensor] = {}
        for view, of_view in values.items():
            examples, tokens = batch.view_examples[view], batch.view_tokens[view]
            owner = batch.token_example[tokens] - examples.start
            count = torch.bincount(owner, minlength=examples.stop - examples.start)
            for name, per_token in of_view.items():
                sums = per_token.new_zeros(len(count)).index_add(0, owner, per_token)
                out[f"{view}/{name}"] = (sums / count).cpu()
        return out


def prepare(config: UnlearnConfig, dtype: Dtype, attention: Attention, device: torch.device) -> Model:
    """The student, its LoRA moved away from zero so that student and reference differ."""
    info = inspect_model(model_dir(config.model, "--model"))
    model = load_model(info, dtype=dtype, attention=attention, device=device)
    model.module = add_lora(model.module, config.lora_r, config.lora_alpha, model.family, seed=config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    with torch.no_grad():
        for name, parameter in model.module.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    model.module.train()
    return model


def difference(runners: Mapping[str, Runner], work: Work, against: str = "padded") -> dict[str, float]:
    """layout -> largest difference of a per-example statistic from the ``against`` layout, over all steps' examples."""
    worst = dict.fromkeys(runners, 0.0)
    for step in range(len(work.steps)):
        expected = runners[against].statistics(work, step)
        for name, runner in runners.items():
            if name == against:
                continue
            found = runner.statistics(work, step)
            assert found.keys() == expected.keys()
            gap = max(float((found[k] - expected[k]).abs().max()) for k in expected if expected[k].numel())
            worst[name] = max(worst[name], gap)
    return worst


def measure(
    method: str, runners: Mapping[str, Runner], work: Work, rounds: int, gaps: Mapping[str, float]
) -> list[dict[str, Any]]:
    """One row of results per layout, timed in turns."""
    steps = len(work.steps)
    device = next(iter(runners.values())).device

    def run(runner: Runner, number: int) -> None:
        del number  # every round does the same work
        for step in range(steps):
            runner.train(work, step)

    for runner in runners.values():
        run(runner, 0)  # warm: kernels chosen, pictures decoded, allocator grown
    seconds = interleaved({name: partial(run, runner) for name, runner in runners.items()}, rounds, device)

    rows: list[dict[str, Any]] = []
    for name, runner in runners.items():
        batches = [runner.batch(work, s) for s in range(steps)]
        typical = Spread.of([r[name] for r in seconds]).median
        model_tokens = sum(b.real_tokens for b in batches)
        rows.append(
            {
                "method": method,
                "layout": name,
                "dtype": str(next(runner.model.module.parameters()).dtype).removeprefix("torch."),
                "steps": steps,
                "rounds": rounds,
                "seconds_per_step": Spread.of([r[name] / steps for r in seconds]).json(),
                "examples_per_s": work.examples / typical,
                "real_tokens_per_s": Spread.of([work.real_tokens / r[name] for r in seconds]).json(),
                "model_tokens_per_s": model_tokens / typical,
                "ratio_to_padded": Spread.of([r["padded"] / r[name] for r in seconds]).json(),
                "examples": work.examples,
                "real_tokens": work.real_tokens,
                "model_tokens": model_tokens,
                "positions": sum(b.input_ids.numel() for b in batches),
                "pictures": sum(0 if b.pixel_values is None else len(b.pixel_values) for b in batches),
                "largest_difference": gaps[name],
            }
        )
    return rows


def bench(config: UnlearnConfig, device: torch.device, dtype: Dtype, steps: int, rounds: int) -> list[dict[str, Any]]:
    """Check every layout against ``padded``, then time them.

    Raises:
        UserError: two layouts disagree; nothing is timed then.
    """
    data = load_dataset(config.data, forget=config.forget_split or "forget10", seed=config.seed)
    exact = prepare(config, "fp32", "sdpa", device)
    timed = exact if dtype == "fp32" else prepare(config, dtype, "sdpa", device)
    pixels = PixelCache(exact.processor)
    plain = [name for name in LAYOUTS if name != "varlen"]
    check = {name: Runner(exact, config, name, pixels) for name in plain}
    runners = {name: Runner(timed, config, name, pixels) for name in plain}
    allowed = dict.fromkeys(plain, TOLERANCE)
    if dtype == "bf16" and choose_attention("auto", torch.bfloat16, device.type == "cuda") == FLASH:
        flash = Runner(prepare(config, "bf16", FLASH, device), config, "varlen", pixels)
        check["varlen"] = runners["varlen"] = flash
        allowed["varlen"] = TOLERANCE_BF16

    rows: list[dict[str, Any]] = []
    for method, settings in METHODS.items():
        chosen = UnlearnConfig(**{**config.model_dump(), "method": method, "set": settings})
        work = choose(chosen, data, exact, steps)
        gaps = difference(check, work)
        for name, gap in gaps.items():
            if not gap <= allowed[name]:
                raise UserError(f"{method}: {name} differs from padded by {gap:.1e} (allowed {allowed[name]:.0e}).")
        rows += measure(method, runners, work, rounds, gaps)
    return rows


SHOWN = (0, 1, 3, 4, 6, 8)  # the columns a terminal has room for
HEADER = (
    "layout",
    "step, ms",
    "examples/s",
    "real tokens/s",
    "model tokens/s",
    "positions",
    "padding",
    "pictures",
    "times padded",
    "largest difference",
)


def cells(row: Mapping[str, Any]) -> list[str]:
    """A result as a line of a table."""
    ratio = row["ratio_to_padded"]
    return [
        row["layout"],
        f"{1000 * row['seconds_per_step']['median']:,.1f}",
        f"{row['examples_per_s']:,.0f}",
        f"{row['real_tokens_per_s']['median']:,.0f}",
        f"{row['model_tokens_per_s']:,.0f}",
        f"{row['positions'] / row['steps']:,.0f}",
        f"{1 - row['model_tokens'] / row['positions']:.0%}",
        f"{row['pictures'] / row['steps']:.1f}",
        f"{ratio['median']:.2f} ({ratio['min']:.2f}-{ratio['max']:.2f})",
        f"{row['largest_difference']:.0e}",
    ]


def markdown_of(rows: Sequence[Mapping[str, Any]], data: str) -> str:
    parts = [
        f"# Packing on {data}",
        "Real tokens are the tokens of the examples, each standing alone, without padding: one number for all "
        "layouts, so the ratio is that of time alone (in brackets the lowest and highest of all rounds). Model tokens "
        "count a shared picture once. Positions and pictures are per step; differences are the largest of any "
        "per-example statistic against the padded layout, before timing.",
    ]
    for method in dict.fromkeys(r["method"] for r in rows):
        mine = [r for r in rows if r["method"] == method]
        parts.append(
            f"## {method}, {mine[0]['dtype']}: {mine[0]['examples'] // mine[0]['steps']} examples a step, median of "
            f"{mine[0]['rounds']} interleaved rounds of {mine[0]['steps']} steps"
        )
        parts.append(table(HEADER, [cells(r) for r in mine]))
    return "\n\n".join(parts)


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Bars of real tokens per second, whiskers from the slowest to the fastest round."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    methods = list(dict.fromkeys(r["method"] for r in rows))
    figure, axes = plt.subplots(1, len(methods), figsize=(4.2 * len(methods), 3.6), squeeze=False, layout="constrained")
    for axis, method in zip(axes[0], methods, strict=True):
        mine = [r for r in rows if r["method"] == method]
        speeds = [r["real_tokens_per_s"] for r in mine]
        middle = [s["median"] for s in speeds]
        whiskers = [[s["median"] - s["min"] for s in speeds], [s["max"] - s["median"] for s in speeds]]
        colours = ["#9aa5b1" if r["layout"] == "padded" else "#2f6f9f" for r in mine]
        names = [r["layout"] for r in mine]
        axis.bar(names, middle, yerr=whiskers, color=colours, width=0.62, error_kw={"lw": 1, "capsize": 3})
        for i, (row, speed) in enumerate(zip(mine, speeds, strict=True)):
            axis.annotate(
                f"{row['ratio_to_padded']['median']:.2f}x",
                (i, speed["max"]),
                (0, 4),
                textcoords="offset points",
                ha="center",
            )
        axis.set_title(method)
        axis.set_ylim(0, 1.15 * max(s["max"] for s in speeds))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("real tokens per second")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="clear-mini", help="dataset, as of clear-dist unlearn (default: %(default)s)")
    parser.add_argument("--model", default="tiny", help="model directory, Hub name or tiny (default: %(default)s)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: the GPU if any")
    parser.add_argument("--dtype", choices=("auto", "fp32", "bf16"), default="auto", help="default: bf16 on a GPU")
    parser.add_argument("--global-batch", type=int, help="forget examples a step (default: the preset's)")
    parser.add_argument("--steps", type=int, default=6, help="steps of a round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=15, help="rounds (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="one step, two rounds: does it run? not a measurement")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where results go (default: benchmarks/results)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    device = device_of(args.device)
    dtype: Dtype = args.dtype if args.dtype != "auto" else ("bf16" if device.type == "cuda" else "fp32")
    steps, rounds = (1, 2) if args.quick else (args.steps, args.rounds)
    info = machine(device)
    more = {"global_batch": args.global_batch} if args.global_batch else {}
    try:
        config = UnlearnConfig(data=args.data, model=args.model, **more)
        rows = bench(config, device, dtype, steps, rounds)
    except UserError as error:
        print(f"bench_packing: {error}", file=sys.stderr)
        return 2
    console = Console()
    for method in dict.fromkeys(r["method"] for r in rows):
        shown = Table(title=f"{method} on {args.data}, {rows[0]['dtype']}")
        for column in SHOWN:
            shown.add_column(HEADER[column], justify="right" if column else "left")
        for row in rows:
            if row["method"] == method:
                shown.add_row(*(cells(row)[column] for column in SHOWN))
        console.print(shown)
    name = Path(args.data).name if Path(args.data).is_dir() else args.data
    for path in write_results(
        "bench_packing", args.out, info, rows, markdown_of(rows, name), lambda to: draw(rows, to)
    ):
        console.print(f"wrote {path}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
