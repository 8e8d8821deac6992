"""How an attack on a farm was made: run.json, what a reader asks first, then all of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clear_dist.report.view import Facts, facts_from

FARM_SHORT = {
    "images": "Pictures from",
    "size": "Side of a picture, pixels",
    "models": "Shadow models",
    "forget": "People to forget",
    "holdout": "People held out",
    "design": "Design",
    "enrol": "Enrolment pictures a person",
}
ATTACK_SHORT = {
    "enrolment": "Enrolment",
    "pictures": "Pictures under attack",
    "variance": "Estimate of variances",
    "folds": "Folds",
    "draws": "Bootstrap draws",
}


def setting(facts: Mapping[str, Any], name: str) -> Any:
    """A value of run.json, wherever it stands: at the top, in the attack's settings or in the farm's."""
    places = [facts, *(facts[k] for k in ("config", "settings") if isinstance(facts.get(k), Mapping))]
    return next((place[name] for place in places if place.get(name) is not None), None)


def in_short(facts: Mapping[str, Any]) -> Facts:
    """What a reader asks first of run.json: data, network, numbers of models, design, how intervals were made."""
    farm = facts.get("settings")
    farm = farm if isinstance(farm, Mapping) else {}
    rows = [(words, str(farm[name])) for name, words in FARM_SHORT.items() if isinstance(farm.get(name), str | int)]
    network = farm.get("network")
    if isinstance(network, Mapping) and network.get("size") is not None:
        rows.append(("Network", f"ResNet-{network['size']}"))
    rows += [
        (words, str(v)) for name, words in ATTACK_SHORT.items() if isinstance(v := setting(facts, name), str | int)
    ]
    models = facts.get("models")
    sides = [v for v in models.values() if isinstance(v, Mapping)] if isinstance(models, Mapping) else []
    for side, words in (("forgotten", "Models of a row that forgot"), ("never", "Models that never saw them")):
        counts = sorted({v[side] for v in sides if isinstance(v.get(side), int)})
        if counts:
            rows.append((words, " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))))
    return Facts("In short", tuple(rows))


def farm_facts(facts: Mapping[str, Any]) -> tuple[Facts, ...]:
    """run.json as lists: the farm's own settings are called so, and what is said elsewhere is left out."""
    said = ("incomplete", "skipped")
    found = facts_from({"farm" if k == "settings" else k: v for k, v in facts.items() if k not in said})
    return tuple(f for f in (in_short(facts), *found) if f.rows)
