"""Ranks of a launcher, and Slurm's one job: both are workers of the same farm."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from farm_fakes import executed, make_fake, plan, plant
from test_farm_folder import results

from clear_dist.errors import UserError
from clear_dist.shadow import ranks as module
from clear_dist.shadow.folder import opened
from clear_dist.shadow.ranks import Ranks, launch_mark, ranks, run_ranks
from clear_dist.shadow.slurm import NodeJob, run_slurm
from clear_dist.shadow.status import Status, read_status
from clear_dist.shadow.worker import work

ROOT = str(Path(__file__).resolve().parents[2])
RUN = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from farm_fakes import plan, plant
from clear_dist.errors import UserError
from clear_dist.shadow.ranks import ranks, run_ranks
farm, me = Path(sys.argv[1]), ranks()
def prepare():
    if sys.argv[2] == "bad":
        raise UserError("no pictures")
    plant(farm, plan(wait=0.1))
try:
    print(run_ranks(farm, me, prepare).finished)
except UserError as error:
    sys.exit(str(error))
"""


def launch(farm: Path, what: str) -> list[tuple[int, str, str]]:
    """Two ranks as a launcher starts them: exit code, output, errors of each."""
    common = {**os.environ, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "PYTHONPATH": ROOT}
    crew = [
        subprocess.Popen(
            [sys.executable, "-c", RUN, str(farm), what],
            env={**common, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("1", "0")
    ]
    return [(p.wait(120), *p.communicate(timeout=120)) for p in crew]


def test_two_ranks_share_a_farm(tmp_path: Path) -> None:
    farm, other = tmp_path / "farm", tmp_path / "other"
    farm.mkdir()
    (farm / "farm.ranks").write_text(json.dumps({"launch": "1-2", "error": "of an earlier launch"}))
    ended = launch(farm, "good")
    assert [(code, out) for code, out, _ in ended] == [(0, "True\n"), (0, "True\n")], ended
    assert sorted(executed(tmp_path / "farm.log")) == sorted(task.name for task in plan())
    plant(other, plan(wait=0.1))
    with opened(other):
        work(other, "w", runner=make_fake(str(tmp_path / "log")))
    assert results(farm) == results(other)


@pytest.mark.slow
def test_no_rank_waits_for_a_farm_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "farm").mkdir()
    ended = launch(tmp_path / "farm", "bad")
    assert [code for code, _, _ in ended] == [1, 1]
    assert "rank 0 could not open the farm: no pictures" in ended[0][2] and "no pictures" in ended[1][2]


def test_a_rank_knows_itself() -> None:
    assert ranks({}) is None
    one_host = {"RANK": "3", "LOCAL_RANK": "3", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4"}
    assert ranks(one_host) == Ranks(3, 3, 4)
    with pytest.raises(UserError, match=r"4 ranks on several hosts.*--executor ray"):
        ranks({**one_host, "LOCAL_WORLD_SIZE": "2"})
    del one_host["LOCAL_WORLD_SIZE"]
    assert ranks({**one_host, "LOCAL_SIZE": "4"}) == Ranks(3, 3, 4)
    with pytest.raises(UserError, match="several hosts"):
        ranks({**one_host, "LOCAL_SIZE": "2"})


def test_a_launch_is_known_by_its_launcher() -> None:
    script = (
        f"import sys; sys.path.insert(0, {ROOT!r}); from clear_dist.shadow.ranks import launch_mark as m; print(m())"
    )
    said = [subprocess.check_output([sys.executable, "-c", script], text=True).strip() for _ in range(2)]
    assert said[0] == said[1] and said[0].startswith(f"{os.getpid()}-")
    assert launch_mark() != said[0]


def test_rank_0_says_what_it_died_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare() -> None:
        raise MemoryError("too many pictures")

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(MemoryError):
        run_ranks(tmp_path, Ranks(0, 0, 2), prepare, mark="a")
    with pytest.raises(UserError, match="rank 0 could not open the farm: MemoryError: too many pictures"):
        run_ranks(tmp_path, Ranks(1, 1, 2), prepare, mark="a")
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    with pytest.raises(UserError, match="rank 0 did not open the farm"):
        run_ranks(tmp_path, Ranks(1, 1, 2), prepare, mark="b")
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
def test_slurms_job_is_a_farm_of_this_machine(tmp_path: Path) -> None:
    """submitit's local executor: a process that does what a node would."""
    pytest.importorskip("submitit")
    farm = tmp_path / "farm"
    log = plant(farm, plan(1))
    seen: list[Status] = []
    assert run_slurm(farm, 1, seen.append, cluster="local", look=0.2).finished
    assert len(executed(log)) == 3 and seen[-1].finished


@pytest.mark.slow
def test_slurm_says_what_went_wrong(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    plant(tmp_path, plan(1), "no_runner")
    with pytest.raises(UserError, match=r"(?s)job .* of the farm failed; see .*logs.*no pictures beside"):
        run_slurm(tmp_path, 1, cluster="local", look=0.2)
    assert read_status(tmp_path).done == 0


def test_slurms_job_goes_back_into_the_queue() -> None:
    pytest.importorskip("submitit")
    job = NodeJob("farm", 2, None)
    assert job.checkpoint().function is job
