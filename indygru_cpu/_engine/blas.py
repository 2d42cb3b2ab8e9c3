"""Opens a private copy of OpenBLAS with one thread and hands its two products to `_core`.

Importing `scipy_openblas32` would load the same library for the whole process and start its threads; a SciPy imported
later would then bind its own calls to it. So the package is found but not executed, and its library is opened for us
alone, with OPENBLAS_NUM_THREADS=1 set for just that moment: no thread starts, and nobody else sees it.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from glob import escape, glob

from indygru_cpu._engine import _core
from indygru_cpu._engine.environment import for_a_moment

#: Where a distribution keeps another cblas, and what its names begin with if it is not one of PREFIXES.
PATH_VARIABLE = "INDYGRU_CPU_BLAS"
PREFIX_VARIABLE = "INDYGRU_CPU_BLAS_PREFIX"
PREFIXES = ("scipy_", "")


def _find() -> str:
    if path := os.environ.get(PATH_VARIABLE):
        return path
    spec = importlib.util.find_spec("scipy_openblas32")
    if spec is None or spec.origin is None:
        raise ImportError(f"indygru_cpu needs the package scipy-openblas32, or {PATH_VARIABLE}=/path/to/libcblas.so")
    folder = os.path.join(os.path.dirname(spec.origin), "lib")  # not pathlib, which alone takes a tenth of an import
    libraries = sorted(glob(os.path.join(escape(folder), "*scipy_openblas*")))
    libraries = [path for path in libraries if path.endswith((".so", ".dylib", ".dll"))]
    if not libraries:
        raise ImportError(f"indygru_cpu: no library in {folder}: reinstall scipy-openblas32")
    return libraries[0]


class Blas:
    """The opened library: its path, the prefix of its names, and what it says of itself."""

    def __init__(self) -> None:
        self.path = _find()
        try:
            with for_a_moment("OPENBLAS_NUM_THREADS", "1"):
                self._library = ctypes.CDLL(self.path, mode=getattr(ctypes, "RTLD_LOCAL", 0))
        except OSError as error:
            raise ImportError(f"indygru_cpu: cannot open the BLAS library {self.path}: {error}") from error
        given = os.environ.get(PREFIX_VARIABLE)
        prefixes = PREFIXES if given is None else (given,)
        found = [prefix for prefix in prefixes if hasattr(self._library, f"{prefix}cblas_sgemm")]
        if not found:
            names = " or ".join(f"{prefix}cblas_sgemm" for prefix in prefixes)
            raise ImportError(f"indygru_cpu: {self.path} has no {names}; set {PREFIX_VARIABLE} to its prefix")
        self.prefix = found[0]
        _core.use_blas(
            self._address("cblas_sgemm"), self._address("cblas_dgemm"),
            self._address("openblas_get_num_threads"), self._address("openblas_set_num_threads"),
        )  # fmt: skip

    def _address(self, name: str) -> int:
        """Of a function of the library; 0 if it has none of this name, as others than OpenBLAS have no openblas_..."""
        function = getattr(self._library, self.prefix + name, None)
        return ctypes.cast(function, ctypes.c_void_p).value or 0 if function else 0

    @property
    def version(self) -> str:
        """The configuration string of an OpenBLAS; of another library, just "unknown"."""
        try:
            function = getattr(self._library, self.prefix + "openblas_get_config")
        except AttributeError:
            return "unknown"
        function.restype = ctypes.c_char_p
        return str(function().decode().strip())

    @property
    def threads(self) -> int | None:
        """Threads that the library uses for one product: 1, or None if it does not say."""
        try:
            return int(getattr(self._library, self.prefix + "openblas_get_num_threads")())
        except AttributeError:
            return None


blas = Blas()
