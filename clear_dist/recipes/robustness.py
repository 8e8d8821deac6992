"""Attack the models of a finished run and add what they say to its records, summary and report."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clear_dist.attacks import family_of
from clear_dist.attacks.prompts import PREFIXES, paraphrases, translations, with_prefix
from clear_dist.attacks.readings import prefix_mean, recovery
from clear_dist.config import EvaluateConfig, RobustnessConfig, UnlearnConfig
from clear_dist.data.load import Dataset
from clear_dist.data.rewordings import rewordings
from clear_dist.engine.world import World, joined
from clear_dist.evaluation.predict import MAX_NEW_TOKENS
from clear_dist.evaluation.records import write_records
from clear_dist.evaluation.summary import summarise, write_summary
from clear_dist.metrics.record import Record, read_records, variant
from clear_dist.models import inspect_model, with_base_weights
from clear_dist.report.run import read_json
from clear_dist.services.progress import console, say
from clear_dist.types import UserError

from .common import limited, model_dir, only_on_main, open_data, spells
from .evaluate import asked_sets
from .quickstart import copy_pages
from .robustness_attacks import Ask, Notes, Sets, prefixed, quantised, relearned, reworded, rewritten
from .robustness_run import Target, target_of
from .robustness_table import attack_table

ASKED = ("qa", "caption", "name", "choice")  # kinds whose answers tell a name or a fact
NOTES = "robustness.json"


def run(config: RobustnessConfig) -> None:
    """``clear-dist robustness``."""
    target = target_of(config.run)
    for name, folder in target.folders.items():
        inspect_model(model_dir(folder, f"--{name}"))
    with joined() as world:
        _attack(config, target, world)


def _attack(config: RobustnessConfig, target: Target, world: World) -> None:
    data = open_data(target.config, world)
    if target.data_digest is not None and target.data_digest != data.digest:
        raise UserError(
            f"{target.out}: the data ({target.config.data}) is no longer what it was evaluated on, so answers could "
            "not be compared. Put the data back, or evaluate the models again."
        )
    notes = Notes(world.main)
    records = attack_models(target.folders, data, target.out, world, config, target.config, notes=notes)

    def conclude() -> None:
        add_records(target.out, records, config.families, target.folders, data, target.config, notes)
        if target.top is not None:
            copy_pages(target.out, target.top)
        say(f"report: {(target.top or target.out) / 'index.html'}")

    only_on_main(world, conclude)


def attack_models(
    folders: Mapping[str, str | Path],
    data: Dataset,
    out: Path,
    world: World,
    config: RobustnessConfig,
    source: UnlearnConfig | EvaluateConfig,
    *,
    notes: Notes | None = None,
) -> list[Record]:
    """The records of every model under every attack of ``config.families``, named MODEL/ATTACK; on rank 0 (else none).

    Asked are questions of the forget set and as many of the retain set that tell a name or a fact, the same for every
    model. ``original`` shows whether an attack leaves a model that knows able to answer; it is not relearned.

    Args:
        folders: model name -> directory.
        out: run directory whose records.jsonl holds the models' answers before any attack.
        source: the configuration of that run: data and evaluation settings.
        notes: told what was left out, which rows were shown, and how long it took.
    """
    notes = notes or Notes(world.main)
    sets = asked_of(data, source.eval_limit, config.limit)
    infos = {name: inspect_model(model_dir(folder, f"--{name}")) for name, folder in folders.items()}
    own = next((info for name, info in infos.items() if name not in ("original", "gold")), None)
    if own is not None:  # the others alike, as they were asked before any attack
        kept = with_base_weights(own, source.base_weights).base_weights
        infos = {name: with_base_weights(info, kept) for name, info in infos.items()}
    asking = Ask(world, source.max_length, getattr(source, "max_new_tokens", MAX_NEW_TOKENS))
    reads = functools.lru_cache(maxsize=None)(lambda text: all(spells(text, info) for info in infos.values()))
    records: list[Record] = []
    for family in config.families:
        with notes.watch(f"robustness: {family}"):
            if family == "relearn":
                records += relearned(infos, data, sets, out, asking, config, source, notes)
            elif family == "quantise":
                records += quantised(infos, sets, asking, notes)
            elif family == "prompts":
                known = rewordings(source.data, source.tofu)
                tiers = {"paraphrase": functools.partial(paraphrases, known=known), "translated": translations}
                asked = {attack: rewritten(sets, make, reads, attack, notes) for attack, make in tiers.items()}
                records += reworded(infos, asked, asking)
            elif family == "prefixes":
                makers = [functools.partial(with_prefix, wordings=wordings) for wordings in PREFIXES]
                asked = {
                    f"prefix_{i}": rewritten(sets, make, reads, f"prefix_{i}", notes)
                    for i, make in enumerate(makers, 1)
                }
                records += prefixed(infos, asked, sets, asking, notes)
    return records


def asked_of(data: Dataset, eval_limit: int | None, limit: int) -> Sets:
    """The forget and retain questions to ask: of those the run was evaluated on, at most ``limit`` of each."""
    sets = {name: rows for name, rows in limited(data.sets, eval_limit).items() if name in ("forget", "retain")}
    kept = {name: [e for e in rows if e.kind in ASKED] for name, rows in sets.items()}
    return limited(kept, limit)


def add_records(
    out: Path,
    records: Sequence[Record],
    families: Sequence[str],
    folders: Mapping[str, str | Path],
    data: Dataset,
    source: UnlearnConfig | EvaluateConfig,
    notes: Notes,
) -> None:
    """Put attacks' records into ``out`` in place of older ones of the same families; write summary, report and
    robustness.json again. On rank 0."""
    from clear_dist.report.build import report  # only rank 0 draws: matplotlib is slow to import

    def replaced(record: Record) -> bool:
        attacked = variant(record.model)
        return attacked is not None and attacked[0] in folders and family_of(attacked[1]) in families

    everything = [r for r in read_records(out / "records.jsonl") if not replaced(r)] + list(records)
    write_records(out / "records.jsonl", everything)

    old = _read(out / "summary.json")
    summary = summarise(
        everything,
        forget=asked_sets(data, folders, source.eval_limit)["forget"],
        truth_ratio=getattr(source, "truth_ratio", "geometric"),
        seconds={**old.get("seconds", {}), **notes.watch.seconds},
    )
    for name, model in summary["models"].items():  # what other commands have added to the summary stays
        known = old.get("models", {}).get(name, {})
        summary["models"][name] = {**{k: v for k, v in known.items() if k not in model}, **model}
        if name not in ("original", "gold") and (back := recovery(summary, name)):
            summary["models"][name]["recovery"] = back
        if (mean := prefix_mean(summary, name)) is not None:
            summary["models"][name]["prefix_mean"] = mean
    write_summary(out / "summary.json", {**{k: v for k, v in old.items() if k not in summary}, **summary})

    kept = {a: n for a, n in _read(out / NOTES).get("attacks", {}).items() if family_of(a) not in families}
    text = json.dumps({"v": 1, "attacks": {**kept, **notes.attacks}}, indent=1, ensure_ascii=False)
    part = out / f"{NOTES}.partial"
    part.write_text(text + "\n", encoding="utf-8")
    part.replace(out / NOTES)
    report(out)
    console.print(attack_table(summary))


def _read(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
