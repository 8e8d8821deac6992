"""The ops' benchmark: whom it measures computes the right thing, its floors are right, it ends in time, and it writes
what it promises. Its figures are not tested."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import bench_ops
from benchmarks.ops_calls import Budget, forward
from benchmarks.ops_cases import OPS, Case, make_inputs, mean_kl, plan
from benchmarks.ops_errors import Truth
from benchmarks.ops_floors import Rates, floor_ms, flops, least_bytes
from benchmarks.ops_measure import Measured, measure, peak_mb
from benchmarks.ops_peers import BETA, Variant, truth, variants
from clear_dist.ops import token_stats

CPU = torch.device("cpu")
CASES = [replace(c, kl=0.1) for c in plan(CPU, True, OPS) if not c.scaling]
PROMISED = {"op", "impl", "dtype", "T", "D", "V", "fwd_ms", "fwd_bwd_ms", "peak_mb", "grad_rel_err"}
PROMISED |= {"ratio_to_eager", "ratio_to_floor"}


# --- results


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ops")
    assert bench_ops.main(["--quick", "--device", "cpu", "--ops", "linear_logp,logits_kl", "--out", str(out)]) == 0
    return out


def test_results_have_the_promised_form(written: Path):
    found = json.loads((written / "bench_ops.json").read_text())
    assert found["v"] == 1 and found["not_run"] == []
    assert {"date", "commit", "device", "cpu", "cores", "threads", "python", "versions"} <= found["machine"].keys()
    assert set(found["rates"]) == {"copy_tbps", "matmul_fp32_tflops", "matmul_bf16_tflops"}
    assert all(row.keys() >= PROMISED for row in found["rows"])
    assert {r["op"] for r in found["rows"]} == {"linear_logp", "logits_kl"}
    measured = [r for r in found["rows"] if not r["skipped"]]
    assert {"eager", "eager_fp32", "checkpoint", "reference"} <= {r["impl"] for r in measured}
    for row in measured:
        assert 0 < row["fwd_bwd_ms_min"] <= row["fwd_bwd_ms"] <= row["fwd_bwd_ms_max"] and row["fwd_ms"] > 0
        assert row["ratio_to_floor"] == pytest.approx(row["fwd_bwd_ms"] / row["floor_ms"])
        assert row["grad_rel_err"] >= 0 and row["rounds"] == 2 and row["returns"] == "rows"
        assert row["impl"] != "eager" or row["ratio_to_eager"] == 1
    for row in found["rows"]:
        if row["skipped"]:
            assert row["fwd_ms"] is row["fwd_bwd_ms"] is row["grad_rel_err"] is None
    triton = {r["skipped"] for r in found["rows"] if r["impl"] == "triton"}
    assert triton == {"on the CPU Triton only interprets: no benchmark"}
    assert {(e["op"], e["dtype"]) for e in found["errors"]} == {("logits_kl", "bf16"), ("logits_kl", "fp32")}
    assert all(e["grad_rel_err"] >= 0 and e["kl"] > 0 for e in found["errors"])


def test_the_sheet_says_what_the_json_says(written: Path):
    rows = json.loads((written / "bench_ops.json").read_text())["rows"]
    with (written / "bench_ops.csv").open(newline="") as file:
        sheet = list(csv.DictReader(file))
    assert [{k: "" if v is None else str(v) for k, v in row.items()} for row in rows] == sheet


def test_tables_and_plots_are_written(written: Path):
    (text,) = written.glob("bench_ops_*_cpu.md")
    shown = text.read_text()
    assert "logits_kl forward, fp32, 40 x 136" in shown and "Not measured: " in shown and "commit" in shown
    figures = sorted(written.glob("*.png"))
    assert [f.stem.split("_cpu")[1] for f in figures] == ["", "_errors", "_logits_kl"]
    assert all(f.name in shown and f.read_bytes()[:4] == b"\x89PNG" for f in figures)


@pytest.mark.parametrize("budget", [3, 60])
def test_ends_in_time_and_writes_what_it_has(budget: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bench_ops, "draw_all", lambda *_: [])
    ticks = count()  # every look at the clock is a second
    arguments = ["--quick", "--device", "cpu", "--ops", "logits_kl", "--impls", "eager", "--budget", str(budget)]
    assert bench_ops.main([*arguments, "--out", str(tmp_path)], clock=lambda: float(next(ticks))) == 0
    found = json.loads((tmp_path / "bench_ops.json").read_text())
    timed = [r for r in found["rows"] if r["fwd_ms"] is not None]
    assert bool(timed) == (budget > 3) and found["not_run"]
    assert next(ticks) < budget + 5, "once time is up nothing is begun"
    assert not timed or timed[0]["dtype"] == "fp32", "the most important case comes first"
    assert list(tmp_path.glob("*.md"))


def test_a_budget_is_spent_by_its_clock():
    now = iter([0.0, 1.0, 50.0, 99.0])
    budget = Budget(80.0, lambda: next(now))
    assert (budget.left, budget.left, budget.left) == (64.0, 15.0, -34.0), "15 s are kept for writing"
    assert Budget(None).left == float("inf")


def test_unknown_ops_are_named(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        bench_ops.main(["--ops", "linear_kl,nothing"])
    assert "unknown nothing; known: linear_logp" in capsys.readouterr().err


# --- who is measured


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_every_variant_computes_the_op(case: Case):
    exact = Truth.of(case, make_inputs(case, CPU))
    run = [v for v in variants(case, CPU, quick=True) if v.run is not None]
    assert {"eager", "reference"} <= {v.name for v in run}
    for variant in run:
        value, gradient = exact.errors(variant)
        allowed = 1e-4 if case.dtype == "fp32" else 0.3 if variant.name == "eager" else 0.15
        assert max(value, gradient) < allowed, (variant.name, value, gradient)


@pytest.mark.parametrize("op", ["linear_logp", "linear_log_ratio", "linear_kl"])
def test_truth_is_the_reference_in_float64(op: str):
    for case in (c for c in CASES if c.op == op and c.dtype == "fp32"):
        x = make_inputs(case, CPU).each(lambda t: t.double())
        ref = x.leaves[0] if x.ref is None else x.ref
        names = {"linear_kl": {"forward": "kl_forward", "reverse": "kl_reverse"}.get(case.kind or "", "js")}
        want = {"linear_logp": ["logp"], "linear_log_ratio": ["logp", "logp_ref"]}.get(op, [names["linear_kl"]])
        found = token_stats(x.leaves[0], x.weight, x.y, h_ref=ref, want=want, impl="reference")
        expected = found["logp"] - found["logp_ref"] if "logp_ref" in want else found[want[0]]
        torch.testing.assert_close(truth(case, x), expected, rtol=1e-9, atol=1e-12)


def test_truth_of_the_others_is_their_equation():
    by_op = {c.op: c for c in CASES if c.dtype == "fp32"}
    x = make_inputs(by_op["vocab_npo"], CPU).each(lambda t: t.double())
    assert x.ref is not None
    ratio = x.leaves[0].softmax(-1) / x.ref.softmax(-1)
    torch.testing.assert_close(truth(by_op["vocab_npo"], x), 2 / BETA * (1 + ratio**BETA).log().mean(-1))
    x = make_inputs(by_op["logits_logp"], CPU).each(lambda t: t.double())
    assert x.y is not None
    torch.testing.assert_close(truth(by_op["logits_logp"], x), x.leaves[0].softmax(-1)[torch.arange(40), x.y].log())
    x = make_inputs(by_op["l1_norm"], CPU)
    torch.testing.assert_close(float(truth(by_op["l1_norm"], x)), sum(float(t.double().abs().sum()) for t in x.leaves))


def _cross_entropy(h: Tensor, weight: Tensor, y: Tensor, *, reduction: str) -> Tensor:
    return F.cross_entropy(h @ weight.t(), y, reduction=reduction)


def _jsd(h: Tensor, weight: Tensor, h_ref: Tensor, weight_ref: Tensor, *, jsd_beta: float) -> Tensor:
    """As liger's: 0 is KL(reference || student), 1 the other way, and the mean over rows."""
    p, q = (h @ weight.t()).softmax(-1), (h_ref @ weight_ref.t()).softmax(-1)
    m = jsd_beta * q + (1 - jsd_beta) * p
    if jsd_beta in (0.0, 1.0):
        return (
            F.kl_div(p.log(), q, reduction="batchmean")
            if jsd_beta == 0
            else F.kl_div(q.log(), p, reduction="batchmean")
        )
    return jsd_beta * F.kl_div(m.log(), q, reduction="batchmean") + (1 - jsd_beta) * F.kl_div(
        m.log(), p, reduction="batchmean"
    )


