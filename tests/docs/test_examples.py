"""Every program in examples/ runs with short settings and has at most 60 lines."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from typing import NamedTuple

import helpers
import pytest


class Example(NamedTuple):
    """Arguments of a short run, required packages and programs, and the smallest accuracy in the last line.

    Some engines give warnings of their own and take long to start.
    """

    arguments: tuple[object, ...]
    needs: tuple[str, ...]
    min_accuracy: float
    warns: bool = False
    seconds: int = 180


EXAMPLES = {
    "asyncio_microphones": Example((), (), 95),
    "dask_speakers": Example((), ("dask", "distributed", "sklearn"), 95),
    "jax_speakers": Example((3,), ("jax",), 80),
    "numba_features": Example((), ("numba",), 90),
    "pufferlib_policy": Example((), (), 95),
    "torch_speakers": Example((3,), ("torch",), 80),
    "ray_speakers": Example((), ("ray", "sklearn"), 95, warns=True, seconds=200),
    "spark_speakers": Example((), ("pyspark", "java", "sklearn"), 95, warns=True, seconds=200),
}
#: Run by tests/sklearn/test_sklearn_docs.py.
TESTED_ELSEWHERE = {"sklearn_speech"}


def test_examples_lists_every_program():
    programs = {path.stem for path in (helpers.ROOT / "examples").glob("*.py")}
    assert programs - TESTED_ELSEWHERE == EXAMPLES.keys()


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs_and_is_accurate(run_script, name):
    example, path = EXAMPLES[name], helpers.ROOT / "examples" / f"{name}.py"
    if missing := [need for need in example.needs if importlib.util.find_spec(need) is None and not shutil.which(need)]:
        pytest.skip(f"not installed, and the program needs it: {', '.join(missing)}")
    assert path.read_text(encoding="utf-8").count("\n") <= 60
    printed = run_script(
        "docs/run_example.py", "default" if example.warns else "error", path, *example.arguments,
        timeout=example.seconds, PYSPARK_PYTHON=sys.executable,
    )  # fmt: skip
    accuracy = re.fullmatch(r"Test accuracy: (\S+)%", printed.splitlines()[-1]).group(1)
    assert float(accuracy) >= example.min_accuracy
