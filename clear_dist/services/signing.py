"""Ed25519 signatures (RFC 8032) of JSON documents, by the package cryptography; keys are PEM files, as OpenSSL's."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clear_dist.errors import UserError

ALGORITHM = "Ed25519"


def canonical(document: Mapping[str, Any]) -> bytes:
    """The bytes that are digested and signed: JSON with sorted keys, no spaces, ASCII only, no NaN."""
    return json.dumps(
        document, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    ).encode("ascii")  # fmt: skip


def new_key(file: Path) -> str:
    """Write a new private key, readable by its owner only; its public key, PEM. Raises UserError if the file exists."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = Ed25519PrivateKey.generate()
    data = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        out = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise UserError(f"--new-key {file}: exists; a key is never written over. Name another file") from None
    except OSError as error:
        raise UserError(f"--new-key {file}: cannot be written ({error.strerror})") from None
    with os.fdopen(out, "wb") as f:
        f.write(data)
    return public_pem(key.public_key())


def sign(document: Mapping[str, Any], key_file: Path) -> dict[str, str]:
    """{algorithm, public_key (PEM), fingerprint, value (base64)}. Raises UserError for a file without such a key."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    wanted = "expected an Ed25519 private key in PEM, without a password; `clear-dist certify --new-key FILE` makes one"
    try:
        key = load_pem_private_key(key_file.read_bytes(), password=None)
    except OSError as error:
        raise UserError(f"--key {key_file}: cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UserError(f"--key {key_file}: {wanted} ({error})") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise UserError(f"--key {key_file}: {wanted}")
    public = public_pem(key.public_key())
    value = base64.b64encode(key.sign(canonical(document))).decode()
    return {"algorithm": ALGORITHM, "public_key": public, "fingerprint": fingerprint(public), "value": value}


def is_signed_by(document: Mapping[str, Any], signature: Mapping[str, Any], public: str) -> bool:
    """Whether the signature is that of the document under the public key (PEM). Raises UserError for no such key."""
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(public.encode())
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise UserError("the public key is none: expected Ed25519 in PEM") from None
    if not isinstance(key, Ed25519PublicKey):
        raise UserError("the public key is of another kind: expected Ed25519")
    try:
        key.verify(base64.b64decode(str(signature.get("value", "")), validate=True), canonical(document))
    except (InvalidSignature, ValueError):
        return False
    return signature.get("algorithm") == ALGORITHM


def public_pem(key: Any) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def fingerprint(public: str) -> str:
    """SHA-256 of a public key's PEM text without line ends, in groups of four: what two people read to each other."""
    digest = hashlib.sha256("".join(public.split()).encode()).hexdigest()[:32]
    return " ".join(digest[i : i + 4] for i in range(0, 32, 4))


def check_cryptography() -> None:
    """Raises UserError where the package is not there."""
    if importlib.util.find_spec("cryptography") is None:
        raise UserError("keys need the package cryptography: pip install 'clear-dist[sign]'")
