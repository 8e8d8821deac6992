"""The native extension, and nothing else: metadata lives in pyproject.toml.

``csrc/`` becomes one shared object, ``clear_dist/_C.so``, on torch's stable ABI: one binary for several releases of
torch and of Python, loaded with ``torch.ops.load_library``. Build without isolation, so that torch is found:
``pip install --no-build-isolation .``. Neither a compiler nor nvcc is required. Whatever is missing or fails, the
package installs, one message says why, and ``clear_dist/_C.build.json`` keeps it for the program to repeat.

Environment:
    CXX                    the C++ compiler (GCC 11 or newer, or Clang).
    CLEAR_DIST_CUDA        0: no CUDA kernels, even where nvcc is.
    CLEAR_DIST_NVCC        nvcc; else $CUDA_HOME/bin/nvcc, else the one on PATH.
    CLEAR_DIST_CUDA_ARCHS  compute capabilities, e.g. "80;90" (default: 80, 90, 100, as far as nvcc knows them). Newer
                           devices compile the last one's PTX when the program starts.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
WORK = ROOT / "build" / "native"  # objects, for the next build to take up, and the log
LOG = WORK / "build.log"
LIBRARY, REPORT = "_C.so", "_C.build.json"
ARCHS = ("80", "90", "100")
TARGET = "-DTORCH_TARGET_VERSION=0x020b000000000000"  # the oldest torch the library loads into: 2.11
# Infinities and NaN are part of the contract: no -ffast-math. What is built here may run elsewhere: nothing of this
# machine's own (the CPU kernels are compiled for three capabilities, and the program picks one).
COMMON = ("-O3", "-std=c++20", "-fPIC", "-fvisibility=hidden", "-fvisibility-inlines-hidden")
VECTOR = ("-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
CAPABILITIES: Mapping[str, tuple[str, ...]] = {
    "baseline": (),
    "avx2": ("-mavx2", "-mfma"),
    "avx512": ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma"),
}


class NotBuiltError(Exception):
    """Why there are no native ops, or no CUDA kernels: one sentence for whoever installs."""


@dataclass(frozen=True)
class Task:
    """A source to compile, its object, and the command without the two."""

    source: Path
    object: Path
    command: tuple[str, ...]


@dataclass
class Report:
    """What ``_C.build.json`` says; the loader of the ops reads it."""

    built: bool = False
    reason: str | None = None
    capabilities: list[str] = field(default_factory=list)
    cuda: list[str] | None = None
    cuda_reason: str | None = None
    compiler: str | None = None
    nvcc: str | None = None
    torch: str | None = None


def output_of(command: Sequence[str], what: str) -> str:
    """Standard output and errors together; NotBuiltError where the command cannot be run."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)
    except OSError as error:
        raise NotBuiltError(f"{what} {command[0]!r} cannot be run ({error.strerror})") from None
    except subprocess.CalledProcessError as error:
        raise NotBuiltError(f"{what} fails: {shlex.join(command)}: {error.stdout.strip()[-300:]}") from None
    return done.stdout


def find_compiler() -> tuple[list[str], str]:
    """The C++ compiler's command, and its name and version."""
    found = os.environ.get("CXX") or next(filter(None, map(shutil.which, ("g++", "c++", "clang++"))), None)
    if found is None:
        raise NotBuiltError("no C++ compiler found (g++, c++ or clang++): install one, or name it in CXX")
    command = shlex.split(found)
    return command, output_of([*command, "--version"], "the C++ compiler").splitlines()[0]


def find_torch() -> tuple[str, list[str], list[str]]:
    """Torch's version, its include folders and its library folders."""
    try:
        import torch
        from torch.utils.cpp_extension import include_paths, library_paths
    except ImportError as error:
        raise NotBuiltError(
            f"torch cannot be imported at build time ({error}): install torch, then build with --no-build-isolation"
        ) from None
    return str(torch.__version__), include_paths(), library_paths()


