"""Faults: one model and one cache for all tests, those of the distributed ones."""

from __future__ import annotations

from distributed.conftest import cache as cache  # noqa: PLC0414 (re-exported: a fixture)
from distributed.conftest import model as model  # noqa: PLC0414
