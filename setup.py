"""The native extension, and nothing else: metadata lives in pyproject.toml.

Built when ``csrc/`` holds sources, against torch's stable ABI, so that one binary serves several torch versions.
Build without isolation (``pip install --no-build-isolation .``) so that the torch that will run it is found.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from setuptools import Extension, setup


def native() -> dict[str, Any]:
    """Arguments of ``setup`` for the extension; empty without sources."""
    root = Path(__file__).resolve().parent
    sources = sorted(str(path.relative_to(root)) for path in root.glob("csrc/*.cpp"))
    if not sources:
        return {}
    try:
        from torch.utils.cpp_extension import BuildExtension, include_paths, library_paths
    except ImportError as error:
        raise SystemExit("csrc/ needs torch at build time: pip install --no-build-isolation") from error
    extension = Extension(
        "clear_dist._C",
        sources,
        include_dirs=include_paths(),
        library_dirs=library_paths(),
        language="c++",
        extra_compile_args=["-O3", "-fopenmp", "-std=c++20", "-DTORCH_TARGET_VERSION=0x020b000000000000"],
        extra_link_args=["-fopenmp", "-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu", "-lc10"],
    )
    return {
        "ext_modules": [extension],
        "cmdclass": {"build_ext": BuildExtension.with_options(no_python_abi_suffix=True)},
    }


setup(**native())
