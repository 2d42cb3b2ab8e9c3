"""Where and with what the numbers were measured: it stands beside every number."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from indygru_cpu import __version__
from indygru_cpu._engine import _core

PACKAGES = ("numpy", "scipy-openblas32", "numba", "jax", "torch", "onnxruntime", "openvino", "scikit-learn")


def processor() -> str:
    """The processor's name, as the system tells it."""
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found.group(1) if found else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Of this package, of Python and of those of `PACKAGES` that are installed."""
    found = {"indygru_cpu": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]  # type: ignore[index]
    return {**found, "numpy's BLAS": f"{blas['name']} {blas['version']}"}


def commit() -> str:
    """The source's, with a plus sign if it was changed since; "unknown" outside a clone."""
    try:
        command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
        return subprocess.run(
            command, cwd=Path(__file__).parent, check=True, capture_output=True, text=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def machine(threads: int) -> dict[str, Any]:
    """All of it, ready for JSON."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "commit": commit(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "tier": _core.tier_in_use(),
        "threads": threads,
        "versions": versions(),
    }


def as_text(found: dict[str, Any]) -> str:
    """The same as one sentence."""
    installed = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    return (
        f"{found['processor']}, {found['cores']} cores, {found['system']}, tier {found['tier']}, "
        f"{found['threads']} threads; {installed}; commit {found['commit']}, {found['date']}"
    )


def slug(found: dict[str, Any]) -> str:
    """The machine's name in a file's."""
    name = f"{found['processor']} {found['cores']} cores {found['tier']}"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
