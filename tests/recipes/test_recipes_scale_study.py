"""The scale study: big models predicted in seconds, small ones measured on ranks here, gone on with, and failing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from report.page_reader import Page

from clear_dist import cli
from clear_dist.config.scale import Grid
from clear_dist.planner.hardware import gpu_of
from clear_dist.planner.memory import memory_of
from clear_dist.planner.speed import speed_of
from clear_dist.recipes import scale_study
from clear_dist.recipes.scale_grid import Study
from clear_dist.recipes.scale_points import Row, digest_of, point_of, reasons_not_to_measure, rows_of
from clear_dist.types import UserError

TINY: dict[str, Any] = {
    "models": ["tiny"], "gpu": "cpu", "gpus": [1, 2], "stages": ["z0"], "methods": ["gd", "npo"],
    "mixes": {"short": {"tokens": 24, "scored": 8, "pictures": 0.5}}, "global_batch": 2, "per_gpu_batch": 2,
    "steps": 2, "warmup": 1, "timeout": 300,
}  # fmt: skip
Run = Callable[..., dict[str, Any]]
RESULT = {"seconds": [0.5], "step_s": 0.5, "tokens": 100, "pictures": 2, "peak_bytes": 10**6, "peak_flops": 1e9}


@pytest.fixture
def study(tmp_path: Path) -> Run:
    """Runs the command on a grid; the content of scale_study.json."""

    def run(grid: dict[str, Any], name: str = "study", status: int = 0) -> dict[str, Any]:
        path = tmp_path / "grid.yaml"
        path.write_text(yaml.safe_dump(grid))
        assert cli.main(["scale-study", "--grid", str(path), "--out", str(tmp_path / name)]) == status
        return {} if status else json.loads((tmp_path / name / "scale_study.json").read_text())

    return run


def rows(grid: dict[str, Any], memory: int = 64 << 30) -> list[Row]:
    made = Grid.model_validate(grid)
    models = {str(m): str(m) for m in made.models}
    return rows_of(Study(made, models), gpu_of(made.gpu), memory)[0]


class Asked(list[tuple[str, int]]):
    """Stands for ranks: (stage, ranks) of every point that was to be measured; ``failing`` ones give a reason."""

    failing: tuple[str, ...] = ()

    def __call__(
        self, asked: Sequence[dict[str, Any]], ranks: int, timeout: float
    ) -> Iterator[tuple[dict[str, Any] | None, str | None]]:
        for point in asked:
            method = point["plan"]["method"]
            self.append((method, ranks))
            yield (None, "failed: on purpose") if method in self.failing else (RESULT, None)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    from clear_dist.report import draw

    found = Asked()
    monkeypatch.setattr(scale_study, "run_points", found)
    monkeypatch.setattr(draw, "encode", lambda figure, kind, color: b"")  # painting takes most of the time
    return found


# --------------------------------------------------------------------------------------------------- predicted


def test_big_shapes_are_predicted_without_a_gpu(study: Run, asked: Asked) -> None:
    found = study(
        {
            "models": ["llava-1.5-7b", "llava-next-34b"],
            "gpus": [8, 512],
            "stages": ["z0", "z3"],
            "methods": ["gd", "rmu"],
        }
    )
    assert not asked and len(found["rows"]) == 2 * 2 * 2 * 2 * 2
    assert all(row["measured"] is None and row["why"] for row in found["rows"])
    assert {row["scaling"] for row in found["rows"]} == {"strong", "weak"}
    for row in found["rows"]:
        speeds = [row["predicted"][name] for name in ("step_s", "tokens_per_s", "images_per_s", "mfu")]
        assert all(v is not None for v in speeds) if row["predicted"]["fits"] else speeds == [None] * 4
        assert row["predicted"]["peak_bytes"] > 0


def test_predictions_are_the_planners() -> None:
    (row,) = rows({"models": ["llava-1.5-7b"], "gpus": [8], "stages": ["z3"], "methods": ["gd"], "scaling": ["weak"]})
    plan, speed = row.predicted(), speed_of(row.job, gpu_of("h100-80g"))
    assert row.job.stage == 3 and row.job.gpus == 8 and plan["peak_bytes"] == memory_of(row.job).total
    assert plan["step_s"] == speed.step_s
    assert plan["mfu"] == pytest.approx(speed.mfu) and plan["tokens_per_s"] == pytest.approx(
        speed.tokens_per_s, rel=0.01
    )


def test_gpus_without_examples_add_no_speed() -> None:
    """Strong scaling of 4 forget and 4 retain examples: the planner gives each of 64 GPUs one, but there are 8."""
    few = rows({"models": ["llava-1.5-7b"], "gpus": [8, 64], "stages": ["z0"], "methods": ["gd"], "scaling": ["strong"],
                "global_batch": 4})  # fmt: skip
    small, large = (row.predicted() for row in few)
    assert few[1].job.share == pytest.approx(1 / 8, rel=0.01) and few[0].job.share == pytest.approx(1, rel=0.01)
    assert large["tokens_per_s"] <= small["tokens_per_s"] * 1.001
    assert large["mfu"] <= small["mfu"] / 7.9


def test_what_does_not_fit_says_by_how_much_and_has_no_speed() -> None:
    grid = {"models": ["qwen2.5-vl-72b"], "gpus": [8], "stages": ["z0"], "methods": ["gd"], "scaling": ["weak"]}
    (row,) = rows(grid)
    assert row.short > 0 and not row.predicted()["fits"] and row.predicted()["tokens_per_s"] is None
    reasons = list(reasons_not_to_measure(row, Grid.model_validate(grid), "h100-80g", 8, 0))
    assert len(reasons) == 1 and reasons[0].startswith("does not fit: short by ")


def test_ranks_share_the_memory_of_a_cpu() -> None:
    found = rows({**TINY, "scaling": ["weak"], "methods": ["gd"]}, memory=60 << 20)
    assert [row.gpu.memory for row in found] == [60 << 20, 30 << 20]


def test_points_that_cannot_be_are_left_out_and_said_so(study: Run, capfd: pytest.CaptureFixture[str]) -> None:
    found = study({"models": ["tiny"], "gpus": [8, 16], "stages": ["z3", "zpp"], "methods": ["gd"], "measure": "never"})
    assert [(row["gpus"], row["stage"]) for row in found["rows"] if row["scaling"] == "weak"] == [
        (8, "z3"), (16, "z3"), (16, "zpp"),
    ]  # fmt: skip
    assert len(found["left_out"]) == 1 and found["left_out"][0].startswith("zpp on 8 x h100-80g: ")
    assert "left out: zpp on 8 x h100-80g" in capfd.readouterr().err


def test_a_method_that_a_model_cannot_run_is_refused_in_the_grids_words(
    study: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    study({"models": ["tiny"], "methods": ["gd", "rmu"]}, status=cli.USER_ERROR)
    error = capsys.readouterr().err
    assert "methods: rmu on tiny: " in error and "set: {rmu: {layer: 1}}" in error and "--set" not in error
    study({"models": ["tiny"], "methods": ["npo"], "set": {"npo": {"betta": 1}}}, "b", status=cli.USER_ERROR)
    assert "methods: npo: " in (error := capsys.readouterr().err) and "did you mean 'beta'?" in error


# ------------------------------------------------------------------------------------- measured, by ranks that are not


def test_measured_figures_follow_from_seconds_and_the_peak_that_was_measured(study: Run, asked: Asked) -> None:
    found = study({**TINY, "scaling": ["weak"], "methods": ["gd"]})
    for row, one in zip(found["rows"], rows({**TINY, "scaling": ["weak"], "methods": ["gd"]}), strict=True):
        real, ranks = row["measured"], row["gpus"]
        assert row["why"] is None and one.key.items() <= row.items()
        assert (real["step_s"], real["tokens_per_s"], real["images_per_s"]) == (0.5, 200, 4)
        assert real["peak_bytes"] == 10**6
        # The planner's FLOPs are for its own tokens; what was measured read 100.
        planned = ranks * one.job.accumulation * one.job.tokens * one.job.share
        flops = one.speed.flops_needed * min(1, 100 / planned)
        assert real["mfu"] == pytest.approx(flops / (0.5 * ranks * 1e9), rel=1e-4)


def test_equal_steps_are_measured_once_and_done_ones_never_again(study: Run, asked: Asked) -> None:
    study(TINY)
    # Of each method: one rank (strong and weak are the same batch), two ranks strong, two ranks weak.
    assert sorted(asked) == [(m, n) for m in ("gd", "npo") for n in (1, 2, 2)]
    asked.clear()
    study(TINY)
    assert not asked, "nothing is measured twice"
    study({**TINY, "methods": ["gd", "npo", "kl"]})
    assert sorted(asked) == [("kl", 1), ("kl", 2), ("kl", 2)], "only what is new"
    asked.clear()
    study({**TINY, "seed": 1, "methods": ["gd"], "gpus": [1]})
    assert asked == [("gd", 1)], "another seed is another point"


def test_a_failing_point_is_recorded_and_tried_again(
    study: Run, asked: Asked, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    asked.failing = ("npo",)
    found = study(TINY)
    assert {row["method"]: row["why"] for row in found["rows"]} == {"gd": None, "npo": "failed: on purpose"}
    assert all((row["measured"] is None) == (row["method"] == "npo") for row in found["rows"])
    assert "failed: on purpose" in capfd.readouterr().err
    assert "failed: on purpose" in Page((tmp_path / "study" / "index.html").read_text()).text
    asked.clear()
    asked.failing = ()
    assert all(row["measured"] for row in study(TINY)["rows"])
    assert sorted(asked) == [("npo", 1), ("npo", 2), ("npo", 2)]


def test_files_of_points_that_were_cut_off_count_for_nothing(study: Run, asked: Asked, tmp_path: Path) -> None:
    study(TINY)
    files = sorted((tmp_path / "study" / "points").glob("*.json"))
    assert len(files) == 6
    files[0].write_text(files[0].read_text()[:40])
    asked.clear()
    study(TINY)
    assert len(asked) == 1


def test_a_dry_run_prints_the_points_and_writes_nothing(
    tmp_path: Path, asked: Asked, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump({**TINY, "models": ["tiny", {"params": "2m"}], "gpus": [1, 2, 4]}))
    assert cli.main(["scale-study", "--grid", str(path), "--out", str(tmp_path / "no"), "--dry-run"]) == 0
    said = capfd.readouterr().err
    assert "24 points: 16 to be measured here, 8 predicted only" in said and "measure_ranks" in said.replace("\n", "")
    assert not asked and not (tmp_path / "no").exists() and sorted(tmp_path.iterdir()) == [path]


def test_digests_cover_what_decides_and_nothing_else() -> None:
    grid = Grid.model_validate(TINY)
    first, *others = rows(TINY)
    point = point_of(first, grid, "cpu")
    assert digest_of(point) != digest_of(point_of(first, grid, "h100-80g"))
    assert digest_of(point) != digest_of(point_of(first, grid.model_copy(update={"steps": 9}), "cpu"))
    assert digest_of(point) == digest_of(point_of(first, grid.model_copy(update={"timeout": 9.0}), "cpu"))
    keys = {digest_of(point_of(row, grid, "cpu")) for row in (first, *others)}
    assert len(keys) == 6 and len(others) == 7


def test_another_study_in_the_same_directory_is_refused(study: Run, tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "mine.txt").write_text("mine")
    study(TINY, status=cli.USER_ERROR)


# ------------------------------------------------------------------------------------------------------ for real


def check_measured(found: dict[str, Any]) -> None:
    for row in found["rows"]:
        real = row["measured"]
        assert row["why"] is None and real is not None, row
        assert real["step_s"] > 0 and 0 < real["mfu"] < 1
        assert real["tokens_per_s"] > 0 and real["images_per_s"] > 0


@pytest.mark.distributed
def test_a_small_study_is_measured(study: Run) -> None:
    """The real engine on one rank: tokens and pictures to the number, the peak as planned."""
    found = study({**TINY, "gpus": [1], "methods": ["gd"], "scaling": ["weak"]})
    check_measured(found)
    (row,) = found["rows"]
    # 4 examples, 2 of them with a picture of 16 tokens.
    tokens = row["measured"]["tokens_per_s"] * row["measured"]["step_s"]
    assert tokens == pytest.approx(4 * 24 + 2 * 16, rel=1e-4)
    assert row["measured"]["images_per_s"] * row["measured"]["step_s"] == pytest.approx(2, rel=1e-4)
    assert row["measured"]["peak_bytes"] == pytest.approx(row["predicted"]["peak_bytes"], rel=0.1)


@pytest.mark.slow
@pytest.mark.distributed
def test_two_ranks_every_stage_and_other_ways(study: Run) -> None:
    stages = ["z0", "z1", "z2", "z3", "z3_offload"]
    mixes = {"alike": {"tokens": 24, "scored": 8, "pictures": 1.0}}
    found = study({**TINY, "stages": stages, "methods": ["gd", "kl"], "mixes": mixes, "scaling": ["weak"]})
    check_measured(found)
    for row in found["rows"]:
        assert row["measured"]["peak_bytes"] == pytest.approx(row["predicted"]["peak_bytes"], rel=0.1), row
    kept = study({**TINY, "full": True, "methods": ["kl"], "gpus": [2], "stages": ["z3"], "scaling": ["weak"]}, "kept")
    check_measured(kept)
    many = ["retain_ft", "idk", "dpo", "pubg", "rmu", "grad_orth"]
    others = {**TINY, "methods": many, "set": {"rmu": {"layer": 1}}, "gpus": [1], "scaling": ["weak"]}
    check_measured(study(others, "others"))
    text = {"models": [{"arch": "llama", "params": "2m"}], "gpus": [1], "methods": ["gd"], "scaling": ["weak"]}
    (row,) = study({**TINY, **text}, "text")["rows"]
    assert row["why"] is None and row["measured"]["images_per_s"] == 0 == row["predicted"]["images_per_s"]


def test_predicted_only_says_why(study: Run, asked: Asked) -> None:
    found = study({**TINY, "gpus": [1, 4]})
    reasons = {row["gpus"]: row["why"] for row in found["rows"]}
    assert reasons == {1: None, 4: "not measured: it takes 4 ranks, measure_ranks is 2"}
    with pytest.raises(UserError, match="is not known"):
        gpu_of("none")
