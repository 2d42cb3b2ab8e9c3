"""Every program in examples/ runs, in a setting that is short, and is no longer than a reader likes."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from typing import NamedTuple

import helpers
import pytest


class Example(NamedTuple):
    """Arguments of a short run, what it needs, and what the last line says: a percentage that is at least so much.

    Some need others that have warnings of their own, and time to start.
    """

    arguments: tuple[object, ...]
    needs: tuple[str, ...]
    says: str
    at_least: float
    warns: bool = False
    seconds: int = 180


ACCURACY = r"Test accuracy: (\S+)%"
EXAMPLES = {
    "dask_speakers": Example((), ("dask", "distributed", "sklearn"), ACCURACY, 95),
    "jax_speakers": Example((3,), ("jax",), ACCURACY, 80),
    "numba_features": Example((), ("numba",), ACCURACY, 90),
    "torch_speakers": Example((3,), ("torch",), ACCURACY, 80),
    "ray_speakers": Example((), ("ray", "sklearn"), ACCURACY, 95, warns=True, seconds=200),
    "spark_speakers": Example((), ("pyspark", "java", "sklearn"), ACCURACY, 95, warns=True, seconds=200),
}
#: Run by test_sklearn_docs.
ELSEWHERE = {"sklearn_speech"}


def test_every_program_is_here():
    programs = {path.stem for path in (helpers.ROOT / "examples").glob("*.py")}
    assert programs - ELSEWHERE == EXAMPLES.keys()


RUN = """
import runpy, sys, warnings
if {warns}:
    warnings.simplefilter("default")
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(tmp_path, name):
    example, path = EXAMPLES[name], helpers.ROOT / "examples" / f"{name}.py"
    if missing := [need for need in example.needs if importlib.util.find_spec(need) is None and not shutil.which(need)]:
        pytest.skip(f"not installed, and the program needs it: {', '.join(missing)}")
    assert path.read_text(encoding="utf-8").count("\n") <= 60
    printed = helpers.run_python(
        RUN.format(warns=example.warns), path, *example.arguments,
        folder=tmp_path, timeout=example.seconds, PYSPARK_PYTHON=sys.executable,
    )  # fmt: skip
    assert float(re.fullmatch(example.says, printed.splitlines()[-1]).group(1)) >= example.at_least
