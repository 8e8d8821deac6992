"""The four kinds of attacks on loaded models: each asks the same questions of every model and returns records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from clear_dist.attacks.prime import Begun, Primed, begin
from clear_dist.attacks.prompts import Rewritten, Tiers, rewrite
from clear_dist.attacks.quantise import SCHEMES, quantise_linear
from clear_dist.attacks.relearn import shown_rows, untouched
from clear_dist.attacks.worst import worst_of
from clear_dist.config import EvaluateConfig, RobustnessConfig, UnlearnConfig
from clear_dist.data.load import Dataset
from clear_dist.engine.predict import ModelPredictor
from clear_dist.engine.world import World
from clear_dist.metrics.record import Record, read_records, variant_name
from clear_dist.models import Model, ModelInfo, load_model
from clear_dist.services.progress import say, task
from clear_dist.types import Example, SetName, UserError

from .answers import ask
from .common import Stopwatch, only_on_main
from .relearn import relearn

Sets = dict[SetName, list[Example]]
DEFAULT_LR = 1e-4


@dataclass
class Notes:
    """What is to be known of each attack beside its records; kept in robustness.json."""

    main: bool = True  # whether to tell the user too: on one rank
    attacks: dict[str, dict[str, Any]] = field(default_factory=dict)
    watch: Stopwatch = field(default_factory=Stopwatch)

    def left_out(self, attack: str, sets: Mapping[SetName, Rewritten]) -> None:
        counts = {name: len(found.left_out) for name, found in sets.items()}
        asked = {name: len(found.examples) for name, found in sets.items()}
        self.attacks[attack] = {"asked": asked, "left_out": counts}
        if any(counts.values()):
            say(
                f"  {attack}: {sum(counts.values())} of {sum(counts.values()) + sum(asked.values())} questions left out"
            )


@dataclass(frozen=True)
class Ask:
    """Puts every question to a whole model, each rank its share, as evaluation does."""

    world: World
    max_length: int
    max_new_tokens: int

    def __call__(self, model: Model, sets: Mapping[SetName, Sequence[Example]], name: str) -> list[Record]:
        total = sum(map(len, sets.values()))
        with task(f"asking {name}", total, self.world.main) as bar:
            predictor = ModelPredictor(model, max_length=self.max_length)
            records = ask(predictor, sets, name, self.world, self.max_new_tokens)
            if bar is not None:
                bar.update(total)
        return records if self.world.main else []

    def load(self, info: ModelInfo) -> Model:
        return load_model(info, attention="sdpa", device=self.world.device)


def rewritten(
    sets: Sets, tiers: Callable[[Example], Tiers], reads: Callable[[str], bool], attack: str, notes: Notes
) -> Sets:
    found: dict[SetName, Rewritten] = {name: rewrite(rows, tiers, reads) for name, rows in sets.items()}
    notes.left_out(attack, found)
    return {name: r.examples for name, r in found.items()}


def quantised(infos: Mapping[str, ModelInfo], sets: Sets, asking: Ask, notes: Notes) -> list[Record]:
    records: list[Record] = []
    packed = [name for name, info in infos.items() if info.base_weights != "full"]
    if packed:
        say(
            f"  quantise: left out, since the weights of {' and '.join(packed)} are in 4 bits already",
            asking.world.main,
        )
        return records
    for name, info in infos.items():
        for scheme in SCHEMES:
            model = asking.load(info)
            layers = quantise_linear(model.family.decoder(model.module), scheme)
            notes.attacks[scheme] = {"layers": layers, "asked": {k: len(v) for k, v in sets.items()}}
            records += asking(model, sets, variant_name(name, scheme))
    return records


def reworded(infos: Mapping[str, ModelInfo], asked: Mapping[str, Sets], asking: Ask) -> list[Record]:
    records: list[Record] = []
    for name, info in infos.items():
        model = asking.load(info)
        for attack, sets in asked.items():
            records += asking(model, sets, variant_name(name, attack))
    return records


def prefixed(
    infos: Mapping[str, ModelInfo], asked: Mapping[str, Sets], sets: Sets, asking: Ask, notes: Notes
) -> list[Record]:
    begun: dict[SetName, Begun] = {name: begin(rows) for name, rows in sets.items()}
    asked_rest: dict[SetName, Rewritten] = {n: Rewritten(b.examples, b.left_out) for n, b in begun.items()}
    notes.left_out("prefilled", asked_rest)
    starts = {shown: start for b in begun.values() for shown, start in b.starts.items()}
    rests = {words: start for b in begun.values() for words, start in b.rests.items()}
    records: list[Record] = []
    for name, info in infos.items():
        model = asking.load(info)
        tries = [asking(model, sets_, variant_name(name, attack)) for attack, sets_ in asked.items()]
        records += [record for records_ in tries for record in records_]
        records += worst_of(tries, variant_name(name, "prefix_worst"))
        primed = replace(model, processor=cast("Any", Primed(model.processor, starts, rests)))
        rest: Sets = {set_name: b.examples for set_name, b in begun.items()}
        records += asking(primed, rest, variant_name(name, "prefilled"))
    return records


def relearned(
    infos: Mapping[str, ModelInfo],
    data: Dataset,
    sets: Sets,
    out: Path,
    asking: Ask,
    config: RobustnessConfig,
    source: UnlearnConfig | EvaluateConfig,
    notes: Notes,
) -> list[Record]:
    lr = config.relearn_lr or (source.lr if isinstance(source, UnlearnConfig) else DEFAULT_LR)
    shows = {
        f"relearn_{name}": shown_rows(data.train[name], config.relearn_rows, config.seed)
        for name in ("forget", "retain")
    }
    scores: dict[str, Sets] = {a: {name: untouched(rows, s) for name, rows in sets.items()} for a, s in shows.items()}
    for attack in [a for a, shown in shows.items() if not shown or not scores[a]["forget"]]:
        why = "there is no row to show" if not shows[attack] else "the rows shown leave no question to ask"
        say(f"  {attack}: left out, for {why}", asking.world.main)
        del scores[attack]
    starts = only_on_main(asking.world, lambda: _before(out / "records.jsonl", list(infos), scores))
    records = list(starts) if asking.world.main else []
    for attack, scored in scores.items():
        shown = shows[attack]
        notes.attacks[attack] = {**_note(sets, shown, scored), "lr": lr}
        for name, info in infos.items():
            if name == "original":  # it knows already
                continue
            model = asking.load(info)
            for step in relearn(model, shown, config.steps, lr, config.seed, max_length=source.max_length):
                records += asking(model, scored, variant_name(name, f"{attack}@{step}"))
    return records


def _note(sets: Sets, shown: Sequence[Example], scored: Sets) -> dict[str, Any]:
    """Which rows were shown, about whom, and whether the questions asked then are about the same people."""
    people, others = {e.person for e in shown}, {e.person for e in scored["forget"]}
    return {
        "shown": [e.id for e in shown],
        "people_shown": sorted(p for p in people if p),
        "people_asked_about": len(others),
        "of_them_shown": len(people & others),
        "asked": {name: len(rows) for name, rows in scored.items()},
        "left_out": {name: len(sets[name]) - len(rows) for name, rows in scored.items()},
    }


def _before(file: Path, models: Sequence[str], scores: Mapping[str, Sets]) -> list[Record]:
    """The models' answers before each attack to the questions asked after it, as step 0."""
    there = {(r.model, r.set, r.id): r for r in read_records(file)}
    out: list[Record] = []
    for attack, sets in scores.items():
        for model in models:
            for name, example in ((name, e) for name, rows in sets.items() for e in rows):
                record = there.get((model, name, example.id))
                if record is None:
                    raise UserError(
                        f"{file}: has no answer of model {model!r} to {example.id!r} of the {name} set, so there is "
                        "nothing to compare an attack with; evaluate the run again."
                    )
                out.append(replace(record, model=variant_name(model, f"{attack}@0")))
    return out
