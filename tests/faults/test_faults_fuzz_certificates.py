"""Certificates and keys that somebody else wrote: what holds is what was signed, and everything else is said."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from clear_dist.config import CertifyConfig
from clear_dist.errors import UserError
from clear_dist.recipes.certify import verify
from clear_dist.services.certificate import KIND, envelope
from clear_dist.services.signing import canonical, is_signed_by, new_key, sign
from tests.faults.fuzz import counted
from tests.faults.fuzz_inputs import altered, files

COUNTS = [pytest.param(500, id="fast"), pytest.param(10_000, marks=pytest.mark.slow, id="10000")]
DOCUMENT: dict[str, Any] = {
    "v": 1,
    "kind": KIND,
    "salt": "ab" * 16,
    "forgotten": {"people": ["c" * 64], "kept_people": 3},
    "files": {"run.json": {"sha256": hashlib.sha256(b"{}").hexdigest(), "bytes": 2}},
    "measured": {"unlearned": {"value": 0.125}},
    "limits": ["a limit"],
}


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """Private and public key of the signer."""
    pytest.importorskip("cryptography")
    private, public = tmp_path / "me.pem", tmp_path / "public.pem"
    public.write_text(new_key(private))
    return private, public


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """The folder that the certificate is of."""
    out = tmp_path / "run"
    out.mkdir()
    (out / "run.json").write_bytes(b"{}")
    return out


def _rehashed(value: Any) -> bytes:
    """An envelope with the checksum somebody wrote anew."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        value["sha256"] = hashlib.sha256(canonical(value["certificate"])).hexdigest()
    return json.dumps(value).encode()


@pytest.mark.parametrize("count", COUNTS)
def test_only_what_was_signed_holds(tmp_path: Path, run_dir: Path, keys: tuple[Path, Path], count: int) -> None:
    private, public = keys
    signed = envelope(DOCUMENT, sign(DOCUMENT, private))
    stranger = tmp_path / "stranger.pem"
    new_key(stranger)
    other = envelope(DOCUMENT, sign(DOCUMENT, stranger))
    good = json.dumps(signed).encode()
    doubled = good.replace(b'{"certificate"', b'{"certificate": {"limits": []}, "certificate"', 1)
    hostile = st.one_of(
        files([good], [signed]),
        altered([signed, signed, other], most=2).map(_rehashed),
        st.sampled_from([good, good, doubled, b"[" * 40_000, json.dumps(other).encode()]),
    )
    file = tmp_path / "certificate.json"
    config = CertifyConfig(verify=file, run=run_dir, public_key=public, names=("Ada [/b]",))

    def certificate(data: bytes) -> None:
        file.write_bytes(data)
        if verify(config) != 0:
            raise UserError(f"{file}: does not hold")
        assert data.count(b'"certificate"') == 1, "which of two documents was signed?"
        assert canonical(json.loads(data)["certificate"]) == canonical(DOCUMENT)

    counted(count, hostile, certificate, names=[str(file)], accepted_at_least=count // 50, rejected_at_least=count // 2)


@pytest.mark.parametrize("count", COUNTS)
def test_an_unsigned_certificate_of_any_content_is_checked_or_refused(
    tmp_path: Path, run_dir: Path, count: int
) -> None:
    plain = envelope(DOCUMENT, None)
    file = tmp_path / "certificate.json"
    config = CertifyConfig(verify=file, run=run_dir, names=("Ada",))
    hostile = st.one_of(files([json.dumps(plain).encode()], [plain]), altered([plain], most=3).map(_rehashed))

    def unsigned(data: bytes) -> None:
        file.write_bytes(data)
        if verify(config) != 0:
            raise UserError(f"{file}: does not hold")

    counted(count, hostile, unsigned, names=[str(file)], accepted_at_least=count // 50, rejected_at_least=count // 3)


def _other_keys() -> dict[str, bytes]:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    plain = NoEncryption()
    made = ed25519.Ed25519PrivateKey.generate()
    good = made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, plain)
    others = {"ec": ec.generate_private_key(ec.SECP256R1()), "x25519": x25519.X25519PrivateKey.generate()}
    others["rsa"] = rsa.generate_private_key(65537, 2048)
    out = {name: key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, plain) for name, key in others.items()}
    locked = made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word"))
    return out | {"encrypted": locked, "cut": good[: len(good) // 2], "empty": b"", "noise": b"\xff\x00" * 20}


def test_a_key_of_another_kind_neither_signs_nor_vouches(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    signature = sign(DOCUMENT, keys[0])
    for name, data in _other_keys().items():
        file = tmp_path / f"{name}.pem"
        file.write_bytes(data)
        with pytest.raises(UserError, match=f"{name}.pem"):
            sign(DOCUMENT, file)
        with pytest.raises(UserError):
            is_signed_by(DOCUMENT, signature, data.decode("latin-1"))
    with pytest.raises(UserError, match="cannot be read"):
        sign(DOCUMENT, tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"salt": None}, "salt"),
        ({"salt": "zz"}, "salt"),
        ({"forgotten": []}, "forgotten"),
        ({"forgotten": {"people": [[]]}}, "forgotten"),
        ({"forgotten": {"people": 3}}, "forgotten"),
        ({"limits": ["\ud800"], "salt": ""}, "no file can hold"),
        ({"files": {"x" * 5_000: {}}}, "missing"),
        ({"files": {"a\x1b[2Jb": {}}}, "missing"),
    ],
)
def test_a_field_of_another_kind_is_named(
    tmp_path: Path, run_dir: Path, capfd: pytest.CaptureFixture[str], changes: dict[str, Any], words: str
) -> None:
    file = tmp_path / "certificate.json"
    file.write_text(json.dumps(envelope(DOCUMENT | changes, None)))
    try:
        said, status = "", verify(CertifyConfig(verify=file, run=run_dir, names=("Ada",)))
    except UserError as error:
        said, status = str(error), 1
    said += capfd.readouterr().err
    assert status == 1 and words in said and "\x1b" not in said


def test_a_certificate_without_the_field_signature_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "certificate.json"
    found = envelope(DOCUMENT, None)
    del found["signature"]
    file.write_text(json.dumps(found))
    with pytest.raises(UserError, match="signature is missing"):
        verify(CertifyConfig(verify=file))
