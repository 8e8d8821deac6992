"""The package's names are there when asked for, and transformers is not there until one of them needs it."""

from __future__ import annotations

import subprocess
import sys

import pytest

import clear_dist.models


def test_every_name_is_there() -> None:
    assert sorted(clear_dist.models.__all__) == sorted(clear_dist.models._HOMES)
    for name in clear_dist.models.__all__:
        assert getattr(clear_dist.models, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        clear_dist.models.nothing  # noqa: B018


@pytest.mark.parametrize("module", ["clear_dist.shadow.run", "clear_dist.models.resnet_files", "clear_dist.cli"])
def test_a_farms_workers_load_no_transformers(module: str) -> None:
    code = f"import sys, {module}; sys.exit(' '.join({{'transformers', 'peft', 'deepspeed'}} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