def _fla(x: Tensor, target_x: Tensor, weight: Tensor, target_weight: Tensor) -> Tensor:
    return _jsd(x, weight, target_x, target_weight, jsd_beta=0.0)


LIBRARIES: dict[str, dict[str, Any]] = {
    "liger_kernel.transformers.functional": {
        "liger_fused_linear_cross_entropy": _cross_entropy,
        "liger_fused_linear_jsd": _jsd,
        "liger_kl_div": F.kl_div,
    },
    "cut_cross_entropy": {"linear_cross_entropy": _cross_entropy},
    "fla.modules.fused_kl_div": {"fused_kl_div_loss": _fla},
}


@pytest.mark.parametrize("case", [c for c in CASES if c.dtype == "fp32"], ids=lambda c: c.name)
def test_libraries_are_asked_for_the_right_thing(case: Case, monkeypatch: pytest.MonkeyPatch):
    """Stand-ins with the libraries' signatures: no argument is swapped, no sign lost, a mean is held to the mean."""
    for name, functions in LIBRARIES.items():
        module = ModuleType(name)
        vars(module).update(functions)
        monkeypatch.setitem(sys.modules, name, module)
    found = [v for v in variants(case, torch.device("cuda"), quick=True) if v.name in ("liger", "cce", "fla")]
    head = {"linear_logp": {"liger", "cce"}, "linear_log_ratio": {"liger", "cce"}, "logits_kl": {"liger"}}
    expected = head.get(case.op, {"liger", "fla"} if case.op == "linear_kl" else set())
    if case.kind in ("reverse", "js"):
        expected = expected - {"fla"} if case.op == "linear_kl" else set()
    assert {v.name for v in found} == expected
    exact = Truth.of(case, make_inputs(case, CPU))
    for variant in found:
        assert variant.mean == case.op.endswith("_kl")
        assert max(exact.errors(variant)) < 1e-4, variant.name


