"""The machine, the versions and the commit of a measurement; every table names them."""

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
from indygru_cpu._cli.info import processor
from indygru_cpu._engine import _core

PACKAGES = ("numpy", "scipy-openblas32", "numba", "jax", "torch", "onnxruntime", "openvino", "tract", "scikit-learn")


def versions() -> dict[str, str]:
    """Versions of this package, of Python and of the installed ones of `PACKAGES`."""
    installed = {"indygru_cpu": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]  # type: ignore[index]
    return {**installed, "numpy's BLAS": f"{blas['name']} {blas['version']}"}


def commit() -> str:
    """Commit of the source, with a plus sign if the tree has changes; "unknown" outside a clone."""
    try:
        command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
        return subprocess.run(
            command, cwd=Path(__file__).parent, check=True, capture_output=True, text=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def machine(threads: int) -> dict[str, Any]:
    """All of it, as a dictionary for JSON."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "tier": _core.tier_in_use(),
        "threads": threads,
        "versions": versions(),
    }


def as_text(record: dict[str, Any]) -> str:
    """The dictionary as one sentence."""
    threads = "1 thread" if record["threads"] == 1 else f"{record['threads']} threads"
    installed = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    return (
        f"{record['processor']}, {record['cores']} cores, {record['system']}, tier {record['tier']}, "
        f"{threads}; {installed}; commit {record['commit']}, {record['date']}"
    )


def kind(record: dict[str, Any]) -> str:
    """The kind of machine, of which runs are compared: processor, cores, tier, minor version of Python."""
    python = ".".join(record["versions"]["python"].split(".")[:2])
    return f"{record['processor']}, {record['cores']} cores, {record['tier']}, Python {python}"


def slug(record: dict[str, Any]) -> str:
    """`kind` as part of a file name."""
    name = kind(record)
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
