"""What the documents tell a reader to run does run, and the forms they show are the forms in use."""

from __future__ import annotations

import csv
import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from data.data_fakes import encoded_image

from clear_dist.data.load import load_dataset
from clear_dist.evaluation.summary import METRICS, summarise
from clear_dist.metrics.record import SCORES, read_records


def blocks(root: Path, page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (root / "docs" / page).read_text(), flags=re.DOTALL)


def test_every_document_is_looked_at(root: Path) -> None:
    from test_project import DOCS

    assert {path.stem for path in (root / "docs").glob("*.md")} == set(DOCS)


def test_the_tutorials_script_makes_a_dataset_that_loads(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the table the tutorial shows, and pictures of those names."""
    text = (root / "docs" / "tutorial.md").read_text()
    table = re.search(r"```\n(file,name,caption\n.*?)```", text, flags=re.DOTALL)
    script = next(b for b in blocks(root, "tutorial.md", "python") if b.startswith("# make_dataset.py"))
    assert table is not None
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLEAR_DIST_CACHE", str(tmp_path / "cache"))
    Path("people.csv").write_text(table[1])
    Path("pictures").mkdir()
    rows = list(csv.DictReader(table[1].splitlines()))
    for i, row in enumerate(rows):
        Path("pictures", row["file"]).write_bytes(encoded_image((90 * i, 0, 0), "JPEG"))
    exec(compile(script, "make_dataset.py", "exec"), {"__name__": "__main__"})

    data = load_dataset("data/mine", forget_names="Ada Example", modality="visual")
    assert data.people == {"forget": ["Ada Example"], "retain": ["Bo Sample"], "holdout": []}
    captions = {e.answer for name in ("forget", "retain") for e in data.train[name] if e.kind == "caption"}
    assert captions == {row["caption"] for row in rows}
    everyone = load_dataset("data/mine", forget=None, modality="visual")
    assert everyone.people["forget"] == [] and len(everyone.people["retain"]) == 2


def test_python_of_the_documents_compiles(root: Path) -> None:
    pages = sorted(path.name for path in (root / "docs").glob("*.md"))
    found = [block for page in pages for block in blocks(root, page, "python")]
    assert len(found) >= 2
    for block in found:
        compile(block, "document", "exec")
        for module in re.findall(r"^(?:from|import) (\w+)", block, flags=re.MULTILINE):
            assert module in sys.stdlib_module_names or module in {"clear_dist", "datasets", "peft", "transformers"}
        for module, names in re.findall(r"^from (clear_dist\S*) import (.+)$", block, flags=re.MULTILINE):
            assert all(hasattr(importlib.import_module(module), name.strip()) for name in names.split(","))


def test_the_layout_is_the_layout_clear_mini_has(root: Path) -> None:
    from clear_dist.data.mini.tables import columns

    configs = set(columns())
    text = (root / "docs" / "data.md").read_text().split("## Layout")[1].split("## `attributes.json`")[0]
    table = text.split("Of your own dataset")[0]
    first = " ".join(re.findall(r"^\| ([^|]+) \|", table, flags=re.MULTILINE))
    named = set(re.findall(r"`([a-z]\S*)`", first))
    named |= {f"{c}+tofu" for c in named if re.fullmatch(r"(forget|retain)\d\d", c)}
    assert named == configs
    assert len(configs) == 20 and "these 20" in text


def test_forms_of_files_are_as_documented(root: Path, tmp_path: Path) -> None:
    shown: list[dict[str, Any]] = [json.loads(block) for block in blocks(root, "formats.md", "json")]
    step, record, summary, *_ = shown
    assert set(record["scores"]) == set(SCORES)
    path = tmp_path / "records.jsonl"
    path.write_text(json.dumps(record) + "\n")
    (read,) = read_records(path)
    assert json.loads(read.to_line()) == record

    real = summarise([read], seconds={"unlearn": 1.0})
    assert set(real) >= set(summary)
    ours, theirs = summary["models"]["unlearned"], real["models"]["unlearned"]
    assert set(ours) == set(theirs)
    assert set(ours["sets"]["forget"]) == set(theirs["sets"]["forget"])
    metrics = (root / "docs" / "formats.md").read_text().split("Metrics: ")[1]
    assert all(f"`{name}`" in metrics for name in METRICS)
    assert {"step", "loss", "parts", "lr", "grad_norm", "real_tokens", "tokens_per_s"} <= set(step)


def nested_keys(value: object) -> object:
    """The keys of nested objects, without what they hold."""
    return {key: nested_keys(part) for key, part in value.items()} if isinstance(value, dict) else None


def test_forms_of_a_farms_files_are_as_documented(root: Path, tmp_path: Path) -> None:
    from attacks.logit_worlds import world
    from shadow.vision_farm import identities, make_farm, settings

    from clear_dist.attacks.bootstrap import attack
    from clear_dist.metrics.interval import Estimate
    from clear_dist.recipes.attack_files import COLUMNS, attack_row
    from clear_dist.report.attack_file import read_attack
    from clear_dist.shadow.objects import Ref
    from clear_dist.shadow.sidecars import Done, write_sidecar

    text = (root / "docs" / "formats.md").read_text()
    *_, sidecar, attacked, moment = (json.loads(block) for block in blocks(root, "formats.md", "json"))
    key, result = "a" * 64, Ref("b" * 64, 4312)
    write_sidecar(tmp_path, Done(key, "unlearn", "npo/007", result, None, {"seconds": 11.8}, 12.0, 0.0, "local-0"))
    assert nested_keys(json.loads((tmp_path / "tasks" / f"{key}.json").read_text())) == nested_keys(sidecar)

    farm = json.loads((make_farm(tmp_path / "farm", data := identities(), settings(data)) / "farm.json").read_text())
    plan = text.split("**`farm.json`**")[1].split("**A result**")[0]
    parts = (farm, farm["tasks"][0], farm["head"], farm["head"]["identities"], farm["head"]["pictures"])
    assert all(f"`{name}`" in plan for part in parts for name in part)

    found = attack(world(1.0, models=12, examples=20), count=3)  # 240 never-seen targets: enough for all but .001
    share = Estimate(0.5, 0.4, 0.6, 12)
    row = attack_row(dict.fromkeys(("forget_acc", "holdout_acc", "retain_acc"), share), found, "std")
    assert nested_keys(row) == nested_keys(attacked["npo"])
    file = tmp_path / "attack.json"
    file.write_text(json.dumps(attacked))
    assert list(read_attack(file)) == ["npo"]
    assert f"```\n{','.join(COLUMNS)}\n```" in text
    assert set(moment) == {"epoch", "forget_acc", "holdout_acc", "retain_acc", "u_lira"}


def test_attributes_are_read_as_documented(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    from data.data_fakes import clear_tables, write_clear

    monkeypatch.setenv("CLEAR_DIST_CACHE", str(tmp_path / "cache"))
    (block,) = blocks(root, "data.md", "json")
    folder = write_clear(tmp_path / "data", clear_tables())
    digest = hashlib.sha256(encoded_image((0, 0, 90))).hexdigest()  # the first picture of Ada Berg
    (folder / "attributes.json").write_text(block.replace("SHA-256 of the encoded bytes", digest))
    data = load_dataset(str(folder), forget_names="Ada Berg")
    unseen = [e for e in data.sets["forget"] if not e.seen]
    assert {e.kind for e in unseen} == {"caption", "name", "describe", "attribute"}
    assert not any(e.picture and e.picture.digest == digest for e in data.train["forget"])
