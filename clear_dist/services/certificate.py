"""What a run did, as a document that can be signed and checked: read from the run's own files, nothing computed anew.

Names of people are not in it: each is a digest with a salt of the certificate, so that whoever knows a name can look
whether it was among them.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from clear_dist.errors import UserError
from clear_dist.reading import finite, is_file, json_value, unique_keys
from clear_dist.services.rundir import read_run
from clear_dist.services.signing import canonical

KIND = "clear_dist unlearning certificate"
FILES = ("run.json", "summary.json", "records.jsonl", "metrics.jsonl", "robustness.json")
WEIGHTS = ("adapter", "model")
SETS = ("forget", "retain", "holdout", "real_faces", "real_world")
METRICS = (
    *("name_accuracy", "fact_accuracy", "attribute_accuracy", "rouge_l", "probability", "truth_ratio"),
    *("exact_memorisation", "extraction_strength"),
)
_SALT = re.compile("([0-9a-f]{2})+")
LIMITS = (
    "It says what was run, on which weights and data, and what was measured, as the files of the run have it.",
    "Digests show that files are those the certificate was made of. A signature shows who vouches for it; without one "
    "anybody can have made both.",
    "It does not prove that a model has forgotten: measurements are on the questions asked, with the intervals given, "
    "and attacks that were not tried may bring things back.",
    "It speaks of these weights only. Copies made before, other checkpoints and training data are not touched by it.",
)


def certificate_of(run: Path) -> dict[str, Any]:
    """The document, JSON-ready. Raises UserError: no finished unlearning run there, or files that cannot be read."""
    facts = read_run(run)
    if facts is None:
        raise UserError(f"{run}: no run of clear_dist there (run.json is absent or damaged)")
    if facts.get("recipe") != "unlearn":
        raise UserError(f"{run}: a run of {facts.get('recipe')}; a certificate is of an unlearning run")
    if not facts.get("finished"):
        raise UserError(f"{run}: the run did not come to its end; start it again with the same command, then certify")
    summary = _json(run / "summary.json")
    salt = secrets.token_hex(16)
    people = facts.get("people") or {}
    return {
        "v": 1,
        "kind": KIND,
        "salt": salt,
        "forgotten": {
            "people": sorted(person_digest(salt, name) for name in people.get("forget", [])),
            "kept_people": len(people.get("retain", [])),
            **(facts.get("forgotten") or {}),
        },
        "data": {"digest": facts.get("data_digest"), "leaks": (facts.get("leaks") or {}).get("count")},
        "models": {"before": facts.get("original_weights"), "after": weights_of(run)},
        "method": {"objective": facts.get("objective"), "name": facts["config"].get("method")},
        "settings": _nameless(facts["config"]),
        "seeds": facts.get("seeds"),
        "ranks": facts.get("ranks"),
        "run": {
            "digest": facts.get("digest"),
            "command": _nameless_command(facts.get("command")),
            "seconds": facts.get("seconds"),
        },
        "measured": {name: measured(model) for name, model in summary.get("models", {}).items()},
        "environment": {name: facts.get(name) for name in ("versions", "source", "machine")},
        "files": {str(f.relative_to(run)): file_digest(f) for f in files_of(run)},
        "limits": list(LIMITS),
    }


def person_digest(salt: str, name: str) -> str:
    """HMAC-SHA-256 of a name, spaces and case left out, under the certificate's salt."""
    return hmac.new(bytes.fromhex(salt), " ".join(name.split()).casefold().encode(), hashlib.sha256).hexdigest()


