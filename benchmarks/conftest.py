"""Options, cases and storage of the benchmarks; makes the modules of this folder importable from anywhere."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import machine
from cases import Case
from settings import Setting
from threadpoolctl import ThreadpoolController

from indygru_cpu._cli.bench import SPIN_SECONDS
from indygru_cpu._engine.blas import blas

MACHINE = machine.machine(threads=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--tiny``."""
    text = "run all benchmarks at tiny sizes: a check that they work"
    parser.getgroup("indygru_cpu").addoption("--tiny", action="store_true", help=text)


def pytest_configure(config: pytest.Config) -> None:
    """Store results by kind of machine, so that ``--benchmark-compare`` finds those of machines like this one alone.

    pytest-benchmark has no option for it, and configures itself after this function has run. It warns if there is no
    run to compare with, or if another host or kernel measured it; neither is an error here.
    """
    with suppress(ImportError):  # CodSpeed's plugin alone
        from pytest_benchmark import logger, session, utils

        session.get_machine_id = lambda: f"{machine.slug(MACHINE)}-{utils.get_machine_id()}"
        # The line is for warnings after the run, the filter for those while plugins are configured.
        config.addinivalue_line("filterwarnings", "default::pytest_benchmark.logger.PytestBenchmarkWarning")
        warnings.filterwarnings("default", category=logger.PytestBenchmarkWarning)


def baseline_threads(threads: int | None) -> Any:
    """Limit the threads of NumPy's products; the library's own copy of OpenBLAS keeps its one thread."""
    if threads is None:
        return nullcontext()
    controller = ThreadpoolController()
    paths = [each["filepath"] for each in controller.info() if each["user_api"] == "blas"]
    others = [path for path in paths if not os.path.samefile(path, blas.path)]
    return controller.select(filepath=others).limit(limits=threads)


@pytest.fixture
def case(request: pytest.FixtureRequest, benchmark: Any) -> Iterator[Case]:
    """Inputs and weights of the benchmark's setting. The benchmark gets its group and `extra_info`."""
    setting: Setting = request.param
    if (setting.threads or 1) > MACHINE["threads"]:
        pytest.skip(f"needs {setting.threads} processors")
    topic = request.module.__name__.rpartition(".")[2].removeprefix("test_").replace("_", " ")
    benchmark.group = f"{topic}: {setting.group}"
    names = ("processor", "cores", "system", "tier", "versions", "commit")
    benchmark.extra_info.update({name: MACHINE[name] for name in names})
    is_tiny = request.config.getoption("--tiny")
    shape = setting.tiny_shape() if is_tiny else setting.shape
    benchmark.extra_info.update(shape=shape, dtype=setting.dtype, threads=setting.threads or "auto", tiny=is_tiny)
    if getattr(benchmark, "enabled", False) and not is_tiny:
        time.sleep(SPIN_SECONDS)  # spinning threads would slow down this benchmark
    with baseline_threads(setting.threads):
        yield Case(shape, setting.dtype, setting.threads)
