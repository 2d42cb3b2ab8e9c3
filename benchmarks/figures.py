"""Figures that are no ratio of times: each is measured in a fresh process, ``python figures.py NAME CASE``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ours
from cases import Case, Shape

MB = 1e6
#: Loads and starts what the first call loads and starts, with next to no memory of its own.
WARM: Shape = (3, 2, 5, 7)


def resident(field: str) -> int:
    """Bytes of this process that are in memory now ("VmRSS") or were at most ("VmHWM")."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def extra(prepare: Callable[[Case], Callable[[], Any]], case: Case) -> tuple[int, Any]:
    """Bytes that the work needs at its peak above what there was before it; and what it gives."""
    prepare(Case(WARM, case.dtype, case.threads))()
    work = prepare(case)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident("VmRSS")
    result = work()
    return resident("VmHWM") - before, result


def training_memory(case: Case, prepare: Any = ours.training) -> float:
    """MB above inputs, outputs and gradients."""
    peak, (y, h_n, grads) = extra(prepare, case)
    arrays = [y, h_n, grads.x, grads.h0, *grads.parameters.values()]
    return (peak - sum(array.nbytes for array in arrays)) / MB


def training_memory_above_tape(case: Case) -> float:
    """The tape is r, z and candidate of every step."""
    return training_memory(case) - 3 * case.dy.nbytes / MB


def training_memory_with_recompute(case: Case) -> float:
    return training_memory(case, ours.training_with_recompute)


def inference_memory(case: Case) -> float:
    """MB above inputs and outputs, which is what a chunk needs."""
    peak, _ = extra(ours.forward, case)
    return peak / MB


def streaming_memory(case: Case) -> float:
    """MB of a sequence in chunks."""
    peak, _ = extra(ours.streamed, case)
    return peak / MB


def push_p99(case: Case) -> float:
    """p99 of the times of 100,000 pushes, against their median."""
    push, clock = ours.step(case), time.perf_counter_ns
    times = np.empty(100_000)
    for i in range(len(times)):
        start = clock()
        push()
        times[i] = clock() - start
    return float(np.quantile(times, 0.99) / np.median(times))


def import_time(case: Case) -> float:
    """Milliseconds of `import indygru_cpu` after `import numpy`."""
    code = "import numpy, time; t = time.perf_counter(); import indygru_cpu; print(1e3 * (time.perf_counter() - t))"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=os.environ)
    return float(found.stdout)


if __name__ == "__main__":
    shape, dtype, threads = json.loads(sys.argv[2])
    print(globals()[sys.argv[1]](Case(tuple(shape), dtype, threads)))
