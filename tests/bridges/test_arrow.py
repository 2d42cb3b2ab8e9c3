"""Inference on Arrow columns, as the bridges to Ray and Spark run it: the layer's bits, and no copies."""

from __future__ import annotations

import pickle

import helpers
import numpy as np
import pytest
from bridge_layers import LENGTHS, D, N, bridge_layer, random_rows

from indygru_cpu import IndyGRU

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: the extras `ray`, `spark` and `test` bring it")

from indygru_cpu._arrow import LayerRunner, append_states, make_lists, read_sequences  # noqa: E402  (needs pyarrow)

OPTIONS = [{}, {"num_layers": 2, "bidirectional": True}, {"batch_first": True, "bias": False}]


def nested_column(inner, outer):
    """A function that makes a column of lists of steps."""
    return lambda rows, number: pa.array([row.tolist() for row in rows], outer(inner(number)))


def flat_column(outer):
    """A function that makes a column of lists of all numbers."""
    return lambda rows, number: pa.array([row.ravel() for row in rows], outer(number))


FORMS = {
    "lists": nested_column(pa.list_, pa.list_),
    "large lists": nested_column(pa.large_list, pa.large_list),
    "fixed-size lists": nested_column(lambda number: pa.list_(number, D), pa.list_),
    "flat": flat_column(pa.list_),
    "flat large lists": flat_column(pa.large_list),
}


def assert_rows(column, expected):
    """Assert that a column of lists of lists has the bits of the expected arrays."""
    assert column.null_count == 0
    assert len(column) == len(expected)
    for row, array in zip(column, expected, strict=True):
        helpers.assert_same_bits(np.array(row.as_py(), array.dtype).reshape(array.shape), array)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_append_states_gives_the_bits_of_the_layer(dtype, form, options):
    """For a column, a slice of it, whose offsets do not start at 0, and an empty slice."""
    layer, rows = bridge_layer(dtype, **options), random_rows(dtype=dtype)
    batch = pa.RecordBatch.from_arrays(
        [FORMS[form](rows, pa.from_numpy_dtype(dtype)), pa.array(range(5))], names=["x", "id"]
    )
    for part in (slice(0, 5), slice(1, 4), slice(4, 4)):
        sliced = batch.slice(part.start, part.stop - part.start)
        for last in (False, True):
            result = append_states(LayerRunner(layer, last, 1), sliced, "x", "y")
            assert result.schema.names == ["x", "id", "y"]
            assert result.select(["x", "id"]).equals(sliced)
            # Unbatched calls: (T, N), and (layers * directions, N).
            assert_rows(result.column("y"), [layer(row)[last] for row in rows[part]])


def test_fixed_size_lists_of_rows_give_the_bits_of_the_layer(dtype):
    layer, rows = bridge_layer(dtype), random_rows([8, 8, 8], dtype)
    kind = pa.list_(pa.from_numpy_dtype(dtype), 8 * D)
    column = pa.array([row.ravel() for row in rows], kind).slice(1)
    assert_rows(make_lists(*LayerRunner(layer, False, 1)("x", column)), [layer(row)[0] for row in rows[1:]])


def data_address(array):
    return array.__array_interface__["data"][0]


@pytest.mark.parametrize("form", FORMS)
def test_inputs_and_results_are_not_copied(form):
    column = FORMS[form](random_rows(), pa.float32()).slice(1)
    numbers = column.values if form.startswith("flat") else column.values.values
    values, offsets = read_sequences("x", column, D, np.dtype(np.float32))
    assert data_address(values) == numbers.buffers()[1].address + values.itemsize * D * LENGTHS[0]
    assert not values.flags.writeable
    assert offsets.tolist() == np.cumsum([0, *LENGTHS[1:]]).tolist()
    result = make_lists(values, offsets)
    assert result.values.values.buffers()[1].address == data_address(values)


STEP = [0.5] * D
NESTED = pa.list_(pa.list_(pa.float32()))


def column_of(rows, kind=NESTED):
    return pa.array(rows, kind)


