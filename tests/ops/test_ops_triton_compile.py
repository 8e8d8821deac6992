"""Every Triton kernel compiles for the devices it is meant for, at every configuration it may run at, without spills.

No GPU is needed. ``pytest -s`` prints registers and shared memory.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from triton_ahead import TARGETS, cases, compiled, is_called, jitted

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="TRITON_INTERPRET=1: kernels are interpreted, none is compiled"
)
FUNCTIONS = jitted()
KERNELS = sorted(name for name in FUNCTIONS if name.endswith("_kernel"))


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile, whatever was compiled before."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def check(kernel: str, target: str, thorough: bool) -> None:
    for name, case in cases(kernel, thorough).items():
        usage = compiled(FUNCTIONS[kernel], case, TARGETS[target])
        print(f"{target:7} {kernel:22} {name:45} {usage}")
        assert usage.spilled == 0, f"{name}: {usage}"
        assert usage.shared <= 48 * 1024, f"{name}: {usage}"
        if target.startswith("sm"):  # or it cannot be launched
            assert usage.registers * case.warps * 32 <= 65536, f"{name}: {usage}"


def test_every_kernel_has_a_case() -> None:
    """A function that is jitted is a kernel, by its name, with cases here, or is called by another."""
    assert {"one_stats_kernel", "pair_stats_kernel", "one_grad_kernel", "pair_grad_kernel"} <= set(KERNELS)
    assert [name for name in KERNELS if not cases(name, False) or not cases(name, True)] == []
    assert [name for name in FUNCTIONS if name not in KERNELS and not is_called(name, FUNCTIONS)] == []


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_compiles_without_spills(kernel: str, target: str) -> None:
    check(kernel, target, thorough=False)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_compiles_in_every_variant(kernel: str, target: str) -> None:
    check(kernel, target, thorough=True)
