"""Builds the extension: finds out whether OpenMP works, and compiles `_core.pyx` with the kernels of `csrc`."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

# -ffp-contract=off: the kernels write out every FMA, so that a number has the same bits wherever it is computed.
# fast-math in any form and -march=native are forbidden: docs/design.md says why.
CFLAGS = [
    "-O3",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=off",
    "-fopenmp-simd",
]
# Copies of a few vectors stay vector instructions instead of calls of memcpy. Clang does not know this flag.
GCC_CFLAGS = ["-fno-tree-loop-distribute-patterns"]
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
}
#: Compilers that run at the same time, each of which needs up to 0.4 GB.
MAX_COMPILERS = 4
OPENMP_PROBE = """
#include <omp.h>
int main(void)
{
    int n = 0;
#pragma omp parallel num_threads(2) reduction(+ : n)
    n += 1;
    return n == 2 && omp_get_max_threads() > 0 ? 0 : 1;
}
"""
SERIAL_WARNING = """
********************************************************************************
indygru_cpu: building WITHOUT OpenMP: every call will run on one thread
********************************************************************************
"""


def flags_known(compiler: Any, flags: list[str]) -> list[str]:
    """Return the flags if the compiler accepts them, otherwise none."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "empty.c")
        source.touch()
        try:
            compiler.compile([str(source)], output_dir=folder, extra_postargs=flags)
            return flags
        except CompileError:
            print(f"indygru_cpu: built without {' '.join(flags)}: this compiler does not know it", file=sys.stderr)
            return []


def openmp_works(compiler: Any) -> bool:
    """Compile, link and run a parallel region of two threads."""
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder, "probe.c"), Path(folder, "probe")
        source.write_text(OPENMP_PROBE)
        try:
            objects = compiler.compile([str(source)], output_dir=folder, extra_postargs=["-fopenmp"])
            compiler.link_executable(objects, str(program), extra_postargs=["-fopenmp"])
            environment = {key: value for key, value in os.environ.items() if not key.startswith("OMP_")}
            return subprocess.run([program], timeout=60, env=environment).returncode == 0
        except Exception as error:  # any failure of the compiler or the program means that OpenMP does not work
            print(f"indygru_cpu: OpenMP probe: {error}", file=sys.stderr)
            return False


def wants_openmp(compiler: Any) -> bool:
    """Decide by INDYGRU_CPU_OPENMP and the probe."""
    setting = os.environ.get("INDYGRU_CPU_OPENMP", "auto")
    if setting not in ("0", "1", "auto"):
        raise SystemExit(f"INDYGRU_CPU_OPENMP={setting!r}: expected 0, 1 or auto")
    works = setting != "0" and openmp_works(compiler)
    if setting == "1" and not works:
        raise SystemExit("INDYGRU_CPU_OPENMP=1, but this compiler cannot build and run an OpenMP program")
    return works


def available_processors() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class BuildExt(build_ext):
    """Chooses the flags once setuptools has chosen the compiler."""

    def build_extensions(self) -> None:
        """Build with OpenMP, or without it and with a warning."""
        openmp = ["-fopenmp"] if wants_openmp(self.compiler) else []
        if not openmp:
            print(SERIAL_WARNING, file=sys.stderr)
        flags = CFLAGS + flags_known(self.compiler, GCC_CFLAGS) + openmp
        for extension in self.extensions:
            extension.extra_compile_args = flags
            extension.extra_link_args = openmp
        super().build_extensions()

    def build_extension(self, ext: Extension) -> None:
        """Compile several sources at the same time: setuptools compiles the sources of an extension in turn."""
        compile_in_turn = self.compiler.compile

        def compile_together(sources: list[str], **options: Any) -> list[str]:
            with ThreadPoolExecutor(min(available_processors(), MAX_COMPILERS)) as executor:
                objects = executor.map(lambda source: compile_in_turn([source], **options), sources)
                return [name for names in objects for name in names]

        self.compiler.compile = compile_together
        try:
            super().build_extension(ext)
        finally:
            self.compiler.compile = compile_in_turn


def blas_headers() -> Path:
    """Return the folder of cblas.h, without importing the package, which would load its library."""
    spec = importlib.util.find_spec("scipy_openblas32")
    if spec is None or spec.origin is None:
        raise SystemExit("indygru_cpu: building needs the package scipy-openblas32 (its cblas.h)")
    return Path(spec.origin).parent / "include"


def files(pattern: str) -> list[str]:
    """Return the files of the package that match, in a fixed order."""
    return sorted(path.as_posix() for path in Path("indygru_cpu").glob(pattern))


core = Extension(
    "indygru_cpu._engine._core",
    ["indygru_cpu/_engine/_core.pyx", *files("_engine/csrc/*.c")],
    depends=[*files("_engine/csrc/*.h"), *files("_engine/include/*.h"), *files("**/*.pxd")],
    include_dirs=["indygru_cpu/_engine/csrc", "indygru_cpu/_engine/include", str(blas_headers())],
)
setup(ext_modules=cythonize([core], compiler_directives=DIRECTIVES), cmdclass={"build_ext": BuildExt})
