"""Every program in examples/ runs with short settings and is short: 60 lines, or up to 110 with options."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from typing import NamedTuple
from xml.etree import ElementTree

import helpers
import pytest


class Example(NamedTuple):
    """Arguments of a short run, required packages and programs, and the smallest accuracy in the last line.

    Regression has the largest error there. Some engines give warnings of their own and take long to start.
    """

    arguments: tuple[object, ...]
    needs: tuple[str, ...]
    min_accuracy: float = 0
    warns: bool = False
    seconds: int = 180
    max_error: float | None = None
    max_lines: int = 60


PLOT = "plot.svg"
EXAMPLES = {
    "adding_problem": Example(("--quick", "--plot", PLOT), ("matplotlib",), max_error=0.01, max_lines=100),
    "asyncio_microphones": Example((), (), 95),
    "dask_speakers": Example((), ("dask", "distributed", "sklearn"), 95),
    "digits_by_pixels": Example(("--quick", "--plot", PLOT), ("matplotlib", "sklearn", "torch"), 50, max_lines=110),
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
def test_example_runs_and_is_accurate(run_script, tmp_path, name):
    example, path = EXAMPLES[name], helpers.ROOT / "examples" / f"{name}.py"
    if missing := [need for need in example.needs if importlib.util.find_spec(need) is None and not shutil.which(need)]:
        pytest.skip(f"not installed, and the program needs it: {', '.join(missing)}")
    assert path.read_text(encoding="utf-8").count("\n") <= example.max_lines
    arguments = [tmp_path / argument if argument == PLOT else argument for argument in example.arguments]
    printed = run_script(
        "docs/run_example.py", "default" if example.warns else "error", path, *arguments,
        timeout=example.seconds, PYSPARK_PYTHON=sys.executable,
    )  # fmt: skip
    last_line = printed.splitlines()[-1]
    if example.max_error is None:
        assert float(re.fullmatch(r"Test accuracy: (\S+)%", last_line).group(1)) >= example.min_accuracy
    else:
        assert float(re.fullmatch(r"Test mean squared error: (\S+)", last_line).group(1)) <= example.max_error
    if PLOT in example.arguments:
        assert ElementTree.parse(tmp_path / PLOT).getroot().tag == "{http://www.w3.org/2000/svg}svg"