def find_nvcc() -> tuple[str, str, Path, list[str]]:
    """nvcc, its version, its toolkit's folder, and the compute capabilities to compile for."""
    if os.environ.get("CLEAR_DIST_CUDA") == "0":
        raise NotBuiltError("CLEAR_DIST_CUDA is 0")
    home = os.environ.get("CUDA_HOME")
    nvcc = (
        os.environ.get("CLEAR_DIST_NVCC")
        or (home and shutil.which(str(Path(home) / "bin" / "nvcc")))
        or shutil.which("nvcc")
    )
    if not nvcc:
        raise NotBuiltError("no nvcc found: put it on PATH, or set CUDA_HOME or CLEAR_DIST_NVCC")
    version = re.search(r"V([\d.]+)", output_of([nvcc, "--version"], "nvcc"))
    toolkit = re.search(r"TOP=(\S+)", output_of([nvcc, "--dryrun", "-c", "x.cu"], "nvcc"))
    known = output_of([nvcc, "--list-gpu-code"], "nvcc").split()
    archs = re.findall(r"\d+[af]?", os.environ.get("CLEAR_DIST_CUDA_ARCHS", "").replace(".", ""))
    archs = archs or [arch for arch in ARCHS if f"sm_{arch}" in known]
    if version is None or toolkit is None or not archs:
        raise NotBuiltError(f"{nvcc} is not understood: is it NVIDIA's, of CUDA 12 or newer?")
    return nvcc, version[1], Path(toolkit[1]).resolve(), archs


def cpu_tasks(compiler: Sequence[str], plain: Sequence[str], report: Report) -> list[Task]:
    """The bindings once, the CPU kernels once for every capability of this kind of machine."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    report.capabilities = list(CAPABILITIES) if x86 else ["baseline"]
    tasks = [Task(ROOT / "csrc" / "bindings.cpp", WORK / "bindings.o", tuple(plain))]
    for name in report.capabilities:
        command = (*compiler, *COMMON, *VECTOR, *CAPABILITIES[name], f"-DCLEAR_DIST_CAPABILITY={name}")
        tasks += [Task(path, WORK / f"{path.stem}.{name}.o", command) for path in sorted(ROOT.glob("csrc/cpu_*.cpp"))]
    return tasks


def cuda_tasks(compiler: Sequence[str], plain: Sequence[str], report: Report) -> tuple[list[Task], list[str]]:
    """The CUDA kernels and their bindings, and what the linker needs for them."""
    nvcc, report.nvcc, toolkit, report.cuda = find_nvcc()
    host = next(word for word in reversed(compiler) if not word.startswith("-"))
    newest = report.cuda[-1].rstrip("af")
    code = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in report.cuda]
    code.append(f"-gencode=arch=compute_{newest},code=compute_{newest}")
    command = (nvcc, "-O3", "-std=c++17", "--threads=0", "-Xcompiler=-fPIC,-fvisibility=hidden", "-ccbin", host, *code)
    sources = sorted(ROOT.glob("csrc/*.cu"), reverse=True)  # rows_* take longest: first
    tasks = [Task(path, WORK / f"{path.stem}.cuda.o", command) for path in sources]
    tasks.append(Task(ROOT / "csrc" / "bindings_cuda.cpp", WORK / "bindings_cuda.o", tuple(plain)))
    folders = [path for path in (toolkit / "lib64", toolkit / "lib") if path.is_dir()]
    return tasks, [*(f"-L{path}" for path in folders), "-lcudart_static", "-ldl", "-lrt", "-lpthread"]


def call(command: Sequence[str]) -> bool:
    """Run a compiler; the command and all it says go to the log."""
    start = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    with LOG.open("a") as log:
        print(
            f"$ {shlex.join(command)}\n{done.stdout}# exit {done.returncode}, {time.monotonic() - start:.1f} s",
            file=log,
        )
    return done.returncode == 0


def compiled(task: Task, versions: str) -> bool:
    """Bring an object up to date: it is, while command and versions are the same and no source is newer."""
    command = [*task.command, "-c", str(task.source), "-o", str(task.object)]
    key, stamp = f"{versions}\n{shlex.join(command)}", task.object.with_suffix(".cmd")
    inputs = [task.source, *ROOT.glob("csrc/*.h"), *ROOT.glob("csrc/*.cuh")]
    if task.object.exists() and stamp.exists() and stamp.read_text() == key:
        made = task.object.stat().st_mtime
        if all(path.stat().st_mtime < made for path in inputs):
            return True
    stamp.unlink(missing_ok=True)
    done = call(command)
    if done:
        stamp.write_text(key)
    return done


def compile_all(tasks: Sequence[Task], versions: str) -> set[str]:
    """Compile what is not up to date, on all cores, begun in this order; the names of the sources that fail."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done = list(pool.map(lambda task: compiled(task, versions), tasks))
    return {task.source.name for task, fine in zip(tasks, done, strict=True) if not fine}