def _nameless(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings; whose names were given is in the digests alone."""
    names = config.get("forget_names")
    return {**config, **({"forget_names": f"{len(names)} given"} if names else {})}


def _nameless_command(command: str | None) -> str | None:
    """What was typed, less the names of people."""
    try:
        words = shlex.split(command or "")
    except ValueError:  # not one that we have written
        return None
    for i, word in enumerate(words):
        flag, given, _ = word.partition("=")
        if flag in ("--forget-names", "--forget_names"):
            if given:
                words[i] = f"{flag}=..."
            elif i + 1 < len(words):
                words[i + 1] = "..."
    return shlex.join(words) or None


def measured(model: Mapping[str, Any]) -> dict[str, Any]:
    """Of a model's part of summary.json: figures with their intervals, and what attacks brought back."""
    sets = {
        name: {m: all_[m] for m in METRICS if all_.get(m)}
        for name in SETS
        if (all_ := (model.get("sets", {}).get(name) or {}).get("all"))
    }
    out: dict[str, Any] = {"sets": {name: found for name, found in sets.items() if found}}
    for key in ("forget_quality", "model_utility", "membership", "robustness", "recovery"):
        if model.get(key):
            out[key] = model[key]
    named = (model.get("aftermath") or {}).get("named")
    return out | ({"named": named} if named else {})


def weights_of(run: Path) -> dict[str, Any]:
    """file -> SHA-256 of the weights that came out."""
    found = [f for folder in WEIGHTS for f in sorted((run / folder).glob("*.safetensors"))]
    if not found:
        raise UserError(f"{run}: neither adapter/ nor model/ holds weights")
    return {str(file.relative_to(run)): file_digest(file)["sha256"] for file in found}


def files_of(run: Path) -> Iterator[Path]:
    """All that the certificate vouches for."""
    yield from (run / name for name in FILES if (run / name).is_file())
    for folder in WEIGHTS:
        yield from sorted(f for f in (run / folder).glob("*") if f.is_file())


def file_digest(file: Path) -> dict[str, Any]:
    with file.open("rb") as f:
        return {"sha256": hashlib.file_digest(f, "sha256").hexdigest(), "bytes": file.stat().st_size}


def envelope(document: Mapping[str, Any], signature: Mapping[str, str] | None) -> dict[str, Any]:
    """What certificate.json holds."""
    return {
        "certificate": document,
        "sha256": hashlib.sha256(canonical(document)).hexdigest(),
        "signature": signature,
        "note": "signed" if signature else "unsigned, checksums only",
    }


def read_envelope(file: Path) -> dict[str, Any]:
    """Raises UserError for a file that is no certificate."""
    found = _json(file)
    document = found.get("certificate")
    if not isinstance(document, dict) or document.get("kind") != KIND or document.get("v") != 1:
        raise UserError(f"{file}: is no {KIND} of version 1")
    if not isinstance(found.get("sha256"), str) or not isinstance(found.get("signature", ""), dict | None):
        raise UserError(f"{file}: sha256 or signature is missing or of another kind")
    if not isinstance(document.get("files"), dict):
        raise UserError(f"{file}: `certificate.files` is missing or of another kind")
    salt, forgotten = document.get("salt"), document.get("forgotten")
    if not isinstance(salt, str) or not _SALT.fullmatch(salt):
        raise UserError(f"{file}: `certificate.salt` is missing or not hexadecimal")
    people = forgotten.get("people") if isinstance(forgotten, dict) else None
    if not isinstance(people, list) or not all(isinstance(digest, str) for digest in people):
        raise UserError(f"{file}: `certificate.forgotten.people` is missing or no list of digests")
    return found


def differences(document: Mapping[str, Any], run: Path) -> list[str]:
    """What of the run's files is not as the certificate says, file by file; empty where all is."""
    out = []
    there = {str(f.relative_to(run)) for f in files_of(run)}
    for name, wanted in document["files"].items():
        file = run / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            out.append(f"{name}: leads out of the run directory")
        elif not is_file(file):
            out.append(f"{name}: missing")
        elif not isinstance(wanted, dict) or file_digest(file) != wanted:
            out.append(f"{name}: its content is not what was certified")
    return out + [
        f"{name}: was not there when the run was certified" for name in sorted(there - set(document["files"]))
    ]


def people_among(document: Mapping[str, Any], names: Sequence[str]) -> dict[str, bool]:
    """name -> whether it was to be forgotten, as far as spelling goes."""
    listed = set(document["forgotten"]["people"])
    return {name: person_digest(document["salt"], name) in listed for name in names}


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json_value(file.read_bytes(), parse_constant=finite, parse_float=finite, object_pairs_hook=unique_keys)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"{file}: is no JSON, or damaged ({error})") from None
    if not isinstance(found, dict):
        raise UserError(f"{file}: expected an object")
    return found
