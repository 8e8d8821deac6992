"""``clear-dist certify``: a certificate of an unlearning run, its page, and the check of one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from clear_dist.config import CertifyConfig
from clear_dist.errors import printable
from clear_dist.services.certificate import certificate_of, differences, envelope, people_among, read_envelope
from clear_dist.services.progress import console, say
from clear_dist.services.signing import canonical, check_cryptography, fingerprint, is_signed_by, new_key, sign
from clear_dist.types import UserError

DOES_NOT_HOLD = 1
FILE, PAGE = "certificate.json", "certificate.html"


def run(config: CertifyConfig) -> int:
    """Exit status 1 where a certificate does not hold, 0 otherwise."""
    if config.verify is not None:
        return verify(config)
    if config.run is None and config.new_key is None:
        raise UserError("name a run directory to certify, or a certificate with --verify, or make a key with --new-key")
    if config.new_key is not None:
        check_cryptography()
        public = new_key(config.new_key)
        say(f"private key: {config.new_key} (keep it to yourself)\n{public}fingerprint: {fingerprint(public)}")
    if config.run is not None:
        write(config, config.run, config.key or config.new_key)
    return 0


def write(config: CertifyConfig, run_dir: Path, key: Path | None) -> None:
    from clear_dist.report.certificate import certificate_page

    if key is not None:
        check_cryptography()
    document = certificate_of(run_dir)
    found = envelope(document, None if key is None else sign(document, key))
    out = config.out or run_dir
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: is a file; name a directory")
    out.mkdir(parents=True, exist_ok=True)
    for name, text in ((FILE, json.dumps(found, indent=1) + "\n"), (PAGE, certificate_page(found))):
        part = out / f".{name}.part"
        part.write_text(text, encoding="utf-8")
        os.replace(part, out / name)
    signed = found["signature"]
    say(
        f"{out / FILE}: {'signed, ' + signed['fingerprint'] if signed else 'unsigned, checksums only (--key signs it)'}"
    )
    say(f"to read: {out / PAGE}")


def verify(config: CertifyConfig) -> int:
    """Digest, signature, and the run's files where they are at hand."""
    assert config.verify is not None
    found = read_envelope(config.verify)
    document = found["certificate"]
    problems = _broken(found, config)
    folder = config.run or (config.verify.parent if (config.verify.parent / "run.json").is_file() else None)
    if folder is not None:
        problems += differences(document, folder)
    for problem in problems:
        console.print(f"  ✕ {printable(problem)}", markup=False, soft_wrap=True)
    signature = found["signature"]
    if signature is None:
        say("unsigned: the checksums show damage, not who vouches for it")
    elif config.public_key is None and not problems:
        say(f"signed with the key it carries, {signature.get('fingerprint')}: is it one you know? (--public-key)")
    if folder is None:
        say("the run's files were not looked at: name its directory to check them too")
    for name, there in people_among(document, config.names).items():
        say(f"{name}: {'was to be forgotten' if there else 'is not among those to be forgotten'}")
    console.print(f"{config.verify}: {'does not hold' if problems else 'holds'}", markup=False, soft_wrap=True)
    return DOES_NOT_HOLD if problems else 0


def _broken(found: dict[str, Any], config: CertifyConfig) -> list[str]:
    """What of the document itself does not hold."""
    import hashlib

    document, signature = found["certificate"], found["signature"]
    out = []
    try:
        digest = hashlib.sha256(canonical(document)).hexdigest()
    except ValueError:
        return ["certificate: holds a number that is none"]
    if digest != found["sha256"]:
        out.append("certificate: its content is not what sha256 says")
    if signature is None:
        return [*out, "signature: there is none, though a public key was given"] if config.public_key else out
    check_cryptography()
    carried = str(signature.get("public_key", ""))
    if not _holds(document, signature, carried, f"{config.verify}: `signature.public_key`"):
        out.append("signature: is not that of the document")
    if signature.get("fingerprint") != fingerprint(carried):
        out.append("signature: the fingerprint is another key's")
    if config.public_key is not None:
        try:
            trusted = config.public_key.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--public-key {config.public_key}: cannot be read ({error})") from None
        if not _holds(document, signature, trusted, f"--public-key {config.public_key}"):
            out.append(f"signature: was not made with the key of {config.public_key}")
    return out


def _holds(document: dict[str, Any], signature: dict[str, Any], public: str, where: str) -> bool:
    try:
        return is_signed_by(document, signature, public)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
