"""Print whether an OpenMP library is loaded if and only if the extension was built with OpenMP."""

from __future__ import annotations

from pathlib import Path

from indygru_cpu._engine import _core

maps = Path("/proc/self/maps").read_text()
is_loaded = any(name in maps for name in ("libgomp", "libomp", "libiomp"))
print(is_loaded == bool(_core.openmp_threads()))
