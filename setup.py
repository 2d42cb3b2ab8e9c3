"""Builds the extension: finds out whether OpenMP works, and compiles `_core.pyx` with the kernels of `csrc`."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# -ffp-contract=off: the kernels write out every FMA, so that a number has the same bits wherever it is computed.
# No fast-math in any form and no -march=native: see CONTRIBUTING.md.
CFLAGS = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fopenmp-simd", "-fno-tree-loop-distribute-patterns"]

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


def openmp_works(compiler) -> bool:
    """Compile, link and run a parallel region of two threads."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.c")
        source.write_text(OPENMP_PROBE)
        try:
            objects = compiler.compile([str(source)], output_dir="/" if os.name == "posix" else folder, extra_postargs=["-fopenmp"])
            program = str(Path(folder, "probe"))
            compiler.link_executable(objects, program, extra_postargs=["-fopenmp"])
            return subprocess.run([program], timeout=60).returncode == 0
        except Exception as error:  # any failure of a foreign compiler means: not here
            print(f"indygru_cpu: OpenMP probe: {error}", file=sys.stderr)
            return False


class BuildExt(build_ext):
    """Decides about OpenMP when the compiler is known."""

    def build_extensions(self) -> None:
        wish = os.environ.get("INDYGRU_CPU_OPENMP", "auto")
        if wish not in ("0", "1", "auto"):
            raise SystemExit(f"INDYGRU_CPU_OPENMP={wish!r}: expected 0, 1 or auto")
        openmp = wish != "0" and openmp_works(self.compiler)
        if wish == "1" and not openmp:
            raise SystemExit("INDYGRU_CPU_OPENMP=1, but this compiler cannot build and run an OpenMP program")
        if not openmp:
            print("*" * 80, "indygru_cpu: building WITHOUT OpenMP: everything will run on one thread", "*" * 80, sep="\n", file=sys.stderr)
        for extension in self.extensions:
            extension.extra_compile_args = CFLAGS + ["-fopenmp"] * openmp
            extension.extra_link_args = ["-fopenmp"] * openmp
        super().build_extensions()


def blas_headers() -> Path:
    """Return the folder of cblas.h: found without executing the package, which would load its library."""
    spec = importlib.util.find_spec("scipy_openblas32")
    if spec is None or spec.origin is None:
        raise SystemExit("indygru_cpu: building needs the package scipy-openblas32 (its cblas.h)")
    return Path(spec.origin).parent / "include"


kernels = sorted(str(path) for path in Path("indygru_cpu/csrc").glob("*.c"))
headers = sorted(str(path) for path in Path("indygru_cpu/csrc").glob("*.h"))
extension = Extension(
    "indygru_cpu._core",
    ["indygru_cpu/_core.pyx", *kernels],
    depends=[*headers, *map(str, Path("indygru_cpu").glob("_*.px[id]"))],
    include_dirs=["indygru_cpu/csrc", str(blas_headers())],
)
DIRECTIVES = {"language_level": 3, "boundscheck": False, "wraparound": False, "cdivision": True, "initializedcheck": False}
setup(ext_modules=cythonize([extension], compiler_directives=DIRECTIVES), cmdclass={"build_ext": BuildExt})
