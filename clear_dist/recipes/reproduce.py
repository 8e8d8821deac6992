"""``clear-dist reproduce``: a run again as its run.json says, then compared with what is on disk, bit for bit."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from clear_dist.config import EvaluateConfig, FinetuneConfig, ReproduceConfig, UnlearnConfig
from clear_dist.engine.deterministic import machine
from clear_dist.metrics.record import read_jsonl
from clear_dist.services.progress import console, say
from clear_dist.services.rundir import read_run, source, versions
from clear_dist.types import UserError

DIFFERS = 1
RECIPES = {"finetune": FinetuneConfig, "unlearn": UnlearnConfig, "evaluate": EvaluateConfig}
FACTS = ("digest", "objective", "data_digest", "original_weights", "forgotten", "data", "base", "training")
MACHINE = ("device", "threads")  # two runs on unlike ones are equal to rounding only
WEIGHTS = ("adapter", "model")
NUMBERS = ("loss", "parts", "grad_norm", "lr", "coefficients", "skipped", "eval")  # of a line, less times


def run(config: ReproduceConfig) -> int:
    """Exit status 0 where everything is the same, 1 where something differs."""
    facts = finished_run(config.run)
    out = config.out or config.run.with_name(f"{config.run.name}-again")
    if out.exists():
        raise UserError(f"--out {out}: exists; name a new directory")
    settings = _settings(facts, config.run, out)
    ranks, here = int(facts.get("ranks") or 1), int(os.environ.get("WORLD_SIZE", "1"))
    if ranks != here:
        raise UserError(
            f"{config.run}: was made by {ranks} rank(s), this is a group of {here}: "
            f"torchrun --nproc-per-node {ranks} launchers/reproduce.py {config.run}"
            if ranks > 1
            else f"{config.run}: was made by one rank: start it without a launcher"
        )
    main = os.environ.get("RANK", "0") == "0"
    for line in changes(facts):
        say(f"  note: {line}", main)
    if config.fresh:
        os.environ["CLEAR_DIST_CACHE"] = str(out.with_name(f"{out.name}.cache"))
    importlib.import_module(f"clear_dist.recipes.{facts['recipe']}").run(settings)
    if not main:
        return 0
    found = list(differences(config.run, out))
    for line in found:
        console.print(f"  ✕ {line}", markup=False, soft_wrap=True)
    console.print(
        f"{config.run}: {'not reproduced' if found else 'reproduced, bit for bit'} ({out})",
        markup=False,
        soft_wrap=True,
    )
    return DIFFERS if found else 0


def finished_run(folder: Path) -> dict[str, Any]:
    facts = read_run(folder)
    if facts is None:
        raise UserError(f"{folder}: no run of clear_dist there (run.json is absent or damaged)")
    if facts.get("recipe") not in RECIPES:
        raise UserError(f"{folder}: a run of {facts.get('recipe')}; expected one of {', '.join(RECIPES)}")
    if not facts.get("finished"):
        raise UserError(f"{folder}: the run did not come to its end, so there is nothing to compare with")
    return facts


def _settings(facts: Mapping[str, Any], folder: Path, out: Path) -> Any:
    """The configuration of the run, with another place to write to."""
    values = {**(facts.get("config") or {}), "out": out, "resume": "never"}
    try:
        return RECIPES[facts["recipe"]].model_validate(values)
    except ValidationError as error:
        raise UserError(f"{folder / 'run.json'}: its config is none that this version knows: {error}") from None


def changes(facts: Mapping[str, Any]) -> Iterator[str]:
    """What is not as it was, or never was so that bits could be the same: packages, the commit, the machine."""
    now = versions()
    for name, then in (facts.get("versions") or {}).items():
        if now.get(name) != then:
            yield f"{name} was {then}, is {now.get(name)}"
    then, here = facts.get("source"), source()
    if then != here:
        yield f"the code was {_code(then)}, is {_code(here)}"
    was = facts.get("machine") or {}
    cuda = torch.cuda.is_available()
    is_ = machine(torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu"))
    for name in MACHINE:
        if name in was and was[name] != is_[name]:
            yield f"{name}: {was[name]} then, {is_[name]} now: bits are the same on the same only"
    if not was.get("deterministic", True):
        yield "it ran on a GPU without --deterministic, where sums have no fixed order: last bits may differ"


def _code(found: Any) -> str:
    if not isinstance(found, dict):
        return "installed"
    return f"{str(found.get('commit'))[:12]}{' with changes' if found.get('changed') else ''}"


def differences(then: Path, now: Path) -> Iterator[str]:
    """What of the second run is not what it was in the first."""
    old, new = read_run(then) or {}, read_run(now) or {}
    for name in FACTS:
        if old.get(name) != new.get(name):
            yield f"run.json: {name} was {old.get(name)!r}, is {new.get(name)!r}"
    yield from _lines(then, now)
    for folder in WEIGHTS:
        yield from _weights(then / folder, now / folder)
    yield from _answers(then / "records.jsonl", now / "records.jsonl")


def _lines(then: Path, now: Path) -> Iterator[str]:
    """The first step whose numbers differ."""
    for a, b in zip_longest(_read(then / "metrics.jsonl"), _read(now / "metrics.jsonl")):
        if a is None or b is None:
            step = (a or b or {}).get("step")
            yield f"metrics.jsonl: step {step} is only in the {'second' if a is None else 'first'} run"
            return
        for name in NUMBERS:
            if a.get(name) != b.get(name):
                yield f"metrics.jsonl: step {a.get('step')}: {name} was {a.get(name)}, is {b.get(name)}"
                return


def _weights(then: Path, now: Path) -> Iterator[str]:
    for file in sorted({f.name for folder in (then, now) for f in folder.glob("*.safetensors")}):
        if not ((then / file).is_file() and (now / file).is_file()):
            yield f"{then.name}/{file}: only in one of the runs"
            continue
        a, b = load_file(then / file), load_file(now / file)
        other = [n for n in sorted({*a, *b}) if n not in a or n not in b or not torch.equal(a[n], b[n])]
        if other:
            first = other[0]
            apart = [float((a[n].double() - b[n].double()).abs().max()) for n in other if n in a and n in b and
                     a[n].shape == b[n].shape and a[n].numel()]  # fmt: skip
            far = f", at most {max(apart):.3g} apart" if apart else ""
            yield f"{then.name}/{file}: {len(other)} of {len({*a, *b})} tensors differ{far} (first: {first})"


def _answers(then: Path, now: Path) -> Iterator[str]:
    def keyed(file: Path) -> dict[tuple[str, ...], dict[str, Any]]:
        return {(str(r.get("model")), str(r.get("set")), str(r.get("id"))): r for r in _read(file)}

    a, b = keyed(then), keyed(now)
    other = [key for key in a if a[key] != b.get(key)] + [key for key in b if key not in a]
    if other:
        yield f"records.jsonl: {len(other)} of {len({*a, *b})} records differ (first: {'/'.join(other[0])})"


def _read(file: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_jsonl(file)] if file.is_file() else []
