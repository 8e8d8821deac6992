"""Figures take most of a report's time: where a test does not look at them, they are not painted."""

from __future__ import annotations

import pytest

PNG = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x06\x00\x00\x00\x1f\x15\xc4\x89"
    b"\x00\x00\x00\rIDATx\x9cc\xf8\xff\xff?\x00\x05\xfe\x02\xfe\xdc\xcc\x59\xe7\x00\x00\x00\x00IEND\xaeB`\x82"
)


@pytest.fixture
def unpainted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are composed, but their files are one dot."""
    from clear_dist.report import draw

    monkeypatch.setattr(draw, "encode", lambda figure, kind, color: PNG if kind == "png" else b"<?xml")
    monkeypatch.setattr(draw, "_settle", lambda figure: None)
    monkeypatch.setattr(draw, "_settle_as", lambda figure, other: None)
