"""Loads a private copy of OpenBLAS with one thread and passes its two matrix products to `_core`.

Importing `scipy_openblas32` would load the same library for the whole process and start its threads, and a SciPy that
is imported later would bind its own calls to it. Therefore the package is located but not executed, and its library is
opened with local symbols. OPENBLAS_NUM_THREADS=1 is set only while it is opened, so it starts no threads and other
libraries do not see the variable.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from glob import escape, glob

from indygru_cpu._engine import _core
from indygru_cpu._engine.environment import temporary_variable

#: Environment variables: the path of another cblas library, and the prefix of its functions if not in PREFIXES.
PATH_VARIABLE = "INDYGRU_CPU_BLAS"
PREFIX_VARIABLE = "INDYGRU_CPU_BLAS_PREFIX"
PREFIXES = ("scipy_", "")


def _library_path() -> str:
    if path := os.environ.get(PATH_VARIABLE):
        return path
    spec = importlib.util.find_spec("scipy_openblas32")
    if spec is None or spec.origin is None:
        raise ImportError(f"indygru_cpu needs the package scipy-openblas32, or {PATH_VARIABLE}=/path/to/libcblas.so")
    folder = os.path.join(os.path.dirname(spec.origin), "lib")  # pathlib would add a tenth to the import time
    libraries = sorted(glob(os.path.join(escape(folder), "*scipy_openblas*")))
    libraries = [path for path in libraries if path.endswith((".so", ".dylib", ".dll"))]
    if not libraries:
        raise ImportError(f"indygru_cpu: no library in {folder}: reinstall scipy-openblas32")
    return libraries[0]


class Blas:
    """The opened library: its path, the prefix of its functions, its version and its number of threads."""

    def __init__(self) -> None:
        self.path = _library_path()
        try:
            with temporary_variable("OPENBLAS_NUM_THREADS", "1"):
                self._library = ctypes.CDLL(self.path, mode=getattr(ctypes, "RTLD_LOCAL", 0))
        except OSError as error:
            raise ImportError(f"indygru_cpu: cannot open the BLAS library {self.path}: {error}") from error
        configured = os.environ.get(PREFIX_VARIABLE)
        prefixes = PREFIXES if configured is None else (configured,)
        matching = [prefix for prefix in prefixes if hasattr(self._library, f"{prefix}cblas_sgemm")]
        if not matching:
            names = " or ".join(f"{prefix}cblas_sgemm" for prefix in prefixes)
            raise ImportError(f"indygru_cpu: {self.path} has no {names}; set {PREFIX_VARIABLE} to its prefix")
        self.prefix = matching[0]
        _core.use_blas(
            self._address("cblas_sgemm"), self._address("cblas_dgemm"),
            self._address("openblas_get_num_threads"), self._address("openblas_set_num_threads"),
        )  # fmt: skip

    def _address(self, name: str) -> int:
        """The address of a function of the library; 0 if it is missing, as openblas_* are in other libraries."""
        function = getattr(self._library, self.prefix + name, None)
        return ctypes.cast(function, ctypes.c_void_p).value or 0 if function else 0

    @property
    def version(self) -> str:
        """The configuration string of OpenBLAS; "unknown" for another library."""
        try:
            function = getattr(self._library, self.prefix + "openblas_get_config")
        except AttributeError:
            return "unknown"
        function.restype = ctypes.c_char_p
        return str(function().decode().strip())

    @property
    def threads(self) -> int | None:
        """Threads that the library uses for one product; None for a library other than OpenBLAS."""
        try:
            return int(getattr(self._library, self.prefix + "openblas_get_num_threads")())
        except AttributeError:
            return None


blas = Blas()
