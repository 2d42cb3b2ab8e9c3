"""Every program in examples/ runs, in a setting that is short, and is no longer than a reader likes."""

from __future__ import annotations

import importlib.util
import re
from typing import NamedTuple

import helpers
import pytest


class Example(NamedTuple):
    """Arguments of a short run, what it needs, and what the last line says: a percentage that is at least so much."""

    arguments: tuple[object, ...]
    needs: tuple[str, ...]
    says: str
    at_least: float


EXAMPLES = {
    "jax_speakers": Example((3,), ("jax",), r"Test accuracy: (\S+)%", 80),
    "numba_features": Example((), ("numba",), r"Test accuracy: (\S+)%", 90),
    "torch_speakers": Example((3,), ("torch",), r"Test accuracy: (\S+)%", 80),
}
#: Run by test_sklearn_docs.
ELSEWHERE = {"sklearn_speech"}


def test_every_program_is_here():
    programs = {path.stem for path in (helpers.ROOT / "examples").glob("*.py")}
    assert programs - ELSEWHERE == EXAMPLES.keys()


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(run_python, name):
    example, path = EXAMPLES[name], helpers.ROOT / "examples" / f"{name}.py"
    if missing := [package for package in example.needs if importlib.util.find_spec(package) is None]:
        pytest.skip(f"not installed, and the program needs it: {', '.join(missing)}")
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 60
    last = run_python(text, *example.arguments).splitlines()[-1]
    assert float(re.fullmatch(example.says, last).group(1)) >= example.at_least
