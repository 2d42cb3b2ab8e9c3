"""The page docs/interop.md and the docstrings of the converters: gate orders match the code, and examples run."""

from __future__ import annotations

import doctest
import inspect
import re

import helpers
import pytest
from interop_helpers import require_packages

from indygru_cpu import interop
from indygru_cpu.interop._gate_orders import TABLE

PAGE = (helpers.ROOT / "docs" / "interop.md").read_text(encoding="utf-8")
CONVERTERS = [getattr(interop, name) for name in interop.__all__]


def test_gate_order_table_of_the_page_matches_the_code():
    z = {1: "old state", -1: "new state: its weights change sign"}
    rows = [
        (row.library, ", ".join(row.gates), z[row.z_sign], row.kernel, row.recurrent_kernel, row.bias, row.exact_when)
        for row in TABLE
    ]
    table = PAGE.split("|---|---|---|---|---|---|---|\n")[1].split("\n\n")[0]
    assert table.splitlines() == [f"| {' | '.join(row)} |" for row in rows]


def test_examples_of_the_page_run(run_python):
    """In their order and one namespace, in a separate process, because Keras reads its backend once."""
    require_packages("torch", "keras", "onnx", "onnxruntime")
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    assert len(blocks) == 7
    allow_warnings = "import warnings\nwarnings.filterwarnings('default', module='keras')\n"
    printed = run_python(allow_warnings + "\n".join(blocks), timeout=300, KERAS_BACKEND="torch")
    error_text = re.search(r"print\(error\)  # (.*) up to ", PAGE).group(1)
    assert printed.startswith(error_text)


def test_page_calls_every_converter():
    for name in interop.__all__:
        assert re.search(rf"^.*\b{name}\(", "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.S)), re.M), name


@pytest.mark.parametrize("converter", CONVERTERS, ids=lambda converter: converter.__name__)
def test_docstring_examples_run(converter):
    require_packages(*{"to_torch": ["torch"], "to_onnx": ["onnx"], "from_onnx": ["onnx"]}.get(converter.__name__, []))
    (test,) = doctest.DocTestFinder(recurse=False).find(converter, converter.__name__, globs={})
    results = doctest.DocTestRunner().run(test)
    assert results.attempted > 2
    assert results.failed == 0


@pytest.mark.parametrize("converter", CONVERTERS, ids=lambda converter: converter.__name__)
def test_docstring_lists_every_parameter(converter):
    text = inspect.getdoc(converter)
    section = re.search(r"^Parameters\n-+\n(.*?)\n\n\w+\n-+\n", text, re.M | re.S).group(1)
    names = {
        name.strip(" *") for line in re.findall(r"^\S.*", section, re.M) for name in line.split(" : ")[0].split(",")
    }
    assert names == set(inspect.signature(converter).parameters)
