"""``clear-dist certify``: what was done, on paper, signed if there is a key; and whether such a paper holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import field_validator, model_validator

from .base import Config, opt


class CertifyConfig(Config):
    """Write an unlearning certificate of a finished run, or check one. Exit status 1 where a certificate does not
    hold."""

    recipe: ClassVar[str] = "certify"
    run: Annotated[Path | None, "positional"] = opt(None, "run", "run directory of an unlearning run", "RUN")
    key: Path | None = opt(None, "run", "Ed25519 private key (PEM) to sign with (default: checksums only)", "FILE")
    new_key: Path | None = opt(None, "run", "make such a key, and sign with it where a run is named", "FILE")
    verify: Path | None = opt(None, "check", "certificate.json to check instead of writing one", "FILE")
    public_key: Path | None = opt(None, "check", "the signer's public key (PEM), known from elsewhere", "FILE")
    names: tuple[str, ...] = opt((), "check", "people to look for among the forgotten", '"NAME;NAME"')
    out: Path | None = opt(
        None, "output", "where certificate.json and certificate.html go (default: the run directory)", "DIR"
    )

    @field_validator("names", mode="before")
    @classmethod
    def _split_names(cls, value: object) -> object:
        return tuple(n.strip() for n in value.split(";") if n.strip()) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_task(self) -> CertifyConfig:
        if self.verify is not None and (self.key is not None or self.new_key is not None):
            raise ValueError("`verify` checks a certificate and signs nothing: leave `key` and `new_key` out")
        if self.key is not None and self.new_key is not None:
            raise ValueError("`key` and `new_key` both say what to sign with: give one of them")
        if self.verify is None and (self.public_key is not None or self.names):
            raise ValueError("`public_key` and `names` belong to `verify`")
        return self