def test_an_absent_library_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "cut_cross_entropy", None)
    found = {v.name: v for v in variants(CASES[0], torch.device("cuda"), quick=True)}
    assert found["cce"].run is None and "cut_cross_entropy" in (found["cce"].skip or "")


# --- how


def test_what_fails_or_computes_something_else_is_not_timed():
    case = next(c for c in CASES if c.op == "logits_kl")
    eager = next(v for v in variants(case, CPU, quick=True) if v.name == "eager")
    assert eager.run is not None
    right = eager.run

    def broken(x: object) -> Tensor:
        raise RuntimeError("no kernel for this\nand many lines more")

    asked = [Variant("half", lambda x: 0.5 * right(x)), Variant("broken", broken), eager]
    half, failed, good = measure(case, asked, CPU, Budget(None), quick=True)
    assert half.skip and half.skip.startswith("WrongResult: relative error 5.0e-01") and half.both is None
    assert failed.skip == "RuntimeError: no kernel for this" and failed.peak is None
    assert good.skip is None and good.both is not None and good.rounds == 2


def test_peak_memory_is_what_was_needed():
    base = torch.ones(1 << 20)

    def work() -> None:
        first = base.repeat(32)  # 134 MB
        second = first[: 16 << 20] + 1  # 67 MB more
        del first, second

    work()
    found = peak_mb(work, CPU)
    if found is None:
        pytest.skip("this system cannot reset a process's peak of memory")
    assert found == pytest.approx(201.3, abs=8)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("kl", [1e-1, 1e-3, 1e-6])
def test_students_are_as_far_as_asked(dtype: str, kl: float):
    for op, D in (("linear_kl", 64), ("logits_kl", None)):
        x = make_inputs(Case(op, dtype, 16, D, 400, "forward"), CPU, kl=kl)
        assert x.ref is not None
        found = mean_kl(x.leaves[0], x.ref, None if x.weight is None else x.weight.double())
        assert kl / 3 < found < 3 * kl


def test_upstream_gradients_differ_and_half_of_the_targets_are_likely():
    x = make_inputs(Case("linear_logp", "fp32", 64, 32, 500), CPU)
    assert x.weight is not None and x.y is not None and len(x.c.unique()) == 64
    likely = (x.leaves[0] @ x.weight.t()).argmax(-1) == x.y
    assert x.ref is None and 16 < int(likely.sum()) < 48


