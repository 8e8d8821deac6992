"""What ``doctor`` says of a machine: each fault is really there when it is looked for."""

from __future__ import annotations

import importlib.metadata
import os
import resource
import socket
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from clear_dist.services import checks
from clear_dist.services.checks import Check


def test_a_look_that_fails_is_a_finding() -> None:
    def look() -> Check:
        raise RuntimeError("driver too old")

    (found,) = checks.guarded("GPU", look)
    assert (found.name, found.state, found.found) == ("GPU", "broken", "RuntimeError: driver too old")


def test_python_says_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.python().state == "ok" and sys.executable in checks.python().found
    monkeypatch.setattr(sys, "base_prefix", sys.prefix)
    assert checks.python().state == "warning" and "make setup" in checks.python().advice
    monkeypatch.setattr(checks, "NEEDS_PYTHON", (9, 0))
    assert checks.python().state == "broken"


def test_packages_in_range_and_out_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {c.name: c for c in checks.packages()}
    assert found["package torch"].state == "ok" and found["package torch"].found[0] == "2"
    assert found["package ray"].state in ("ok", "missing"), "an extra that users install"
    assert "package pytest" not in found, "not for users"
    needs = ["torch>=99", "no-such-thing>=1", "numpy>=2", 'nor-this>=1; extra == "farm"', 'pytest>=9; extra == "dev"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: needs)
    found = {c.name: c for c in checks.packages()}
    assert list(found) == ["package no-such-thing", "package numpy", "package torch", "package nor-this"]
    assert found["package torch"].state == "broken" and "tested with >=99" in found["package torch"].found
    assert found["package no-such-thing"].state == "broken"
    assert "pip install 'no-such-thing>=1'" in found["package no-such-thing"].advice
    assert found["package nor-this"].state == "missing" and "clear-dist[farm]" in found["package nor-this"].advice


def test_a_compiler_is_asked_for_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "c++"
    fake.write_text("#!/bin/sh\necho 'Some compiler'\necho 'c++ 99.1'\n")
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    found = {c.name: c for c in checks.compilers()}
    assert (found["compiler c++"].state, found["compiler c++"].found) == ("ok", "c++ 99.1")
    assert found["compiler nvcc"].state == "missing" and "CUDA kernels" in found["compiler nvcc"].advice


def test_a_disk_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "DISK", 0)
    good = checks.disk(tmp_path / "new" / "runs", "runs")
    assert good.state == "ok" and good.name == "disk for runs" and list((tmp_path / "new" / "runs").iterdir()) == []
    (tmp_path / "file").write_text("")
    assert checks.disk(tmp_path / "file", "runs").state == "broken"
    monkeypatch.setattr(checks, "DISK", 1 << 80)
    assert checks.disk(tmp_path, "runs").state == "warning"

    def refused(a: Any, b: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "replace", refused)
    bad = checks.disk(tmp_path, "runs")
    assert bad.state == "broken" and "Operation not supported" in bad.found and "renamed in" in bad.advice


def test_shared_memory_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.shared_memory(tmp_path / "none").state == "warning"
    monkeypatch.setattr(checks, "SHARED", 1 << 80)
    small = checks.shared_memory(tmp_path)
    assert small.state == "warning" and "--shm-size" in small.advice
    monkeypatch.setattr(checks, "SHARED", 0)
    assert checks.shared_memory(tmp_path).state == "ok"


def test_limits_names_and_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda what: (256, 4096))
    assert checks.limits().state == "warning" and checks.limits().advice == "ulimit -n 4096"
    monkeypatch.setattr(socket, "gethostname", lambda: "no-such-host.invalid")
    found = checks.host_name()
    assert found.state == "warning" and "/etc/hosts" in found.advice
    for name in checks.TELLING:
        monkeypatch.delenv(name, raising=False)
    assert checks.environment() == Check("environment", "ok", "nothing set that changes a run")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert checks.environment() == Check("environment", "ok", "OMP_NUM_THREADS=3")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert checks.environment().state == "warning"
