"""Several run directories over the same people: methods that forget, that keep, that do neither."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from synthetic_extras import enriched, labelled
from synthetic_run import NAMES, Imagined, People, world, write_steps

from clear_dist.evaluation.control import control_name, shuffle_pictures
from clear_dist.evaluation.predict import evaluate
from clear_dist.evaluation.records import write_records
from clear_dist.evaluation.summary import summarise, write_summary


class Method(NamedTuple):
    """forget, retain: what is still known. folder: its name, by default the method's."""

    name: str
    forget: float
    retain: float
    modality: str = "both"
    l1: float = 0.0
    seed: int = 0
    folder: str = ""


TWELVE = (
    Method("npo", 0.05, 0.95),
    Method("idk", 0.15, 0.93),
    Method("ga", 0.0, 0.05),
    Method("gd", 0.0, 0.2),
    Method("kl", 0.02, 0.3),
    Method("scrub", 0.4, 0.96),
    Method("retain_ft", 0.8, 0.97),
    Method("rmu", 0.05, 0.4),
    Method("llmu", 0.3, 0.9),
    Method("dpo", 0.2, 0.85),
    Method("pubg", 0.04, 0.94),
    Method("npo", 0.7, 0.96, l1=0.01, folder="npo-l1"),
)


def make_runs(root: Path, methods: Sequence[Method], *, names: Sequence[str] = NAMES, digest: str = "d1") -> list[Path]:
    """Run directories under ``root``, all with the same original and gold."""
    people = People(names)
    examples = world(people)
    rest = range(4, len(names))
    original = Imagined(people, {**dict.fromkeys(range(4), 0.96), **dict.fromkeys(rest, 0.97)}, "o")
    gold = Imagined(people, {**dict.fromkeys(range(4), 0.02), **dict.fromkeys(rest, 0.97)}, "g")
    shared = [*evaluate(original, examples, model="original"), *evaluate(gold, examples, model="gold")]
    shared += evaluate(original, shuffle_pictures(examples), model=control_name("original"))
    out = []
    for m in methods:
        knows = {**dict.fromkeys(range(4), m.forget), **dict.fromkeys(rest, m.retain)}
        tag = f"{m.name}{m.seed}{m.modality}"
        records = labelled([*shared, *evaluate(Imagined(people, knows, tag), examples, model="unlearned")])
        folder = root / (m.folder or m.name)
        folder.mkdir(parents=True)
        write_records(folder / "records.jsonl", records)
        summary = enriched(summarise(records, seconds={"unlearn": 40.0, "evaluate": 12.0}, draws=50), records)
        write_summary(folder / "summary.json", summary)
        (folder / "pictures").mkdir()
        for digest_, (_, data, _) in people.shots.items():
            (folder / "pictures" / f"{digest_}.png").write_bytes(data)
        scale = 1 + random.Random(tag).random()
        write_steps(folder / "metrics.jsonl", 60, {f"{m.name}(FORGET)": (scale, 0.2), "nll(RETAIN)": (0.1, 0.1)}, 1e-3)
        config = {"method": m.name, "modality": m.modality, "l1": m.l1, "seed": m.seed}
        run = {"v": 1, "recipe": "unlearn", "config": config, "data_digest": digest, "command": "clear-dist unlearn"}
        (folder / "run.json").write_text(json.dumps(run))
        out.append(folder)
    return out


if __name__ == "__main__":
    import sys

    from clear_dist.report.build import report, report_runs

    folders = make_runs(Path(sys.argv[1]), TWELVE)
    for made in folders:
        report(made)
    print(*report_runs(folders, Path(sys.argv[1]) / "report"))
