"""Fixtures and habits every test shares: one thread, no network, no progress bars, data only where it is."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"

import pytest

if TYPE_CHECKING:
    from clear_dist.engine.world import World

ROOT = Path(__file__).resolve().parents[1]
KILLED = "killed"
LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "LOCAL_SIZE")


def shared_data() -> Path | None:
    """Folder of larger data sets: ``CLEAR_DIST_DATA``, or ``shared/data`` beside the repository."""
    named = os.environ.get("CLEAR_DIST_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def data_dir() -> Callable[[str], Path]:
    """``data_dir("tofu")``: a folder of the larger data sets; skips the test where it is absent."""

    def find(name: str) -> Path:
        folder = shared_data()
        if folder is None or not (folder / name).is_dir():
            pytest.skip(f"needs the data set {name}: set CLEAR_DIST_DATA to a folder that holds it")
        return folder / name

    return find


@pytest.fixture
def world() -> Iterator[World]:
    """A process group of one; what it puts into the environment goes again, or later subprocesses would inherit it."""
    from clear_dist.engine.world import close_world, init_world  # DeepSpeed: only where a test asks for it

    before = dict(os.environ)
    try:
        yield init_world()
    finally:
        close_world()
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(autouse=True)
def no_launchers_word() -> Iterator[None]:
    """A test that leaves RANK behind would make the next one in its process a rank of a launcher."""
    before = {name: os.environ.get(name) for name in LAUNCHED}
    yield
    after = {name: os.environ.get(name) for name in LAUNCHED}
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    assert after == before, "a process group was left open, or its environment"


@pytest.fixture
def count_kills(request: pytest.FixtureRequest) -> Callable[[str, int], None]:
    """``count_kills("ranks", 10)``: the sum over a test run stands below its results."""

    def count(what: str, number: int) -> None:
        request.node.user_properties.append((KILLED, (what, number)))

    return count


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Of tests that passed: each has compared all results with undisturbed ones, bit for bit."""
    killed: Counter[str] = Counter()
    passed = {report.nodeid for report in terminalreporter.stats.get("passed", [])}
    for report in terminalreporter.stats.get("", []):  # of what a test leaves behind, the last report knows all
        if getattr(report, "when", None) == "teardown" and report.nodeid in passed:
            for name, value in report.user_properties:
                if name == KILLED:
                    killed[value[0]] += value[1]
    if killed:
        each = ", ".join(f"{number} {what}" for what, number in sorted(killed.items()))
        terminalreporter.write_line(
            f"{sum(killed.values())} processes ended by SIGKILL ({each}): every run and farm that went on equals an "
            "undisturbed one bit for bit, nothing lost, nothing done twice"
        )


@pytest.fixture
def free_port() -> int:
    """A port nobody listens on: each distributed test gets its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
