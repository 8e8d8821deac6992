"""The step benchmark runs, refuses to time loops that disagree, and counts what it says. Its figures are not tested."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import bench_step, step_flops, step_rows
from benchmarks.bench_step import METHODS, Entry, Probe
from benchmarks.step_loops import Name, Ours, gradients, make_job, untouched
from benchmarks.step_memory import peak_of
from benchmarks.step_models import BATCH, SHAPES, Student, build_student, make_pools
from benchmarks.step_padded import Padded
from clear_dist.types import UserError, View

CPU = torch.device("cpu")
SMALL = {
    "vocab": 192,
    "image_size": 24,
    "patch": 12,
    "vision_hidden": 32,
    "vision_layers": 2,
    "vision_heads": 2,
    "vision_intermediate": 64,
    "hidden": 32,
    "layers": 4,
    "heads": 2,
    "intermediate": 64,
}


@pytest.fixture(scope="module", autouse=True)
def small():
    """The shape ``tiny`` of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SHAPES, "tiny", SMALL)
        yield


@pytest.fixture(scope="module")
def student(small: None) -> Student:
    return build_student("tiny", CPU, torch.float32)


def arguments(out: Path, *more: str) -> list[str]:
    return ["--device", "cpu", "--model", "tiny", "--rounds", "2", "--out", str(out), *more]


def test_results_have_the_promised_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert bench_step.main(arguments(tmp_path, "--methods", "npo,rmu")) == 0
    found = json.loads((tmp_path / "bench_step.json").read_text())
    assert found["v"] == 1 and found["machine"]["peak_tflops"] > 0 and found["machine"]["model"] == "tiny"
    names = [(r["method"], r["loop"]) for r in found["rows"]]
    assert names == [(m, x) for m in ("npo", "rmu") for x in ("ours", "clear_code", "hf_trainer")]
    for method in ("npo", "rmu"):
        ours, code, trainer = (r for r in found["rows"] if r["method"] == method)
        assert ours["real_tokens"] == code["real_tokens"] == trainer["real_tokens"], "one number for all loops"
        assert ours["needed_tflop"] == code["needed_tflop"] <= ours["hardware_tflop"] < code["hardware_tflop"]
        assert ours["peak_mb"] < code["peak_mb"]
        for row in (ours, code, trainer):
            assert row["loss"] == pytest.approx(ours["loss"], rel=1e-4)
            assert row["rounds"] == 2 and row["micro_batch"] == BATCH
            assert sum(row["phases_ms"].values()) == pytest.approx(row["step_ms"], rel=0.5)
            assert row["real_tokens_per_s"] == pytest.approx(1e3 * row["real_tokens"] / row["step_ms"])
            assert 0 < row["mfu"] <= row["hardware_utilisation"]
        assert ours["tower_cached"] and ours["caches_ms"] > 0 and ours["step_with_caches_ms"] > ours["step_ms"]
        assert ours["phases_ms"]["reference forward"] < 1 < code["phases_ms"]["reference forward"]
    (page,) = tmp_path.glob("bench_step_*_cpu.md")
    assert "| ours |" in page.read_text() and "2PN + 4DC" in page.read_text()
    (figure,) = tmp_path.glob("bench_step_*_cpu.png")
    assert figure.read_bytes()[:4] == b"\x89PNG"
    assert "npo(FORGET)" in capsys.readouterr().out


def test_all_methods_agree():
    assert bench_step.check_small(METHODS, 2) <= 1e-4


def test_loops_that_disagree_are_not_timed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    plain = Padded._answers

    def shifted(self: Padded, wants, batch, other, seen, reference):
        batch.score_index = batch.score_index + 1  # the token itself instead of the one before it
        return plain(self, wants, batch, other, seen, reference)

    monkeypatch.setattr(Padded, "_answers", shifted)
    assert bench_step.main(arguments(tmp_path, "--methods", "gd")) == 2
    assert "gd: the loops disagree" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_same_loss_with_another_gradient_is_refused():
    def entry(gradient: list[float]) -> Entry:
        return Entry(None, Probe(1.0, 0, BATCH, {"a": torch.tensor(gradient)}))

    same = {"ours": entry([3.0, 4.0]), "clear_code": entry([3.0, 4.0])}
    assert bench_step.agreed("npo", same) == 0.0
    assert bench_step.disagreement({**same, "hf_trainer": entry([3.0, 4.5])}) == (0.0, pytest.approx(0.1))
    with pytest.raises(UserError, match="gradients differ by"):
        bench_step.agreed("npo", {**same, "hf_trainer": entry([3.0, 4.5])})
    missing = {**same, "hf_trainer": Entry(None, Probe(1.0, 0, BATCH, {}))}
    assert bench_step.disagreement(missing)[1] == pytest.approx(1.0), "no gradient is another gradient"


