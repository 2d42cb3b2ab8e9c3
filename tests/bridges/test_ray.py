"""The bridge to Ray: Datasets come back with the layer's bits. What it does with Arrow's lists is in test_arrow.

Ray is large, so the extra `test` does not bring it: `pip install "indygru_cpu[ray]"` does.
"""

from __future__ import annotations

import re

import helpers
import numpy as np
import pytest

from indygru_cpu import IndyGRU

reason = "ray is not installed: the extra `ray` brings it"
ray = pytest.importorskip("ray", reason=reason)
pytest.importorskip("ray.data", reason=reason)

import pyarrow as pa  # noqa: E402
from ray.data.extensions import ArrowTensorArray, ArrowVariableShapedTensorArray  # noqa: E402

from indygru_cpu._arrow import Run  # noqa: E402
from indygru_cpu.ray import Actor, predict  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Ray's own code
T, D, N = 17, 9, 7
LENGTHS = [8, 1, 0, 33, 17]
OPTIONS = [{}, {"num_layers": 2, "bidirectional": True}]


def make(**options):
    return IndyGRU(D, N, seed=3, reproducible=True, **options)


def arrays(lengths):
    rng = np.random.default_rng(1)
    return [rng.standard_normal((n, D), dtype=np.float32) for n in lengths]


def columns(kind):
    """Rows, and a column of them in two chunks."""
    if kind == "lists":
        rows, column_of = arrays(LENGTHS), lambda some: pa.array([row.ravel() for row in some])
    elif kind == "one shape":
        rows, column_of = arrays([T] * 5), lambda some: ArrowTensorArray.from_numpy(np.stack(some))
    else:
        rows, column_of = arrays(LENGTHS), ArrowVariableShapedTensorArray.from_numpy
    return rows, pa.chunked_array([column_of(rows[:3]), column_of(rows[3:])])


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", ["one shape", "many shapes", "lists"])
def test_tables(kind, options):
    """Of several chunks, a part of them, and empty ones; all other columns stay."""
    layer, (rows, column) = make(**options), columns(kind)
    table = pa.table({"id": range(5), "x": column})
    for part in (slice(0, 5), slice(1, 4), slice(5, 5)):
        given = table.slice(part.start, part.stop - part.start)
        for last in (False, True):
            found = Actor(Run(layer, last, 1), "x", "y")(given)
            assert found.select(["id", "x"]).equals(given)
            assert len(found) == len(rows[part])
            for value, row in zip(found.column("y").to_pylist(), rows[part], strict=True):
                wanted = layer(row)[last]
                helpers.assert_same_bits(np.array(value, np.float32).reshape(wanted.shape), wanted)
    none = pa.table({"x": pa.chunked_array([], column.type)})
    assert len(Actor(Run(layer, False, 1), "x", "y")(none).column("y")) == 0


def tensors(*shape):
    return ArrowTensorArray.from_numpy(np.full(shape, 0.5, np.float32))


REFUSED = {
    r"x: expected shape \(T, 9\), got \(17, 10\)": lambda: {"x": tensors(3, T, D + 1)},
    r"x: expected shape \(T, 9\), got \(2, 17, 9\)": lambda: {"x": tensors(3, 2, T, D)},
    r"x: expected shape \(T, 9\), got \(9, 8\)": lambda: {
        "x": ArrowVariableShapedTensorArray.from_numpy([row.T for row in arrays([8, 17])])
    },
    "column: expected one of z, got 'x'": lambda: {"z": [1]},
    "output: expected the name of no column, got 'y'": lambda: {"x": [1], "y": [2]},
}


@pytest.mark.parametrize("says", REFUSED)
def test_refused(says):
    with pytest.raises(ValueError, match=says):
        Actor(Run(make(), False, 1), "x", "y")(pa.table(REFUSED[says]()))


def test_something_else_than_a_dataset():
    with pytest.raises(TypeError, match=r"dataset: expected a ray.data.Dataset, got int"):
        predict(make(), 3)


class Asked(ray.data.Dataset):
    """No Dataset, but what one is asked."""

    def __init__(self):
        pass

    def __del__(self):
        pass

    def map_batches(self, actor, **given):
        return given


@pytest.mark.parametrize("options", [{}, {"compute": "mine", "batch_size": 5}, {"concurrency": 2}], ids=str)
def test_processors_are_kept_for_the_threads(options):
    given = predict(make(), Asked(), num_threads=3, **options)
    assert given["num_cpus"] == given["fn_constructor_args"][0].num_threads == 3
    assert options.items() <= given.items()
    assert len({"compute", "concurrency"} & given.keys()) == 1


def test_page(tmp_path):
    """Its program, which asks two actors for the layer's bits, in a process of its own."""
    page = (helpers.ROOT / "docs" / "ray.md").read_text(encoding="utf-8")
    [program] = re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)
    (tmp_path / "page.py").write_text(program)
    # Ray's own code warns of itself.
    code = "import sys, warnings, runpy; warnings.simplefilter('default'); runpy.run_path(sys.argv[1])"
    helpers.run_python(code, tmp_path / "page.py", folder=tmp_path, timeout=200)