REFUSED = [
    (TypeError, "x: expected lists, got float", column_of([1.0], pa.float32())),
    (TypeError, "x: expected lists of float32, the layer's dtype, got list<item: double>",
     column_of([STEP], pa.list_(pa.float64()))),
    (TypeError, "x: expected lists of float32, .* got list<.*list<.*list<", column_of([], pa.list_(NESTED))),
    (ValueError, "x: expected no nulls, got 2: fill or drop them", column_of([None, [STEP], None])),
    (ValueError, "a sequence of x: expected no nulls, got 1", column_of([[STEP, None]])),
    (ValueError, "the numbers of x: expected no nulls, got 1", column_of([[STEP], [[None, *STEP[1:]]]])),
    (ValueError, "x: expected steps of 9 numbers, got one of 8", column_of([[STEP, STEP[1:]]])),
    (ValueError, "x: expected rows of 9 numbers per step, got one of 17",
     column_of([STEP, [*STEP, *STEP[1:]]], pa.list_(pa.float32()))),
]  # fmt: skip


@pytest.mark.parametrize(("error", "text", "column"), REFUSED, ids=[text[:40] for _, text, _ in REFUSED])
def test_wrong_column_raises(error, text, column):
    with pytest.raises(error, match=f"^{text}"):
        LayerRunner(bridge_layer(), False, 1)("x", column)


def test_nulls_outside_of_a_slice_are_ignored():
    column = column_of([None, [STEP], [[None] * D], None]).slice(1, 1)
    assert_rows(
        make_lists(*LayerRunner(bridge_layer(), False, 1)("x", column)), [bridge_layer()(np.float32([STEP]))[0]]
    )


def test_results_beyond_the_range_of_offsets_raise():
    values = np.broadcast_to(np.float32(1), (2**31 // N + 1, N))
    with pytest.raises(ValueError, match=r"^results: expected at most 2147483647 numbers per batch, got 21474836\d\d"):
        make_lists(values, np.array([0, len(values)]))


def test_pickled_runner_has_a_single_copy_of_the_weights():
    """Later changes of the layer have no effect, and a worker may hold the weights in read-only memory."""
    layer, (row, *_) = bridge_layer(), random_rows()
    column, expected = column_of([row.tolist()]), layer(row)[0]
    runner = LayerRunner(layer, False, 2)
    layer.parameters["kernel_l0"][...] *= 0.5
    buffers = []
    data = pickle.dumps(runner, protocol=5, buffer_callback=buffers.append)
    pickled_bytes = len(data) + sum(len(buffer.raw()) for buffer in buffers)
    assert pickled_bytes < sum(array.nbytes for array in layer.parameters.values()) + 2500
    received = pickle.loads(data, buffers=[bytes(buffer) for buffer in buffers])
    assert not received.layer.parameters["kernel_l0"].flags.writeable
    assert_rows(make_lists(*received("x", column)), [expected])


@pytest.mark.parametrize("num_threads", [1, 2])
def test_runner_uses_its_own_number_of_threads(monkeypatch, num_threads):
    layer, used = IndyGRU(D, N, seed=0, num_threads=8), []
    monkeypatch.setattr(IndyGRU, "ragged", lambda *_, num_threads: used.append(num_threads) or (None, None))
    LayerRunner(layer, False, num_threads)("x", column_of([[STEP]]))
    assert used == [num_threads]


def test_runner_of_wrong_arguments_raises():
    with pytest.raises(TypeError, match="layer: expected an IndyGRU, got int"):
        LayerRunner(3, False, 1)
    with pytest.raises(ValueError, match="num_threads: expected at least 1, got 0"):
        LayerRunner(bridge_layer(), False, 0)


@pytest.mark.parametrize(
    ("module", "needs"), [("ray", "pyarrow"), ("ray", "ray"), ("spark", "pyarrow"), ("spark", "pyspark")]
)
def test_import_of_a_bridge_without_its_package_names_the_extra(run_script, module, needs):
    error = run_script("import_without.py", f"indygru_cpu.{module}", needs, status=1)
    assert f'pip install "indygru_cpu[{module}]"' in error


def test_import_of_the_package_imports_no_package_of_the_bridges(run_script):
    assert run_script("bridges/import_without_bridges.py") == "set()"