@pytest.mark.parametrize("method", ["dpo", "rmu"])
def test_a_step_in_parts_is_the_same_step(student: Student, tmp_path: Path, method: str):
    job = make_job(method, student)
    names: tuple[Name, ...] = ("clear_code", "hf_trainer")
    for loop in (Ours(job, tmp_path / "reference"), *(Padded(job, name) for name in names)):
        found = []
        for size in (BATCH, 3):
            job.cut(size)
            found.append((loop.step(update=False), gradients(student)))
        (whole, g), (parts, p) = found
        assert parts == pytest.approx(whole, abs=1e-5)
        assert g.keys() == p.keys() and g
        for name in g:
            torch.testing.assert_close(p[name], g[name], rtol=1e-3, atol=1e-6)


def test_steps_move_the_adapter_and_turns_do_not(student: Student, tmp_path: Path):
    job = make_job("npo", student)
    loop = Ours(job, tmp_path / "reference")
    before = [p.detach().clone() for p in student.adapter()]
    with untouched(student):
        loop.step()
        assert any(not torch.equal(p, b) for p, b in zip(student.adapter(), before, strict=True))
    assert all(torch.equal(p, b) for p, b in zip(student.adapter(), before, strict=True))


def test_without_a_second_copy_rows_say_so(tmp_path: Path):
    alone = build_student("tiny", CPU, torch.float32, copied=False)
    budget = bench_step.Budget(60)
    more = {"rounds": 1, "questions": 1, "micro_batch": BATCH, "budget": budget}
    rows, _ = bench_step.bench("npo", alone, **more)
    assert [r["step_ms"] is None for r in rows] == [False, True, True]
    assert rows[1]["note"] == "not asked for" and rows[2]["real_tokens_per_s"] is None
    rows, _ = bench_step.bench("gd", alone, **more)
    assert all(r["step_ms"] for r in rows), "gd compares with nothing"
    step_rows.utilise(rows, 1e12)
    assert rows[0]["mfu"] == pytest.approx(rows[0]["needed_tflop"] / (rows[0]["step_ms"] / 1e3))
    page = step_rows.markdown_of(
        [*rows, step_rows.missing("npo", "hf_trainer", "no room")],
        {"model": "tiny", "dtype": "float32", "device": "cpu", "image_tokens": 4, "largest_loss_difference": 0.0}
        | {"peak_tflops": 0.1, "peak_source": "test"},
    )
    assert "hf_trainer: no room." in page


def test_a_step_is_halved_until_it_fits(student: Student):
    job = make_job("gd", student)
    loop = Padded(job, "hf_trainer")
    step, most = loop.step, 4

    def full(*, update: bool = True) -> float:
        if math.ceil(BATCH / job.padded.settings.accumulation) > most:
            raise torch.cuda.OutOfMemoryError("full")
        return step(update=update)

    loop.step = full  # type: ignore[method-assign]
    probe = bench_step._probe(job, loop, BATCH)
    assert probe is not None and probe.micro_batch == 4 and probe.gradients
    most = 0
    assert bench_step._probe(job, loop, BATCH) is None


def test_when_time_is_over_rows_say_so(tmp_path: Path):
    assert bench_step.main(arguments(tmp_path, "--methods", "npo", "--minutes", "0")) == 0
    rows = json.loads((tmp_path / "bench_step.json").read_text())["rows"]
    assert [r["step_ms"] for r in rows] == [None] * 3 and "minutes were over" in rows[0]["note"]


def test_peak_counts_what_lives_at_once():
    def work() -> None:
        a = torch.zeros(100_000)
        b = torch.zeros(50_000)
        del a
        torch.zeros(200_000)
        del b

    assert peak_of(work, CPU) == pytest.approx(4 * 250_000, abs=1024)
    weight = torch.ones(300, 300, requires_grad=True)
    peak = peak_of(lambda: (weight @ weight).square().sum().backward(), CPU)
    assert peak >= 3 * 4 * 300 * 300, "product, its gradient and the weight's are there together in backward"
    weight.grad = None


