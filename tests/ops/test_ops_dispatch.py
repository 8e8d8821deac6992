"""Which implementation runs, and why; tables of statistics agree; every CPU path gives the right numbers.

The path is chosen once in a process: hence ``python test_ops_dispatch.py [FOLDER OF _C.so]``, run for each.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor
from triton_truth import gradient, names_for, truth

from clear_dist import ops
from clear_dist.ops import SlowPath, available, dispatch, native
from clear_dist.ops.dispatch import VARIABLE, choose
from clear_dist.ops.rows import names as table
from clear_dist.ops.rows.names import CONSTANT, DIFFERENCE, IGNORE, NAMES, PAIR, SINGLE, bits

ROOT = Path(__file__).resolve().parents[2]
CXX = shutil.which("g++") or shutil.which("clang++")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No environment of the person's own; warnings that were given once may be given again."""
    for name in (VARIABLE, "TRITON_INTERPRET"):
        monkeypatch.delenv(name, raising=False)
    dispatch._warn.cache_clear()
    native.report.cache_clear()
    yield
    dispatch._warn.cache_clear()
    native.report.cache_clear()


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "load", lambda: "nobody built it")


def silently(impl: str, device: str = "cpu", dtype: str = "float32") -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return choose(impl, device, dtype)


def test_what_runs_of_itself() -> None:
    assert silently("auto") == silently("auto", dtype="bfloat16") == "native"
    assert silently("auto", dtype="float16") == "reference"  # no kernel: it would be widened
    assert silently("native", dtype="float16") == "native"
    assert silently("auto", "mps") == silently("auto", "meta") == "reference"
    assert silently("reference", "mps", "float64") == "reference"


@pytest.mark.parametrize("impl", ["reference", "native"])
def test_the_variable_replaces_auto_and_nothing_else(monkeypatch: pytest.MonkeyPatch, impl: str) -> None:
    monkeypatch.setenv(VARIABLE, impl)
    assert silently("auto") == silently("auto", dtype="bfloat16") == silently("auto", dtype="float16") == impl
    assert silently("native") == "native" and silently("reference") == "reference"
    z = torch.randn(5, 301, generator=torch.Generator().manual_seed(0))
    forced, other = ops.logits_kl(z, z * 1.0001), "native" if impl == "reference" else "reference"
    assert torch.equal(forced, ops.logits_kl(z, z * 1.0001, impl=impl))  # pyright: ignore[reportArgumentType]
    assert not torch.equal(forced, ops.logits_kl(z, z * 1.0001, impl=other))


def test_the_variable_may_say_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "auto")
    assert silently("auto") == "native"


@pytest.mark.parametrize("value", ["fast", "Native", " native", ""])
def test_an_unknown_value_of_the_variable(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(ValueError, match=f"^unknown {VARIABLE} {value!r}; known: .*'auto', 'native'"):
        ops.hidden_distance(torch.zeros(2, 3), torch.zeros(3))
    assert silently("native") == "native"  # who says which is not asked


def test_double_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    assert silently("auto", dtype="float64") == silently("auto", "cuda", "float64") == "reference"
    for impl in ("native", "triton"):
        with pytest.raises(ValueError, match=f"impl='{impl}' computes in single .* float64 is for impl='reference'"):
            choose(impl, "cpu", "float64")
        monkeypatch.setenv(VARIABLE, impl)
        assert silently("auto", dtype="float64") == "reference"
    h = torch.ones(2, 3, dtype=torch.float64)
    monkeypatch.setenv(VARIABLE, "native")
    assert ops.hidden_distance(h, torch.zeros(3)).dtype == torch.float64
    with pytest.raises(ValueError, match="float64"):
        ops.l1_norm([torch.ones(2), h], impl="native")


@pytest.mark.usefixtures("missing")
def test_without_the_extension_plain_code_runs_and_says_so_once() -> None:
    assert available()["native"] == "nobody built it" and available()["reference"] is None
    h, w, y = torch.randn(3, 4), torch.randn(5, 4), torch.tensor([0, 1, 2])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = ops.linear_logp(h, w, y)
        for _ in range(2):
            ops.logits_logp(h @ w.t(), y)
            ops.hidden_distance(h, h)
            ops.l1_norm([h, w])
            ops.l1_add_grad_([h], [h.clone()], 1.0)
    assert torch.equal(found, ops.linear_logp(h, w, y, impl="reference"))
    assert [x.category for x in said] == [SlowPath]
    assert "nobody built it" in str(said[0].message) and "slower" in str(said[0].message)


@pytest.mark.usefixtures("missing")
def test_without_the_extension_it_cannot_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"^impl='native' cannot run here: nobody built it$"):
        ops.l1_norm([torch.ones(2)], impl="native")
    monkeypatch.setenv(VARIABLE, "native")
    with pytest.raises(ValueError, match=f"^{VARIABLE}='native' cannot run here: nobody built it$"):
        ops.l1_norm([torch.ones(2)])
    assert silently("auto", dtype="float64") == "reference"


