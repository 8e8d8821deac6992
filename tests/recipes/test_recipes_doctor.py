"""``clear-dist doctor``: what is broken is found by running it, and decides the exit status."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from clear_dist import cli
from clear_dist.ops import token_stats
from clear_dist.recipes import doctor, doctor_device
from clear_dist.services import checks
from clear_dist.services.checks import Check


def run(capfd: pytest.CaptureFixture[str], *args: str) -> tuple[int, str]:
    status = cli.main(["doctor", *args])
    return status, capfd.readouterr().out


def test_a_machine_that_runs_the_tests_is_fit(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, out = run(capfd, "--json", "--no-ranks", "--out", str(tmp_path / "runs"))
    found = {c["name"]: c for c in json.loads(out)["checks"]}
    broken = {name: c["found"] for name, c in found.items() if c["state"] == "broken"}
    assert status == 0 and not broken
    assert {"Python", "package deepspeed", "torch", "memory", "disk for runs", "host name"} <= found.keys()
    assert str(tmp_path / "runs") in found["disk for runs"]["found"]
    status, out = run(capfd, "--no-ranks", "--out", str(tmp_path / "runs"))
    assert status == 0 and "0 broken" in out and "disk for runs" in out


def test_what_is_broken_is_said_with_advice(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(checks, "limits", lambda: Check("limits", "warning", "256 open files", "ulimit -n 4096"))

    def failing() -> Check:
        raise OSError("libcudart.so: cannot open shared object file")

    monkeypatch.setattr(doctor_device, "torch_itself", failing)
    status, out = run(capfd, "--no-ranks", "--out", str(tmp_path / "file"))
    assert status == doctor.BROKEN and "2 broken" in out and "libcudart.so" in out
    lines = out.splitlines()
    advice = [next(i for i, line in enumerate(lines) if line.startswith(f"{n}: ")) for n in ("disk for runs", "limits")]
    assert advice == sorted(advice), "the broken first"


def test_a_kernel_that_computes_something_else_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(c.state in ("ok", "warning") for c in doctor_device.kernels())

    def wrong(*args: Any, impl: str, **more: Any) -> dict[str, torch.Tensor]:
        found = token_stats(*args, impl="reference", **more)
        return found if impl == "reference" else {name: x + 0.01 for name, x in found.items()}

    monkeypatch.setattr(doctor_device, "token_stats", wrong)
    monkeypatch.setattr(doctor_device, "available", lambda device: {"reference": None, "native": None})
    (found,) = doctor_device.kernels()
    assert found.state == "broken" and "CLEAR_DIST_OPS_IMPL=reference" in found.advice
    monkeypatch.setattr(doctor_device, "available", lambda device: {"native": "no compiler"})
    (found,) = doctor_device.kernels()
    assert found.state == "warning" and "no compiler" in found.found


@pytest.mark.distributed
def test_ranks_really_step_together() -> None:
    found = doctor_device.ranks(2)
    assert found.state == "ok", found
    assert "2 ranks" in found.name and "agree" in found.found


@pytest.mark.distributed
def test_ranks_that_fail_or_hang_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "no_such_interface")
    found = doctor_device.ranks(2)
    assert found.state == "broken" and found.advice
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    found = doctor_device.ranks(2, seconds=0.2)
    assert found.state == "broken" and "no answer within 0.2 s" in found.found
