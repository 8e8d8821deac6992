"""Run directories: claimed once, continued by their own configuration only, refused with the reason otherwise."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from clear_dist.config import FinetuneConfig, UnlearnConfig
from clear_dist.services.rundir import (
    LOCK_FILE,
    RUN_FILE,
    claim_output,
    copy_progress,
    holder_of,
    read_run,
    resume_source,
    write_run,
)
from clear_dist.types import UserError

CONFIG = UnlearnConfig()


def begun(out: Path, config: UnlearnConfig = CONFIG) -> Path:
    claim = claim_output(out, config)
    write_run(out, config, seeds={"data": 1})
    claim.release()
    return out


def refused(out: Path, config: UnlearnConfig | FinetuneConfig = CONFIG, resume: str = "auto") -> str:
    with pytest.raises(UserError) as caught:
        claim_output(out, config, resume)
    return str(caught.value)


def test_new_then_resume(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    claim = claim_output(out, CONFIG)
    assert (claim.state, claim.out) == ("new", out)
    write_run(out, CONFIG)
    claim.release()
    assert not (out / LOCK_FILE).exists()
    assert claim_output(out, CONFIG).state == "resume"


def test_an_empty_directory_and_one_with_a_stale_lock_are_new(tmp_path: Path) -> None:
    assert claim_output(tmp_path, CONFIG).state == "new"
    (tmp_path / "left").mkdir()
    (tmp_path / "left" / LOCK_FILE).write_text("process 1 on nowhere")
    assert claim_output(tmp_path / "left", CONFIG).state == "new"


def test_what_does_not_change_numbers_does_not_matter(tmp_path: Path) -> None:
    begun(tmp_path / "run")
    assert claim_output(tmp_path / "run", UnlearnConfig(tracker="tensorboard", out=tmp_path)).state == "resume"


def test_refusals_say_why(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    assert "lr: 0.001 there, 0.5 now" in refused(run, UnlearnConfig(lr=0.5))
    assert "made by unlearn, not finetune" in refused(run, FinetuneConfig())
    assert "--resume is never" in refused(run, resume="never")
    (tmp_path / "file").write_text("")
    assert "is a file" in refused(tmp_path / "file")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    message = refused(tmp_path / "mine")
    assert "not empty (thesis.tex)" in message and "name an empty or new directory" in message
    (tmp_path / "mine" / RUN_FILE).write_text("{")
    assert "no run of clear_dist" in refused(tmp_path / "mine")


def test_a_changed_ds_file_is_another_run(tmp_path: Path) -> None:
    ds = tmp_path / "z.json"
    ds.write_text("{}")
    run = begun(tmp_path / "run", UnlearnConfig(ds=ds))
    ds.write_text('{"gradient_clipping": 0.0}')
    assert "the --ds file has changed" in refused(run, UnlearnConfig(ds=ds))


def test_two_writers_are_one_too_many(tmp_path: Path) -> None:
    claim = claim_output(tmp_path / "run", CONFIG)
    assert re.search(r"in use by process \d+ on ", refused(tmp_path / "run"))
    claim.release()
    assert claim_output(tmp_path / "run", CONFIG).state == "new"


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused(tmp_path / "file" / "run")


def test_run_json_is_the_whole_story(tmp_path: Path) -> None:
    written = write_run(tmp_path, CONFIG, seeds={"data": 1})
    assert read_run(tmp_path) == json.loads((tmp_path / RUN_FILE).read_text()) == json.loads(json.dumps(written))
    assert written["digest"] == CONFIG.digest() and written["seeds"] == {"data": 1}
    assert UnlearnConfig.model_validate(written["config"]) == CONFIG
    assert written["versions"]["torch"] and written["versions"]["python"]
    assert [p.name for p in tmp_path.iterdir()] == [RUN_FILE]


def test_progress_of_another_directory_is_taken_over(tmp_path: Path) -> None:
    old = begun(tmp_path / "old")
    step = old / "checkpoints" / "step_00000003"
    step.mkdir(parents=True)
    (step / "state").write_text("x")
    (old / "metrics.jsonl").write_text('{"step": 3}\n')
    for named in (old, old / "checkpoints", step):
        assert resume_source(named, CONFIG) == old
    new = tmp_path / "new"
    new.mkdir()
    copy_progress(old, new)
    assert (new / "checkpoints" / "step_00000003" / "state").read_text() == "x"
    assert (new / "metrics.jsonl").read_text() == (old / "metrics.jsonl").read_text()


def test_who_holds_a_directory(tmp_path: Path) -> None:
    assert holder_of(tmp_path / "none") is None
    claim = claim_output(tmp_path / "out", CONFIG)
    assert (holder_of(tmp_path / "out") or "").startswith("process ")
    claim.release()
    assert holder_of(tmp_path / "out") is None
