"""Dependencies: nothing below a version without known faults, nothing unpinned, and an audit that sees a fault."""

from __future__ import annotations

import http.server
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

OURS = {"clear-dist", "pip", "setuptools", "wheel"}


@pytest.fixture(scope="module")
def pins(root: Path) -> dict[str, Version]:
    lines = re.findall(r"^([\w.-]+)==(\S+)$", (root / "constraints.txt").read_text(), flags=re.MULTILINE)
    return {canonicalize_name(name): Version(version) for name, version in lines}


@pytest.fixture(scope="module")
def requirements(root: Path) -> list[Requirement]:
    project = tomllib.loads((root / "pyproject.toml").read_text())
    optional = project["project"]["optional-dependencies"].values()
    lists = [project["build-system"]["requires"], project["project"]["dependencies"], *optional]
    return [Requirement(line) for lines in lists for line in lines]


def floor(requirement: Requirement) -> Version:
    (lowest,) = [Version(s.version) for s in requirement.specifier if s.operator in (">=", "==")]
    return lowest


def test_no_pin_and_no_range_reaches_a_version_with_a_known_fault(
    root: Path, pins: dict[str, Version], requirements: list[Requirement]
) -> None:
    known = tomllib.loads((root / "tests" / "advisories.toml").read_text())
    assert len(known["advisory"]) >= 15
    for advisory in known["advisory"]:
        name, fixed = canonicalize_name(advisory["package"]), Version(advisory["fixed"])
        assert name in pins, advisory
        assert pins[name] >= fixed, advisory
        for requirement in requirements:
            if canonicalize_name(requirement.name) == name:
                assert floor(requirement) >= fixed, (str(requirement), advisory)
    assert all(accepted["id"] and accepted["why"] for accepted in known.get("accepted", []))


def test_all_that_is_installed_is_pinned(pins: dict[str, Version]) -> None:
    """What an installation brings along is what was tested: the closure, not only what is named."""
    for distribution in importlib.metadata.distributions(path=[p for p in sys.path if p.endswith("site-packages")]):
        name = canonicalize_name(distribution.metadata["Name"])
        if name not in OURS:
            assert name in pins, f"{name} {distribution.version} is in no line of constraints.txt"
            assert Version(distribution.version).public == pins[name].public, name


class Database(http.server.BaseHTTPRequestHandler):
    """OSV's query, for one package with one fault."""

    fault: ClassVar[dict[str, Any]] = {}

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        found = [self.fault] if asked["package"]["name"] == self.fault.get("package") else []
        body = json.dumps({"vulns": found} if found else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def database() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Database) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1/query"
        server.shutdown()


def audit(root: Path, url: str, **more: str) -> tuple[int, str]:
    environment = {**os.environ, "OSV_URL": url, "NO_PROXY": "127.0.0.1", **more}
    command = [sys.executable, str(root / ".ci" / "audit")]
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_the_audit_names_a_fault_and_where_it_is_mended(
    root: Path, database: str, pins: dict[str, Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    status, said = audit(root, database)
    assert (status, said) == (0, f"audit: {len(pins)} pinned packages, no known fault\n")
    ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.0"}]}]
    affected = [{"package": {"name": "pillow", "ecosystem": "PyPI"}, "ranges": ranges}]
    fault = {"id": "PYSEC-0000-1", "aliases": ["CVE-0000-1"], "details": "planted", "modified": "2026-01-01T00:00:00Z"}
    monkeypatch.setattr(Database, "fault", {**fault, "package": "pillow", "affected": affected})
    status, said = audit(root, database)
    assert status == 1 and f"pillow {pins['pillow']}: PYSEC-0000-1, CVE-0000-1; mended in 99.0" in said


def test_an_audit_that_cannot_ask_says_so(root: Path, free_port: int) -> None:
    away = f"http://127.0.0.1:{free_port}/v1/query"
    status, said = audit(root, away)
    assert status == 0 and "OSV could not be asked" in said
    assert audit(root, away, AUDIT="strict")[0] == 1
