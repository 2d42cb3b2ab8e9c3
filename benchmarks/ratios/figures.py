"""Figures that are not ratios of times: each is measured in a fresh process, ``python figures.py NAME CASE``."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from cases import Case, Shape

from ratios import library

MB = 1e6
#: A first call loads libraries and starts threads; this shape takes almost no memory.
WARM_UP_SHAPE: Shape = (3, 2, 5, 7)


def resident(field: str) -> int:
    """Resident bytes of this process: now ("VmRSS") or at the peak ("VmHWM")."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def peak_above(prepare: Callable[[Case], Callable[[], Any]], case: Case) -> tuple[int, Any]:
    """Peak of resident bytes during the work above those before it, and the result of the work."""
    prepare(Case(WARM_UP_SHAPE, case.dtype, case.threads))()
    work = prepare(case)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident("VmRSS")
    result = work()
    return resident("VmHWM") - before, result


def training_memory(case: Case, prepare: Any = library.training) -> float:
    """MB above inputs, outputs and gradients."""
    peak, (y, h_n, grads) = peak_above(prepare, case)
    arrays = [y, h_n, grads.x, grads.h0, *grads.parameters.values()]
    return (peak - sum(array.nbytes for array in arrays)) / MB


def training_memory_above_tape(case: Case) -> float:
    """MB above inputs, outputs, gradients and the tape: r, z and candidate of every step."""
    return training_memory(case) - 3 * case.dy.nbytes / MB


def training_memory_with_recompute(case: Case) -> float:
    return training_memory(case, library.training_with_recompute)


def inference_memory(case: Case) -> float:
    """MB above inputs and outputs: the scratch of a chunk."""
    peak, _ = peak_above(library.forward, case)
    return peak / MB


def streaming_memory(case: Case) -> float:
    """MB of a sequence in chunks, in all."""
    peak, _ = peak_above(library.streamed, case)
    return peak / MB


def push_p99(case: Case) -> float:
    """Ratio of the 99th percentile of the times of 100,000 pushes to their median."""
    push, clock = library.step(case), time.perf_counter_ns
    times = np.empty(100_000)
    for i in range(len(times)):
        start = clock()
        push()
        times[i] = clock() - start
    return float(np.quantile(times, 0.99) / np.median(times))


def import_time(case: Case) -> float:
    """Milliseconds of `import indygru_cpu` after `import numpy`."""
    command = [sys.executable, Path(__file__).with_name("import_time.py")]
    process = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(process.stdout)


if __name__ == "__main__":
    shape, dtype, threads = json.loads(sys.argv[2])
    print(globals()[sys.argv[1]](Case(tuple(shape), dtype, threads)))
