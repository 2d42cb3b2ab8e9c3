"""Inference on Ray: the layer's bits on tables of every kind. test_arrow.py tests Arrow lists.

The extra `test` does not install Ray, which is large: `pip install "indygru_cpu[ray]"`.
"""

from __future__ import annotations

import re

import helpers
import numpy as np
import pytest
from bridge_layers import D, bridge_layer, random_rows

reason = "ray is not installed: the extra `ray` brings it"
ray = pytest.importorskip("ray", reason=reason)
pytest.importorskip("ray.data", reason=reason)

import pyarrow as pa  # noqa: E402
from ray.data.extensions import ArrowTensorArray, ArrowVariableShapedTensorArray  # noqa: E402

from indygru_cpu._arrow import LayerRunner  # noqa: E402
from indygru_cpu.ray import Actor, predict  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised by Ray itself
T = 17
OPTIONS = [{}, {"num_layers": 2, "bidirectional": True}]


def rows_and_column(kind):
    """Sequences, and a column of them in two chunks."""
    if kind == "lists":
        rows, column_of = random_rows(), lambda part: pa.array([row.ravel() for row in part])
    elif kind == "one shape":
        rows, column_of = random_rows([T] * 5), lambda part: ArrowTensorArray.from_numpy(np.stack(part))
    else:
        rows, column_of = random_rows(), ArrowVariableShapedTensorArray.from_numpy
    return rows, pa.chunked_array([column_of(rows[:3]), column_of(rows[3:])])


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", ["one shape", "many shapes", "lists"])
def test_actor_appends_the_bits_of_the_layer(kind, options):
    """To a table of several chunks, a slice of it, and an empty slice."""
    layer, (rows, column) = bridge_layer(**options), rows_and_column(kind)
    table = pa.table({"id": range(5), "x": column})
    for part in (slice(0, 5), slice(1, 4), slice(5, 5)):
        sliced = table.slice(part.start, part.stop - part.start)
        for last in (False, True):
            result = Actor(LayerRunner(layer, last, 1), "x", "y")(sliced)
            assert result.select(["id", "x"]).equals(sliced)
            assert len(result) == len(rows[part])
            for value, row in zip(result.column("y").to_pylist(), rows[part], strict=True):
                expected = layer(row)[last]
                helpers.assert_same_bits(np.array(value, np.float32).reshape(expected.shape), expected)
    without_chunks = pa.table({"x": pa.chunked_array([], column.type)})
    assert len(Actor(LayerRunner(layer, False, 1), "x", "y")(without_chunks).column("y")) == 0


def tensor_array(*shape):
    return ArrowTensorArray.from_numpy(np.full(shape, 0.5, np.float32))


REFUSED = {
    r"x: expected shape \(T, 9\), got \(17, 10\)": lambda: {"x": tensor_array(3, T, D + 1)},
    r"x: expected shape \(T, 9\), got \(2, 17, 9\)": lambda: {"x": tensor_array(3, 2, T, D)},
    r"x: expected shape \(T, 9\), got \(9, 8\)": lambda: {
        "x": ArrowVariableShapedTensorArray.from_numpy([row.T for row in random_rows([8, 17])])
    },
    "column: expected one of z, got 'x'": lambda: {"z": [1]},
    "output: expected the name of a new column, got 'y'": lambda: {"x": [1], "y": [2]},
}


@pytest.mark.parametrize("text", REFUSED)
def test_actor_of_a_wrong_table_raises(text):
    with pytest.raises(ValueError, match=text):
        Actor(LayerRunner(bridge_layer(), False, 1), "x", "y")(pa.table(REFUSED[text]()))


def test_predict_of_something_else_than_a_dataset_raises_type_error():
    with pytest.raises(TypeError, match=r"dataset: expected a ray.data.Dataset, got int"):
        predict(bridge_layer(), 3)


class RecordingDataset(ray.data.Dataset):
    """A Dataset whose `map_batches` returns its options."""

    def __init__(self):
        pass

    def __del__(self):
        pass

    def map_batches(self, actor, **options):
        return options


@pytest.mark.parametrize("options", [{}, {"compute": "mine", "batch_size": 5}, {"concurrency": 2}], ids=str)
def test_predict_reserves_a_cpu_for_each_thread(options):
    passed = predict(bridge_layer(), RecordingDataset(), num_threads=3, **options)
    assert passed["num_cpus"] == passed["fn_constructor_args"][0].num_threads == 3
    assert options.items() <= passed.items()
    assert len({"compute", "concurrency"} & passed.keys()) == 1


def test_example_of_the_page_runs(tmp_path, run_script):
    """Two actors compute the layer's bits, in a separate process."""
    page = (helpers.ROOT / "docs" / "ray.md").read_text(encoding="utf-8")
    [program] = re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)
    (tmp_path / "page.py").write_text(program)
    # Ray emits deprecation warnings of its own.
    run_script("docs/run_example.py", "default", tmp_path / "page.py", timeout=200)
