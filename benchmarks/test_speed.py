"""Every kind of work at every shape, each beside its yardsticks: ``pytest benchmarks``."""

from __future__ import annotations

import cases
import pytest

WORK = [(kind, name) for kind in ("forward", "training") for name in cases.SHAPES]
WORK += [("step", name) for name in cases.STEP_SHAPES]


@pytest.mark.parametrize("contestant", [cases.OURS, cases.MATMUL, cases.REFERENCE])
@pytest.mark.parametrize(("kind", "name"), WORK)
def test_speed(benchmark, kind, name, contestant):
    shape = {**cases.SHAPES, **cases.STEP_SHAPES}[name]
    work = cases.contestants(kind, shape)[contestant]
    benchmark.group = f"{kind} {name} {shape}"
    if contestant == cases.REFERENCE and kind != "step":
        benchmark.pedantic(work, rounds=3, warmup_rounds=1)
    else:
        benchmark(work)
