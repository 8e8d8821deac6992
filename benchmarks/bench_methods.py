"""Which method forgets without forgetting the rest? The forget-retain front of CLEAR-mini.

Every method runs from the same originals, over several seeds, and is asked the same questions: names on pictures nobody
was trained on, and facts. Perfect unlearning sits where gold is (forget low, retain as the original).

    python benchmarks/bench_methods.py                 # all variants, seeds 0 1 2 (an hour on two cores)
    python benchmarks/bench_methods.py --only npo idk --seeds 0
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.common import RESULTS, machine, write_results  # noqa: E402
from clear_dist.config import UnlearnConfig  # noqa: E402
from clear_dist.data.load import Dataset  # noqa: E402
from clear_dist.engine.predict import ModelPredictor  # noqa: E402
from clear_dist.engine.world import World, close_world, init_world  # noqa: E402
from clear_dist.evaluation.predict import evaluate  # noqa: E402
from clear_dist.models import inspect_model, load_model  # noqa: E402
from clear_dist.recipes.common import model_dir, open_data  # noqa: E402
from clear_dist.recipes.finetune import cached, derived  # noqa: E402
from clear_dist.recipes.unlearn import objective_of, unlearn  # noqa: E402
from clear_dist.report.front import front  # noqa: E402

# label -> what differs from the method's preset. The last ones are the same ascent, held by retain terms.
VARIANTS: dict[str, dict[str, Any]] = {
    "retain_ft": {"method": "retain_ft", "epochs": 2},
    "ga": {"method": "ga"},
    "gd": {"method": "gd"},
    "kl": {"method": "kl"},
    "idk": {"method": "idk"},
    "scrub": {"method": "scrub"},
    "npo (paper)": {"method": "npo", "set": {"beta": 1.0, "retain_weight": 0.0, "kl_weight": 0.0}, "epochs": 6},
    "npo + nll": {"method": "npo", "set": {"beta": 0.5, "retain_weight": 5.0, "kl_weight": 0.0}},
    "npo + kl": {"method": "npo", "set": {"beta": 0.5, "retain_weight": 0.0, "kl_weight": 10.0}},
    "npo (default)": {"method": "npo"},
    "ga + 10 kl": {"objective": "-nll(FORGET) + 10*kl(RETAIN, direction='forward')", "epochs": 6, "retain_ratio": 3},
    "idk + kl": {
        "objective": "nll(IDK) + 2*nll(RETAIN) + 5*kl(RETAIN, direction='forward')",
        "epochs": 10,
        "lr": 2e-3,
        "retain_ratio": 3,
    },
}
FIGURES = ("forget_name", "forget_fact", "retain_name", "retain_fact", "real_name")


def accuracies(folder: str | Path, data: Dataset, world: World) -> dict[str, float]:
    """The headline figures of a model: names on unseen pictures, facts, real people's names."""
    model = load_model(inspect_model(model_dir(folder, "model")), device=world.device)
    asked = {
        "forget": [e for e in data.sets["forget"] if e.kind == "qa" or (e.kind == "name" and not e.seen)],
        "retain": [e for e in data.sets["retain"] if e.kind == "qa" or (e.kind == "name" and not e.seen)],
        "real_faces": [e for e in data.sets["real_faces"] if e.kind == "choice" and e.picture is not None],
    }
    records = evaluate(ModelPredictor(model), asked, model="model", max_new_tokens=36)  # pyright: ignore[reportArgumentType]

    def mean(which: str, kind: str, score: str) -> float:
        found = [r.score(score) for r in records if r.set == which and r.kind == kind]
        values = [v for v in found if v is not None]
        return sum(values) / len(values)

    return {
        "forget_name": mean("forget", "name", "name"),
        "forget_fact": mean("forget", "qa", "fact"),
        "retain_name": mean("retain", "name", "name"),
        "retain_fact": mean("retain", "qa", "fact"),
        "real_name": mean("real_faces", "choice", "name"),
    }


def run_seed(labels: Sequence[str], seed: int, world: World, scratch: Path) -> Iterator[dict[str, Any]]:
    """One row per model of a seed: original, gold, then every variant from that original."""
    base = UnlearnConfig(seed=seed)
    data = open_data(base, world)
    folders = {name: cached(derived(base, on), data, world) for name, on in (("original", "all"), ("gold", "retain"))}
    for name, folder in folders.items():
        yield {"method": name, "seed": seed, **accuracies(folder, data, world)}
    for label in labels:
        out = scratch / f"{seed}-{label.replace(' ', '')}"
        config = UnlearnConfig(seed=seed, original=folders["original"], out=out, **VARIANTS[label])
        objective = objective_of(config)
        began = time.perf_counter()
        folder = unlearn(
            config, data, objective, inspect_model(model_dir(folders["original"], "original")), out, world, resume=False
        )
        seconds = time.perf_counter() - began
        shown = {
            "objective": str(objective),
            "epochs": config.epochs,
            "lr": config.lr,
            "retain_ratio": config.retain_ratio,
        }
        yield {"method": label, "seed": seed, **accuracies(folder, data, world), "seconds": seconds, **shown}


def within(row: Mapping[str, Any], original: Mapping[str, Any], gold: Mapping[str, Any]) -> bool:
    """Forget figures within .15 of gold and retain figures within .1 of the original."""
    forgot = all(row[f"forget_{k}"] <= gold[f"forget_{k}"] + 0.15 for k in ("name", "fact"))
    kept = all(row[f"retain_{k}"] >= original[f"retain_{k}"] - 0.1 for k in ("name", "fact"))
    return forgot and kept


def medians(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """method -> figure -> median over its seeds."""
    methods = dict.fromkeys(str(r["method"]) for r in rows)
    return {m: {f: median(r[f] for r in rows if r["method"] == m) for f in FIGURES} for m in methods}


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table of medians, every seed's value in brackets."""
    table = medians(rows)
    lines = [
        "| method | forget name | forget fact | retain name | retain fact | real name | both kept |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for method, figures in table.items():
        cells = []
        for figure in FIGURES:
            every = " ".join(f"{r[figure]:.2f}" for r in rows if r["method"] == method)
            cells.append(f"{figures[figure]:.2f} ({every})")
        verdict = (
            ""
            if method in ("original", "gold")
            else "yes"
            if within(figures, table["original"], table["gold"])
            else "no"
        )
        lines.append(f"| {method} | {' | '.join(cells)} | {verdict} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), help="variants to run")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    args = parser.parse_args()
    world = init_world()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for seed in args.seeds:
            for row in run_seed(args.only, seed, world, Path(scratch)):
                rows.append(row)
                print(json.dumps(row), flush=True)
    save(rows, args.out, world)
    close_world()


def save(rows: Sequence[Mapping[str, Any]], out: Path, world: World) -> None:
    """bench_methods.json, a dated Markdown and PNG."""
    points = [
        {
            "method": r["method"],
            "seed": r["seed"],
            "forget": (r["forget_name"] + r["forget_fact"]) / 2,
            "retain": (r["retain_name"] + r["retain_fact"]) / 2,
        }
        for r in rows
    ]
    text = (
        "# The forget-retain front of CLEAR-mini\n\nMedians over seeds, every seed's value in brackets. *Both kept*: "
        "forget figures within .15 of gold and retain figures within .1 of the original.\n\n" + markdown(rows)
    )
    write_results("bench_methods", out, machine(world.device), rows, text, lambda path: front(points, path))
    print(text)


if __name__ == "__main__":
    main()