def test_why_the_extension_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No file, with what the build said of it; one that is broken; one without CUDA."""
    monkeypatch.setattr(native, "PACKAGE", tmp_path)
    load: Callable[[], str | None] = native.load.__wrapped__
    assert "installed without building it" in str(load())
    for said in ('{"reason": "no C++ compiler"}', "{", "\N{SNOWMAN}"):
        (tmp_path / native.REPORT).write_text(said, encoding="utf-8")
        native.report.cache_clear()
        assert ("no C++ compiler" if "reason" in said else "installed without building it") in str(load())
    assert "make setup" in str(load())
    (tmp_path / "_C.so").write_text("this is no library")
    assert "does not load" in str(load()) and "make setup" in str(load())
    monkeypatch.setattr(native, "load", lambda: None)
    for report, reason in (({"cuda_reason": "nvcc is too old"}, "nvcc is too old"), ({}, "no nvcc")):
        monkeypatch.setattr(native, "report", lambda report=report: report)
        assert native.why_not("cuda") == f"the native extension was built without CUDA ({reason})"
    monkeypatch.setattr(native, "report", lambda: {"cuda": ["80"]})
    assert native.why_not("cuda") is None and native.why_not("cpu") is None
    monkeypatch.undo()


def test_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="needs Triton")
    for source in ("impl", VARIABLE):
        if source == VARIABLE:
            monkeypatch.setenv(VARIABLE, "triton")
        with pytest.raises(ValueError, match=rf"^{source}='triton' cannot run here: .*cpu.*TRITON_INTERPRET=1"):
            choose("triton" if source == "impl" else "auto", "cpu", "float32")
    monkeypatch.delenv(VARIABLE)
    assert silently("auto", "cuda") == silently("triton", "cuda") == "triton"
    assert available("cuda")["triton"] is None and "TRITON_INTERPRET" in str(available("cpu")["triton"])
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert silently("triton") == "triton" and available("cpu")["triton"] is None
    assert silently("auto") == "native"


def test_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^impl='triton' cannot run here: Triton is not installed$"):
        choose("triton", "cuda", "float32")
    with pytest.warns(SlowPath, match="Triton is not installed"):
        assert choose("auto", "cuda", "bfloat16") == "reference"
    assert silently("auto", "cuda") == "reference"  # said once


def test_tables_of_statistics_agree(root: Path) -> None:
    """names.py and csrc/rows.h: bits, modes, what is kept of a row."""
    header = (root / "csrc" / "rows.h").read_text()

    def enum(name: str) -> dict[str, int]:
        body = re.search(rf"enum {name} : int \{{([^}}]*)\}}", header)
        assert body, name
        found: dict[str, int] = {}
        for entry in body[1].split(","):
            key, _, value = entry.strip().partition(" = ")
            found[key] = int(value) if value else len(found)
        return found

    def constant(name: str) -> int:
        value = re.search(rf"constexpr \w+ {name} = (-?\d+);", header)
        assert value, name
        return int(value[1])

    assert enum("Bit") == {name.upper(): k for k, name in enumerate(NAMES)}
    assert enum("Bit") == {name.upper(): getattr(table, name.upper()) for name in NAMES}
    assert enum("Mode") == {"SINGLE": SINGLE, "PAIR": PAIR, "DIFFERENCE": DIFFERENCE}
    assert constant("IGNORE") == IGNORE and constant("STATE") == table.STATE == len(enum("State"))
    assert list(enum("State").values()) == list(range(table.STATE))
    assert set(NAMES) >= table.CONSTANT | table.OF_ONE and bits(NAMES) == (1 << len(NAMES)) - 1


def right_numbers() -> int:
    """How many results of the native ops were compared with float64; AssertionError where one is off."""
    assert native.load() is None
    call, count, g = torch.ops.clear_dist, 0, torch.Generator().manual_seed(0)

    def close(got: Tensor, exact: Tensor, rounding: float, what: object) -> None:
        nonlocal count
        count += 1
        error, size = float((got.double() - exact).norm()), float(exact.norm())
        assert error <= rounding * size + 1e-5, f"{what}: {error:.2e} off, values of {size:.2e}"

    for mode in (SINGLE, PAIR, DIFFERENCE):
        for dtype in (torch.float32, torch.bfloat16):
            for columns, apart in ((2, 1.0), (17, 0.05), (507, 1.0), (1100, 20.0), (2049, 0.01)):
                reference, x = 3 * torch.randn(5, columns, generator=g), apart * torch.randn(5, columns, generator=g)
                z = (reference + x if mode == PAIR else reference).to(dtype)
                r = None if mode == SINGLE else (reference if mode == PAIR else x).to(dtype)
                y = torch.randint(0, columns, (5,), generator=g)
                y[3] = IGNORE
                for target in (y, None):
                    every = names_for(mode, target is not None)
                    student, stats = truth(z, r, target, mode, 0.7)
                    some = [n for n in every if n in ("logp", "log_ratio", "kl_forward", "kl_reverse")]
                    for names in [every, some] if some else [every]:
                        what = (mode, dtype, columns, apart, names)
                        found, state = call.row_stats(z, r, target, bits(names), mode, 0.7)
                        kept = torch.ones(5) if target is None else (target != IGNORE).double()
                        for k, name in enumerate(names):
                            close(found[k], stats[name].detach() * kept, 4e-5, (name, *what))
                        coef = torch.randn(len(names), 5, generator=g)
                        given = {n: coef[k] for k, n in enumerate(names) if n not in CONSTANT}
                        out = torch.full_like(z, float("nan"))
                        call.row_grad(z, r, target, state, coef, bits(names), mode, 0.7, out)
                        rounding = 3e-5 if dtype == torch.float32 else 4e-3
                        close(out, gradient(student, stats, given, target), rounding, ("gradient", *what))
    for size in (1, 15, 16, 17, 1000, 70001):
        for first in (torch.float32, torch.bfloat16):
            for second in (torch.float32, torch.bfloat16):
                h, w = torch.randn(3, size, generator=g).to(first), torch.randn(3, size, generator=g).to(second)
                c, gap = torch.randn(3, generator=g), h.double() - w.double()
                rounding = 1e-6 if first == torch.float32 else 4e-3
                close(call.hidden_distance(h, w), gap.square().sum(-1), 1e-6, ("distance", size))
                close(call.hidden_distance(h, w[0]), (h.double() - w[0].double()).square().sum(-1), 1e-6, ("one", size))
                close(call.hidden_distance_grad(h, w, c), 2 * c[:, None] * gap, rounding, ("distance_grad", size))
                close(call.l1_norm([h, w]), h.double().abs().sum() + w.double().abs().sum(), 1e-6, ("l1", size))
                moved = w.clone()
                call.l1_add_sign([h], [moved], torch.tensor(0.3))
                rounding = 1e-6 if second == torch.float32 else 4e-3
                close(moved, w.double() + 0.3 * h.double().sign(), rounding, ("l1_add_sign", size))
    return count


def in_a_process(folder: Path | None = None, **environment: str) -> str:
    """The CPU path that ran, all its numbers being right."""
    command = [sys.executable, __file__, *([] if folder is None else [str(folder)])]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    path, compared = done.stdout.split()
    assert int(compared) > 500
    return path


def has(*flags: str) -> bool:
    """Whether this machine's processor knows all of these."""
    try:
        known = re.search(r"^flags\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        return False
    return known is not None and set(flags) <= set(known[1].split())


NEEDS = {
    "baseline": (),
    "avx2": ("avx2", "fma"),
    "avx512": ("avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl"),
}


@pytest.mark.parametrize("capability", NEEDS)
def test_every_cpu_path_has_the_same_numbers(capability: str) -> None:
    """What the machine lacks is never run, whatever the variable asks for."""
    if not has(*NEEDS[capability]):
        pytest.skip(f"this processor has no {capability}")
    assert in_a_process(CLEAR_DIST_CPU=capability) == capability


@pytest.mark.slow
def test_the_widest_vectors_on_any_machine(tmp_path: Path) -> None:
    """Vectors of 16, as AVX-512 has them, lowered by the compiler to what this machine has."""
    if CXX is None:
        pytest.skip("needs a C++ compiler")
    from torch.utils.cpp_extension import include_paths, library_paths

    flags = "-O1 -g0 -w -std=c++20 -fPIC -Wno-psabi -ffp-contract=fast".split()
    flags.append("-DTORCH_TARGET_VERSION=0x020b000000000000")
    wide = [*flags, "-DCLEAR_DIST_LANES=16", "-DCLEAR_DIST_CAPABILITY=widest"]
    wide += ["-mavx2", "-mfma"] if has("avx2", "fma") else []
    headers = [f"-I{path}" for path in include_paths()]
    sources = {"bindings": [*flags, *headers], "cpu_rows": wide, "cpu_rows_grad": wide, "cpu_others": wide}

    def build(name: str) -> str:
        made = str(tmp_path / f"{name}.o")
        command = [str(CXX), *sources[name], "-c", str(ROOT / "csrc" / f"{name}.cpp"), "-o", made]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[:4000]
        return made

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(build, sources))
    # Whichever path the bindings choose, it is this one.
    aliases = [f"-Wl,--defsym=_ZN10clear_dist{4 + len(n)}cpu_{n}E=_ZN10clear_dist10cpu_widestE" for n in NEEDS]
    torch_itself = [*(f"-L{path}" for path in library_paths()), "-ltorch_cpu", "-ltorch"]
    subprocess.run([CXX, "-shared", *aliases, *objects, *torch_itself, "-o", str(tmp_path / "_C.so")], check=True)
    assert in_a_process(tmp_path) == "widest"


def main(arguments: list[str]) -> None:
    if arguments:
        native.PACKAGE = Path(arguments[0])
    compared = right_numbers()
    print(native.cpu_capability(), compared)


if __name__ == "__main__":
    main(sys.argv[1:])
