"""The build of the native extension: what is missing or fails is said and kept, and never stops an installation; wheels
hold what they should; the CUDA kernels compile for every architecture without spilling registers."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

NVCC = os.environ.get("CLEAR_DIST_NVCC") or shutil.which("nvcc")
KERNELS = ("distance", "l1", "rows_grad", "rows_stats")

# Compilers that answer --version and then do what a test wants: 'works' leaves an empty file, 'breaks' complains.
FAKE = """#!/bin/sh
case "$*" in
*--version*) echo "fake 1.0, release 13.0, V13.0.1"; exit 0 ;;
*--dryrun*) echo '#$ TOP=/nowhere/bin/..'; exit 0 ;;
*--list-gpu-code*) echo 'sm_80 sm_90'; exit 0 ;;
esac
{failure}
while [ $# -gt 1 ]; do [ "$1" = -o ] && : > "$2"; shift; done
"""


# As much of torch as a build asks for: importing the real one takes longer than all else.
FAKE_TORCH = {
    "__init__.py": "__version__ = '2.13.0'",
    "utils/__init__.py": "",
    "utils/cpp_extension.py": "include_paths = library_paths = lambda: ['/nowhere']",
}


def fake(path: Path, failure: str = "") -> str:
    path.write_text(FAKE.format(failure=failure))
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def tree(root: Path, tmp_path: Path) -> Path:
    """The least of the project that installs, with an older library lying in it."""
    folder = tmp_path / "tree"
    shutil.copytree(root / "csrc", folder / "csrc")
    (folder / "clear_dist").mkdir()
    for name in (
        "setup.py",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "clear_dist/__init__.py",
        "clear_dist/errors.py",
    ):
        shutil.copy(root / name, folder / name)
    (folder / "clear_dist" / "_C.so").write_text("of an older build")
    for name, text in FAKE_TORCH.items():
        (tmp_path / "python" / "torch" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "python" / "torch" / name).write_text(text)
    return folder


def run(tree: Path, *arguments: str, **environment: str) -> str:
    """A command of setup.py that must succeed, with a torch that only looks like one; what it printed."""
    environment.setdefault("PYTHONPATH", str(tree.parent / "python"))
    env = {k: v for k, v in os.environ.items() if k not in ("CXX", "CUDA_HOME") and not k.startswith("CLEAR_DIST_")}
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", *arguments],
        cwd=tree,
        env=env | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def report(tree: Path) -> dict[str, Any]:
    return json.loads((tree / "clear_dist" / "_C.build.json").read_text())


def not_built(tree: Path, printed: str) -> str:
    """The reason, which was printed once, is kept, and left no library behind."""
    kept = report(tree)
    assert kept["built"] is False and kept["cuda"] is None and not (tree / "clear_dist" / "_C.so").exists()
    assert printed.count("native ops are NOT built") == 1 and kept["reason"] in printed
    return kept["reason"]


def test_without_a_compiler(tree: Path) -> None:
    printed = run(tree, "build_ext", "--inplace", CC="/nowhere/cc", CXX="/nowhere/c++")
    assert "'/nowhere/c++' cannot be run" in not_built(tree, printed)
    printed = run(tree, "build_ext", "--inplace", PATH="/nowhere")
    assert "no C++ compiler found" in not_built(tree, printed)


def test_without_torch(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "python" / "torch" / "__init__.py").write_text("raise ImportError('No module named torch')")
    printed = run(tree, "build_ext", "--inplace", CXX=fake(tmp_path / "c++"), CLEAR_DIST_CUDA="0")
    assert "--no-build-isolation" in not_built(tree, printed)


def test_a_compiler_that_fails(tree: Path, tmp_path: Path) -> None:
    compiler = fake(tmp_path / "c++", failure='case "$*" in *cpu_rows.cpp*) echo "this is wrong"; exit 1 ;; esac')
    printed = run(tree, "build_ext", "--inplace", CXX=compiler, CLEAR_DIST_CUDA="0")
    assert not_built(tree, printed) == "compiling cpu_rows.cpp fails, see build/native/build.log"
    log = (tree / "build" / "native" / "build.log").read_text()
    assert "this is wrong" in log and "# exit 1" in log


def test_a_linker_that_fails(tree: Path, tmp_path: Path) -> None:
    compiler = fake(tmp_path / "c++", failure='case "$*" in *-shared*) exit 1 ;; esac')
    assert "linking fails" in not_built(tree, run(tree, "build_ext", "--inplace", CXX=compiler, CLEAR_DIST_CUDA="0"))


@pytest.mark.parametrize("nvcc", ["absent", "refused", "broken", "works"])
def test_cuda_that_is_missing_or_fails_costs_the_cuda_kernels_only(tree: Path, tmp_path: Path, nvcc: str) -> None:
    failure = 'case "$*" in *l1.cu*) exit 1 ;; esac' if nvcc == "broken" else ""
    path = "/nowhere/nvcc" if nvcc == "absent" else fake(tmp_path / "nvcc", failure)
    on = {"CLEAR_DIST_CUDA": "0"} if nvcc == "refused" else {}
    printed = run(tree, "build_ext", "--inplace", CXX=fake(tmp_path / "c++"), CLEAR_DIST_NVCC=path, **on)
    kept = report(tree)
    assert kept["built"] and kept["reason"] is None and (tree / "clear_dist" / "_C.so").exists()
    if nvcc == "works":
        assert kept["cuda"] == ["80", "90"] and kept["cuda_reason"] is None  # of the default, what nvcc knows
        return
    says = {"absent": "cannot be run", "refused": "CLEAR_DIST_CUDA is 0", "broken": "compiling l1.cu fails"}[nvcc]
    assert kept["cuda"] is None and says in kept["cuda_reason"] and says in printed


def test_only_what_changed_is_compiled_again(tree: Path, tmp_path: Path) -> None:
    def compiled() -> set[str]:
        run(tree, "build_ext", "--inplace", CXX=fake(tmp_path / "c++"), CLEAR_DIST_CUDA="0")
        commands = (tree / "build" / "native" / "build.log").read_text()
        return {Path(name).name for name in re.findall(r" -c (\S+)", commands)}

    everything = compiled()
    assert {"bindings.cpp", "cpu_rows.cpp"} <= everything
    assert compiled() == set()
    made = (tree / "build" / "native" / "cpu_rows.baseline.o").stat().st_mtime + 60
    os.utime(tree / "csrc" / "cpu_rows.cpp", (made, made))
    assert compiled() == {"cpu_rows.cpp"}


def test_wheel_and_source(tree: Path, tmp_path: Path) -> None:
    """A wheel has the library and the report, and says that it is for this machine and any Python; sources travel."""
    run(tree, "bdist_wheel", "-d", str(tmp_path), CXX=fake(tmp_path / "c++"), CLEAR_DIST_CUDA="0")
    (wheel,) = tmp_path.glob("*.whl")
    assert re.fullmatch(r"clear_dist-[\d.]+-py3-none-linux_\w+\.whl", wheel.name)
    with zipfile.ZipFile(wheel) as archive:
        assert {"clear_dist/_C.so", "clear_dist/_C.build.json"} <= set(archive.namelist())
        assert archive.read("clear_dist/_C.so") == b""  # the new one
        assert json.loads(archive.read("clear_dist/_C.build.json"))["built"] is True
        (tags,) = (name for name in archive.namelist() if name.endswith(".dist-info/WHEEL"))
        assert b"Root-Is-Purelib: false" in archive.read(tags)
    run(tree, "sdist", "-d", str(tmp_path))
    (source,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    assert {f"csrc/{path.name}" for path in (tree / "csrc").iterdir()} <= names and "clear_dist/_C.so" not in names


def test_a_wheel_of_a_failed_build_has_no_old_library(tree: Path, tmp_path: Path) -> None:
    run(tree, "bdist_wheel", "-d", str(tmp_path), CXX="/nowhere/c++")
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert "clear_dist/_C.so" not in archive.namelist()
        assert json.loads(archive.read("clear_dist/_C.build.json"))["built"] is False


def module(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("clear_dist_setup", root / "setup.py")
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules["clear_dist_setup"] = found
    spec.loader.exec_module(found)
    return found


def test_nothing_is_compiled_for_this_machine_alone(root: Path) -> None:
    setup = module(root)
    tasks = setup.cpu_tasks(["c++"], ["c++", *setup.COMMON], setup.Report())
    for task in tasks:
        flags = " ".join(task.command)
        assert "native" not in flags and "-march" not in flags and "-ffast-math" not in flags
        assert ("-mavx" in flags) == any(name in flags for name in ("=avx2", "=avx512"))
    for path in [root / "Makefile", root / ".ci" / "gpu", *(root / "csrc").iterdir()]:
        assert "march=native" not in path.read_text()


def compile_for(root: Path, folder: Path, arch: str, name: str) -> str:
    command = [str(NVCC), "-O3", "-std=c++17", "-Xptxas=-v", f"-arch=sm_{arch}", "-cubin", "-o", str(folder / name)]
    done = subprocess.run([*command, str(root / "csrc" / f"{name}.cu")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.skipif(NVCC is None, reason="needs nvcc")
@pytest.mark.parametrize(
    "arch", [pytest.param("80", marks=pytest.mark.slow), "90", pytest.param("100", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", KERNELS)
def test_cuda_kernels_do_not_spill(root: Path, tmp_path: Path, name: str, arch: str) -> None:
    assert {path.stem for path in (root / "csrc").glob("*.cu")} == set(KERNELS)
    said = compile_for(root, tmp_path, arch, name)
    assert "warning" not in said
    kernels = re.findall(
        r"entry function '(\w+)'[\s\S]*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
        r"[\s\S]*?Used (\d+) registers(?:.*?(\d+) bytes smem)?",
        said,
    )
    assert kernels
    for kernel, stack, stores, loads, registers, shared in kernels:
        short = re.sub(r"^.*?\d+_GLOBAL__N__\w*?_cu_[0-9a-f]{8}(?:_\d+)?", "", kernel)
        print(f"sm_{arch} {name} {short[:60]}: {registers} registers, {shared or 0} bytes shared")
        assert stores == loads == "0" and stack == "0", kernel


@pytest.mark.slow
def test_a_real_build_loads(tree: Path) -> None:
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("needs a C++ compiler")
    assert "native ops are built" in run(tree, "build_ext", "--inplace", CLEAR_DIST_CUDA="0", PYTHONPATH="")
    program = (
        "import torch; torch.ops.load_library('clear_dist/_C.so');"
        "z = torch.randn(3, 50); y = torch.tensor([0, 1, 49]);"
        "s, _ = torch.ops.clear_dist.row_stats(z, None, y, 1, 0, 0.0);"
        "assert torch.allclose(s[0], z.log_softmax(-1).gather(1, y[:, None])[:, 0], atol=1e-6)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tree, check=True)
