"""Certificates: what they say of a run, who vouches for it, and that nothing in them can be changed unnoticed."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from clear_dist import cli
from clear_dist.services.certificate import KIND, person_digest
from clear_dist.services.signing import canonical

Say = Callable[..., tuple[int, str]]
FIGURE = {"value": 0.125, "ci": [0.0, 0.25], "n": 24}
EVIL = "<script>alert(1)</script> \u202egpj.exe"


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """What an unlearning run leaves, in small."""
    out = tmp_path / "run"
    (out / "adapter").mkdir(parents=True)
    save_file({"a": torch.arange(3.0)}, out / "adapter" / "adapter_model.safetensors")
    (out / "adapter" / "adapter_config.json").write_text("{}")
    facts = {
        "v": 1,
        "recipe": "unlearn",
        "config": {"method": "npo", "lr": 0.001, "out": None, "forget_names": ["Ada Example", "Bo Sample"]},
        "digest": "d" * 64,
        "versions": {"python": "3.11.7", "torch": None},
        "source": {"commit": "c" * 40, "changed": False},
        "command": f"clear-dist unlearn --forget-names 'Ada Example;Bo Sample' --forget-names=Ada --data '{EVIL}'",
        "seeds": {"seed": 0},
        "ranks": 2,
        "finished": True,
        "people": {"forget": ["Ada Example", "Bo Sample"], "retain": ["Cy Other"]},
        "forgotten": {"rows": 12, "digest": "f" * 64},
        "leaks": {"count": 1, "first": ["a line"]},
        "objective": "npo(FORGET)",
        "original_weights": "0" * 64,
        "data_digest": "1" * 64,
    }
    model = {"sets": {"forget": {"all": {"name_accuracy": FIGURE, "rouge_l": None}}, "retain": {}}}
    model |= {"robustness": {"int4": {"forget": {"all": {"name_accuracy": FIGURE}}}}, "aftermath": {"named": FIGURE}}
    summary = {"v": 1, "models": {"unlearned": model, EVIL: model}, "seconds": {}}
    (out / "run.json").write_text(json.dumps(facts))
    (out / "summary.json").write_text(json.dumps(summary))
    (out / "records.jsonl").write_text('{"v": 1}\n')
    return out


@pytest.fixture
def say(capfd: pytest.CaptureFixture[str]) -> Say:
    """Runs the command; (exit status, what it said)."""

    def call(*args: object) -> tuple[int, str]:
        status = cli.main(["certify", *map(str, args)])
        captured = capfd.readouterr()
        return status, captured.out + captured.err

    return call


@pytest.fixture
def key(tmp_path: Path, say: Say) -> Path:
    file = tmp_path / "keys" / "me.pem"
    status, said = say("--new-key", file)
    assert status == 0 and "BEGIN PUBLIC KEY" in said and "PRIVATE" not in said
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    (tmp_path / "public.pem").write_text(said[said.index("-----BEGIN") : said.index("fingerprint")])
    return file


def load(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "certificate.json").read_text())


def test_without_a_key_there_are_checksums_only(run_dir: Path, say: Say) -> None:
    status, said = say(run_dir)
    assert status == 0 and "unsigned, checksums only" in said
    found = load(run_dir)
    document = found["certificate"]
    assert found["signature"] is None and found["note"] == "unsigned, checksums only" and document["kind"] == KIND
    assert document["forgotten"]["rows"] == 12 and document["forgotten"]["digest"] == "f" * 64
    assert document["models"]["before"] == "0" * 64 and len(document["models"]["after"]) == 1
    assert document["measured"]["unlearned"]["sets"] == {"forget": {"name_accuracy": FIGURE}}
    assert document["measured"]["unlearned"]["robustness"]["int4"]["forget"]["all"]["name_accuracy"] == FIGURE
    assert set(document["files"]) == {
        *("run.json", "summary.json", "records.jsonl"),
        *("adapter/adapter_model.safetensors", "adapter/adapter_config.json"),
    }
    status, said = say("--verify", run_dir / "certificate.json")
    assert status == 0 and "unsigned: the checksums show damage" in said and "certificate.json: holds" in said


def test_names_can_be_looked_for_and_not_read(run_dir: Path, say: Say) -> None:
    say(run_dir)
    text = (run_dir / "certificate.json").read_text() + (run_dir / "certificate.html").read_text()
    assert "Ada" not in text and "Cy Other" not in text
    document = load(run_dir)["certificate"]
    assert document["settings"]["forget_names"] == "2 given"
    assert document["run"]["command"].startswith("clear-dist unlearn --forget-names ... --forget-names=... --data ")
    status, said = say("--verify", run_dir / "certificate.json", "--names", "ada  EXAMPLE;Cy Other")
    assert status == 0 and "ada  EXAMPLE: was to be forgotten" in said and "Cy Other: is not among" in said
    first = load(run_dir)["certificate"]
    say(run_dir)
    assert load(run_dir)["certificate"]["salt"] != first["salt"], "digests of two certificates cannot be matched"
    assert person_digest(first["salt"], "Ada Example") in first["forgotten"]["people"]


def test_a_signature_holds_and_is_the_key_s(run_dir: Path, key: Path, tmp_path: Path, say: Say) -> None:
    status, said = say(run_dir, "--key", key)
    assert status == 0 and "signed" in said
    file = run_dir / "certificate.json"
    status, said = say("--verify", file)
    assert status == 0 and "signed with the key it carries" in said
    assert say("--verify", file, "--public-key", tmp_path / "public.pem")[0] == 0
    other = tmp_path / "other.pem"
    _, made = say("--new-key", other)
    (tmp_path / "other_public.pem").write_text(made[made.index("-----BEGIN") : made.index("fingerprint")])
    status, said = say("--verify", file, "--public-key", tmp_path / "other_public.pem")
    assert status == 1 and "was not made with the key of" in said and "does not hold" in said


def _set(found: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split("/")
    for name in parents:
        found = found[name]
    found[last] = value


@pytest.mark.parametrize("rehashed", [False, True])
@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("certificate/measured/unlearned/sets/forget/name_accuracy/value", 0.0),
        ("certificate/models/before", "2" * 64),
        ("certificate/forgotten/people", []),
        ("certificate/limits", []),
        ("signature/value", "AAAA"),
        ("signature/fingerprint", "0000"),
    ],
)
def test_no_line_can_be_changed(
    run_dir: Path, key: Path, say: Say, path: str, value: Any, rehashed: bool, tmp_path: Path
) -> None:
    """Not even by somebody who writes the checksum anew."""
    import hashlib

    say(run_dir, "--key", key)
    found = load(run_dir)
    _set(found, path, value)
    if rehashed:
        found["sha256"] = hashlib.sha256(canonical(found["certificate"])).hexdigest()
    (run_dir / "certificate.json").write_text(json.dumps(found))
    status, said = say("--verify", run_dir / "certificate.json")
    assert status == 1 and "✕" in said and "does not hold" in said
    # A signature that is taken away leaves an unsigned one, which is not what a public key asks for.
    found["signature"] = None
    (run_dir / "certificate.json").write_text(json.dumps(found))
    status, said = say("--verify", run_dir / "certificate.json", "--public-key", tmp_path / "public.pem")
    assert status == 1 and "there is none, though a public key was given" in said


@pytest.mark.parametrize("name", ["run.json", "summary.json", "records.jsonl", "adapter/adapter_model.safetensors"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_file_that_is_another_is_named(run_dir: Path, say: Say, name: str, damage: str, tmp_path: Path) -> None:
    say(run_dir, "--out", tmp_path / "paper")
    file = run_dir / name
    data = file.read_bytes()
    if damage == "remove":
        file.unlink()
    else:
        file.write_bytes(data[:-1] if damage == "cut" else data[:-1] + bytes([data[-1] ^ 1]))
    status, said = say(run_dir, "--verify", tmp_path / "paper" / "certificate.json")
    assert status == 1 and f"✕ {name}: {'missing' if damage == 'remove' else 'its content is not'}" in said
    status, said = say("--verify", tmp_path / "paper" / "certificate.json")
    assert status == 0 and "files were not looked at" in said


def test_files_that_came_later_and_paths_that_lead_away(run_dir: Path, say: Say, tmp_path: Path) -> None:
    say(run_dir, "--out", tmp_path / "paper")
    (run_dir / "adapter" / "more.safetensors").write_bytes(b"")
    file = tmp_path / "paper" / "certificate.json"
    assert "adapter/more.safetensors: was not there" in say(run_dir, "--verify", file)[1]
    found = json.loads(file.read_text())
    found["certificate"]["files"]["../../etc/passwd"] = {"sha256": "0", "bytes": 1}
    file.write_text(json.dumps(found))
    assert "../../etc/passwd: leads out of the run directory" in say(run_dir, "--verify", file)[1]


def test_the_page_escapes_what_runs_say(run_dir: Path, key: Path, say: Say) -> None:
    say(run_dir, "--key", key)
    page = (run_dir / "certificate.html").read_text()
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page and "\u202e" not in page
    shown = ("Unlearning of 2 people", "After int4", ".125 [.000, .250], n 24", "Signed by", "What it says and what it")
    for words in shown:
        assert words in page, words


def _spoil(run_dir: Path, change: Callable[[dict[str, Any]], object]) -> None:
    facts = json.loads((run_dir / "run.json").read_text())
    change(facts)
    (run_dir / "run.json").write_text(json.dumps(facts))


def test_what_cannot_be_certified_is_refused(run_dir: Path, say: Say, tmp_path: Path) -> None:
    copies = {name: Path(shutil.copytree(run_dir, tmp_path / name)) for name in ("a", "b", "c", "d")}
    _spoil(copies["a"], lambda f: f.update(finished=False))
    _spoil(copies["b"], lambda f: f.update(recipe="evaluate"))
    (copies["c"] / "summary.json").write_text("{")
    shutil.rmtree(copies["d"] / "adapter")
    (tmp_path / "no.pem").write_text("no key")
    (tmp_path / "no.json").write_text('{"certificate": {"kind": "another"}}')
    cases = {
        (tmp_path,): "no run of clear_dist there",
        (copies["a"],): "did not come to its end",
        (copies["b"],): "a run of evaluate",
        (copies["c"],): "summary.json: is no JSON, or damaged",
        (copies["d"],): "neither adapter/ nor model/ holds weights",
        (run_dir, "--key", tmp_path / "no.pem"): "expected an Ed25519 private key",
        (run_dir, "--key", tmp_path / "nowhere.pem"): "cannot be read",
        ("--new-key", tmp_path / "no.pem"): "a key is never written over",
        ("--verify", tmp_path / "no.json"): f"is no {KIND}",
        ("--verify", tmp_path / "nothing.json"): "cannot be read",
        (): "name a run directory to certify",
        ("--verify", tmp_path / "no.json", "--key", tmp_path / "no.pem"): "signs nothing",
        (run_dir, "--names", "A"): "belong to",
    }
    for args, words in cases.items():
        status, said = say(*args)
        assert status == cli.USER_ERROR and words in said, (args, said)
    assert not (run_dir / "certificate.json").exists()