@pytest.mark.parametrize("method", ["gd", "npo", "rmu"])
def test_operations_are_those_that_are_computed(student: Student, monkeypatch: pytest.MonkeyPatch, method: str):
    """Against torch's own counter, which knows products but, on a CPU, no attention."""
    monkeypatch.setattr(step_flops.Sizes, "attention", lambda self, pairs: 0.0)
    job = make_job(method, student)
    job.cut(BATCH)
    with FlopCounterMode(display=False) as counter:
        Padded(job, "clear_code").step(update=False)
    gradients(student)
    batches = [b for v in job.views for b in job.padded.micro_batches(0, {v})]
    assert step_flops.hardware_padded(job, batches) == pytest.approx(counter.get_total_flops(), rel=0.03)


def test_needed_is_the_least(student: Student):
    def both(method: str, questions: int) -> tuple[float, float]:
        job = make_job(method, student, questions=questions)
        packed = list(job.packed.micro_batches(0))
        return step_flops.needed(job, packed), step_flops.hardware_ours(job, packed)

    (npo, npo_done), (kl, _), (rmu, _) = (both(m, 1) for m in ("npo", "kl", "rmu"))
    assert npo <= npo_done and 2 * npo < kl and rmu < kl / 2, "a second view; a quarter of the depth and no head"


def test_a_batch_has_the_mix(student: Student):
    pools = make_pools((View.FORGET, View.RETAIN, View.IDK, View.GUIDE), student.config)
    forget, idk = pools.student[View.FORGET], pools.student[View.IDK]
    assert len(forget) == BATCH and sum(e.picture is not None for e in forget) == 8
    assert [(e.question, e.picture) for e in forget] == [(e.question, e.picture) for e in idk]
    answers = sorted(len(e.answer.split()) for e in forget)
    assert answers[0] < 15 < 34 < answers[8] < 42 < 60 < answers[-1], "both ends of the dataset's lengths"
    assert list(pools.reference) == [View.GUIDE]
    two = make_pools((View.FORGET,), student.config, questions=2).student[View.FORGET]
    assert len({e.picture.digest for e in two if e.picture}) * 2 == sum(e.picture is not None for e in two)


@pytest.mark.parametrize(("shape", "billions"), [("llava-1.5-7b", 7.06), ("llava-1.5-13b", 13.35)])
def test_large_shapes_are_the_real_ones(shape: str, billions: float):
    module = build_student(shape, torch.device("meta"), torch.bfloat16, copied=False).module
    frozen = [p for name, p in module.named_parameters() if "lora_" not in name]
    assert sum(p.numel() for p in frozen) == pytest.approx(billions * 1e9, rel=1e-3)
    assert all(p.dtype is torch.bfloat16 for p in frozen)


def test_caches_are_spread_over_the_papers_steps(student: Student, tmp_path: Path):
    job = make_job("kl", student)
    ours = Ours(job, tmp_path / "reference")
    ours.reference_seconds, ours.tower_seconds = {View.RETAIN: 0.1}, 0.01
    here, spread = step_rows.cache_ms(job, ours)
    assert here == pytest.approx(1e3 * (16 * 0.1 + 16 * 0.01)), "16 retain examples, 16 pictures of two views"
    steps = 5 * 49
    drawn = 16 * steps  # 3,920 of the retain set's 6,989 examples
    assert spread == pytest.approx(1e3 * (drawn * 0.1 + (379 + 8 * steps) * 0.01) / steps)


def test_a_method_the_others_cannot_run_is_refused(student: Student):
    with pytest.raises(UserError, match="--methods grad_orth"):
        make_job("grad_orth", student)
    with pytest.raises(UserError, match="entropy"):
        make_job("ga_entropy", student)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--methods", "npq"], "npo"),
        (["--methods", ","], "expected names"),
        (["--rounds", "0"], "whole number"),
        (["--questions", "17"], "at most 16"),
        (["--model", "llava-2"], "llava-1.5-7b"),
    ],
)
def test_bad_flags(given: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        bench_step.main(given)
    assert said in capsys.readouterr().err


def test_no_gpu_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench_step.main(["--device", "cuda", "--out", str(tmp_path)]) == 2
    assert "--device cpu" in capsys.readouterr().err