def test_floors():
    rates = Rates(copy=1e12, matmul={"fp32": 1e13, "bf16": 1e14})
    T, D, V = 1024, 512, 4096
    one, two = 2 * T * D * V, 4 * T * D * V
    expected = {  # (flops forward, with gradient), (numbers read and written forward, with gradient)
        ("linear_logp", None): ((one, two), (T * D + V * D, 2 * T * D + V * D)),
        ("linear_log_ratio", None): ((two, two + one), (2 * T * D + V * D, 3 * T * D + V * D)),
        ("linear_kl", "js"): ((two, two + one), (2 * T * D + V * D, 3 * T * D + V * D)),
        ("logits_logp", None): ((0, 0), (T * V, 2 * T * V)),
        ("logits_kl", "forward"): ((0, 0), (2 * T * V, 3 * T * V)),
        ("vocab_npo", None): ((0, 0), (2 * T * V, 3 * T * V)),
        ("hidden_distance", "vector"): ((0, 0), (T * D + D, 2 * T * D + D)),
        ("hidden_distance", "states"): ((0, 0), (2 * T * D, 3 * T * D)),
    }
    assert {op for op, _ in expected} == set(OPS) - {"l1_norm"}
    for (op, kind), (products, numbers) in expected.items():
        for dtype, size, rate in (("fp32", 4, 1e13), ("bf16", 2, 1e14)):
            case = Case(op, dtype, T, None if op in ("logits_logp", "logits_kl", "vocab_npo") else D, V, kind)
            for backward in (False, True):
                assert flops(case, backward) == products[backward]
                assert least_bytes(case, backward) == size * numbers[backward]
                floor = max(products[backward] / rate, size * numbers[backward] / 1e12)
                assert floor_ms(case, rates, backward) == pytest.approx(1e3 * floor)


def test_a_floor_is_not_raised_by_a_slow_dtype():
    """A CPU may multiply bf16 more slowly than fp32: bf16 inputs can be raised to fp32."""
    rates = Rates(copy=1e12, matmul={"fp32": 1e14, "bf16": 1e13})
    assert (rates.best("bf16"), rates.best("fp32")) == (1e14, 1e14)


def test_the_l1_of_a_7b_lora_is_20_million_numbers():
    case = Case("l1_norm", "fp32", 448, 8, None, layers=32)
    assert least_bytes(case, False) == 4 * 19_988_480 and least_bytes(case, True) == 8 * 19_988_480
    assert len(make_inputs(replace(case, layers=1), CPU).leaves) == 14


def test_ratios_are_of_the_same_run():
    def spread(ms: float) -> dict[str, float]:
        return {"median": ms, "min": ms, "max": ms}

    case = Case("logits_kl", "fp32", 1000, None, 1000, "forward")
    eager = Measured(Variant("eager"), (0.0, 0.1), 80.0, spread(2.0), spread(8.0), 3)
    native = Measured(Variant("native"), (0.0, 0.01), 10.0, spread(1.0), spread(2.0), 3)
    absent = Measured(Variant("triton"), skip="no GPU")
    rows = bench_ops.rows_of(case, [native, absent, eager], Rates(1e12, {"fp32": 1e12, "bf16": 1e12}))
    assert [r["ratio_to_eager"] for r in rows] == [0.25, None, 1.0]
    assert [r["memory_to_eager"] for r in rows] == [0.125, None, 1.0]
    assert rows[0]["floor_ms"] == pytest.approx(0.012) and rows[0]["ratio_to_floor"] == pytest.approx(2.0 / 0.012)
    assert rows[0]["fwd_ratio_to_floor"] == pytest.approx(1.0 / 0.008) and rows[0]["tbps"] == pytest.approx(0.006)


def test_gpu_cases_begin_with_the_models_heads():
    cases = plan(torch.device("cuda"), False, OPS)
    shapes = {(c.D, c.V) for c in cases if c.op == "linear_kl" and c.T == 4096 and not c.scaling}
    assert {(4096, 32064), (5120, 32064), (4096, 128256), (3584, 152064)} <= shapes
    assert cases[0] == Case("linear_kl", "bf16", 4096, 4096, 32064, "forward")
    assert {c.op for c in cases} == set(OPS)


def test_forward_keeps_no_graph():
    x = make_inputs(CASES[0], CPU).with_gradients()
    eager = next(v for v in variants(CASES[0], CPU, quick=True) if v.name == "eager")
    assert not forward(eager, x).requires_grad
