"""`indygru-cpu info`: the build, the machine's capabilities, and the settings in use."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

import numpy as np

from indygru_cpu import __version__
from indygru_cpu._engine import _core
from indygru_cpu._engine import threads as thread_counts
from indygru_cpu._engine.blas import blas

#: Shown for a build without OpenMP, whose results are the same but slower.
SERIAL_WARNING = (
    "WARNING: built without OpenMP, so every call runs on one thread. Install again with a compiler that has "
    "OpenMP; INDYGRU_CPU_OPENMP=1 makes the build fail if there is none."
)


def processor() -> str:
    """Return the name of the processor."""
    try:
        match = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf8", errors="replace"))
    except OSError:
        match = None
    return match.group(1) if match else platform.processor() or platform.machine()


def info() -> dict[str, Any]:
    """Return everything shown, as values that JSON can represent."""
    threads = thread_counts.default()
    maximum = _core.openmp_threads()
    return {
        "version": __version__,
        "tier": {"in_use": _core.tier_in_use(), "available": list(_core.tiers())},
        "openmp": {"built_in": maximum > 0, "maximum": maximum},
        "threads": {
            "count": threads.count,
            "reason": threads.reason,
            "chosen_up_to_count": thread_counts.requested(None) is None,
        },
        "l2_bytes": _core.l2_bytes(),
        "blas": {"version": blas.version, "path": blas.path, "threads": blas.threads},
        "numpy": np.__version__,
        "python": platform.python_version(),
        "processor": {"name": processor(), "count": os.cpu_count()},
        "system": platform.platform(),
    }


def as_text(values: dict[str, Any]) -> str:
    """Format the values of `info` as text."""
    tier, openmp, threads, blas_ = values["tier"], values["openmp"], values["threads"], values["blas"]
    lines = {
        "indygru_cpu": values["version"],
        "tier": f"{tier['in_use']} (this machine supports {', '.join(tier['available'])})",
        "OpenMP": f"yes, at most {openmp['maximum']} threads" if openmp["built_in"] else "NO",
        "threads": f"{'at most ' * threads['chosen_up_to_count']}{threads['count']} (decided by: {threads['reason']})",
        "L2 cache": f"{values['l2_bytes'] // 1024} KB per core" if values["l2_bytes"] else "unknown",
        "BLAS": blas_["version"],
        "BLAS path": blas_["path"],
        "NumPy": values["numpy"],
        "Python": values["python"],
        "processor": f"{values['processor']['name']}, {values['processor']['count']} logical processors",
        "system": values["system"],
    }
    text = "\n".join(f"{name:<12} {value}" for name, value in lines.items())
    return text if openmp["built_in"] else f"{SERIAL_WARNING}\n\n{text}"