def link(library: Path, command: Sequence[str], tasks: Sequence[Task], options: Sequence[str]) -> bool:
    """Objects to library. Nothing but what asks for it is visible (the CUDA runtime least of all); a missing symbol
    shows here, not when the library is loaded; a program that has the old one open keeps it."""
    temporary = library.with_name(f"{LIBRARY}.{os.getpid()}")
    flags = ("-shared", "-Wl,--exclude-libs,ALL", "-Wl,-z,defs")
    done = call([*command, *(str(task.object) for task in tasks), *flags, *options, "-o", str(temporary)])
    if done:
        temporary.replace(library)
    temporary.unlink(missing_ok=True)
    return done


def build(library: Path, report: Report) -> None:
    """Compile and link, and fill in the report; NotBuiltError where there will be no library. CUDA that fails costs the
    CUDA kernels only."""
    if sys.platform != "linux":
        raise NotBuiltError(f"native ops are for Linux, this is {sys.platform}")
    compiler, report.compiler = find_compiler()
    report.torch, includes, libraries = find_torch()
    plain = [*compiler, *COMMON, TARGET, *(f"-I{path}" for path in includes)]
    torch = [*(f"-L{path}" for path in libraries), "-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu", "-lc10"]
    cpu, cuda, runtime = cpu_tasks(compiler, plain, report), [], []
    try:
        cuda, runtime = cuda_tasks(compiler, plain, report)
    except NotBuiltError as error:
        report.cuda_reason = str(error)
    versions = f"torch {report.torch}, {report.compiler}, nvcc {report.nvcc}"
    failed = compile_all([*cuda, *cpu], versions)  # nvcc takes longest: first
    log = f"see {LOG.relative_to(ROOT)}"
    if stopped := sorted(failed & {task.source.name for task in cpu}):
        raise NotBuiltError(f"compiling {', '.join(stopped)} fails, {log}")
    if cuda:
        if failed:
            report.cuda_reason = f"compiling {', '.join(sorted(failed))} fails, {log}"
        elif link(library, compiler, [*cpu, *cuda], [*runtime, *torch]):
            return
        else:
            report.cuda_reason = f"linking the CUDA kernels fails, {log}"
        report.cuda = None
    if not link(library, compiler, cpu, torch):
        raise NotBuiltError(f"linking fails, {log}")


class Native(build_ext):
    """``build_ext`` for the one library; in place for an editable install, as with any extension."""

    def run(self) -> None:
        folder = (ROOT if self.inplace else Path(self.build_lib)) / "clear_dist"
        folder.mkdir(parents=True, exist_ok=True)
        WORK.mkdir(parents=True, exist_ok=True)
        LOG.write_text("")
        report = Report()
        try:
            build(folder / LIBRARY, report)
            report.built = True
            cuda = f"CUDA kernels for {', '.join(report.cuda)}" if report.cuda else f"no CUDA: {report.cuda_reason}"
            print(f"clear_dist: native ops are built ({', '.join(report.capabilities)}; {cuda})", file=sys.stderr)
        except NotBuiltError as error:
            (folder / LIBRARY).unlink(missing_ok=True)  # an older one would be a silent success
            report.reason, report.capabilities, report.cuda = str(error), [], None
            print(f"clear_dist: native ops are NOT built: {error}. All works without them, slower.", file=sys.stderr)
        (folder / REPORT).write_text(json.dumps(asdict(report), indent=2) + "\n")

    def get_outputs(self) -> list[str]:
        return [] if self.inplace else list(self.get_output_mapping())

    def get_output_mapping(self) -> dict[str, str]:
        """Built file -> file of the source tree, for those that there are."""
        pairs = [(Path(self.build_lib) / "clear_dist" / name, Path("clear_dist") / name) for name in (LIBRARY, REPORT)]
        return {str(made): str(kept) for made, kept in pairs if (ROOT / kept if self.inplace else made).exists()}


class Wheel(bdist_wheel):
    """Tagged for the machine, and for any Python 3: the library uses nothing of Python's own interface."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


if __name__ == "__main__":
    native = Extension(
        "clear_dist._C",
        sources=sorted(
            str(path.relative_to(ROOT)) for path in ROOT.glob("csrc/*.c*") if path.suffix in (".cpp", ".cu")
        ),
        depends=sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("csrc/*.*h")),
    )
    setup(ext_modules=[native], cmdclass={"build_ext": Native, "bdist_wheel": Wheel})
