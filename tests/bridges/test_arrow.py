"""What the bridges to Ray and Spark do with Arrow's columns, without either: the layer's bits, and nothing copied."""

from __future__ import annotations

import pickle

import helpers
import numpy as np
import pytest

from indygru_cpu import IndyGRU

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: the extras `ray`, `spark` and `test` bring it")

from indygru_cpu._arrow import Run, lists, sequences, with_states  # noqa: E402  (it needs what was asked for above)

D, N = 9, 7
LENGTHS = [8, 1, 0, 33, 17]
OPTIONS = [{}, {"num_layers": 2, "bidirectional": True}, {"batch_first": True, "bias": False}]


def make(dtype=np.float32, **options):
    return IndyGRU(D, N, dtype=dtype, seed=3, reproducible=True, **options)


def arrays(dtype, lengths=LENGTHS):
    rng = np.random.default_rng(1)
    return [rng.standard_normal((n, D)).astype(dtype) for n in lengths]


def nested(inner, outer):
    """A column of lists of steps."""
    return lambda rows, number: pa.array([row.tolist() for row in rows], outer(inner(number)))


def flat(outer):
    """A column of lists of all numbers."""
    return lambda rows, number: pa.array([row.ravel() for row in rows], outer(number))


FORMS = {
    "lists": nested(pa.list_, pa.list_),
    "large lists": nested(pa.large_list, pa.large_list),
    "lists of one width": nested(lambda number: pa.list_(number, D), pa.list_),
    "flat": flat(pa.list_),
    "flat large lists": flat(pa.large_list),
}


def assert_rows(found, wanted):
    """A column of lists of lists against arrays, by bits."""
    assert found.null_count == 0
    assert len(found) == len(wanted)
    for row, array in zip(found, wanted, strict=True):
        helpers.assert_same_bits(np.array(row.as_py(), array.dtype).reshape(array.shape), array)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_forms(dtype, form, options):
    """Also of a part of a column, whose offsets do not begin at 0, and of no rows."""
    layer, rows = make(dtype, **options), arrays(dtype)
    batch = pa.RecordBatch.from_arrays(
        [FORMS[form](rows, pa.from_numpy_dtype(dtype)), pa.array(range(5))], names=["x", "id"]
    )
    for part in (slice(0, 5), slice(1, 4), slice(4, 4)):
        given = batch.slice(part.start, part.stop - part.start)
        for last in (False, True):
            found = with_states(Run(layer, last, 1), given, "x", "y")
            assert found.schema.names == ["x", "id", "y"]
            assert found.select(["x", "id"]).equals(given)
            # One by one, without a batch: (T, N), and (layers * directions, N).
            assert_rows(found.column("y"), [layer(row)[last] for row in rows[part]])


def test_rows_of_one_length(dtype):
    layer, rows = make(dtype), arrays(dtype, [8, 8, 8])
    kind = pa.list_(pa.from_numpy_dtype(dtype), 8 * D)
    column = pa.array([row.ravel() for row in rows], kind).slice(1)
    assert_rows(lists(*Run(layer, False, 1)("x", column)), [layer(row)[0] for row in rows[1:]])


def address(array):
    return array.__array_interface__["data"][0]


@pytest.mark.parametrize("form", FORMS)
def test_nothing_is_copied(form):
    column = FORMS[form](arrays(np.float32), pa.float32()).slice(1)
    numbers = column.values if form.startswith("flat") else column.values.values
    values, offsets = sequences("x", column, D, np.dtype(np.float32))
    assert address(values) == numbers.buffers()[1].address + values.itemsize * D * LENGTHS[0]
    assert not values.flags.writeable
    assert offsets.tolist() == np.cumsum([0, *LENGTHS[1:]]).tolist()
    made = lists(values, offsets)
    assert made.values.values.buffers()[1].address == address(values)


STEP = [0.5] * D
NESTED = pa.list_(pa.list_(pa.float32()))


def column_of(rows, kind=NESTED):
    return pa.array(rows, kind)


REFUSED = [
    (TypeError, "x: expected lists, got float", column_of([1.0], pa.float32())),
    (TypeError, "x: expected lists of float32, as the layer has, got list<item: double>",
     column_of([STEP], pa.list_(pa.float64()))),
    (TypeError, "x: expected lists of float32, .* got list<.*list<.*list<", column_of([], pa.list_(NESTED))),
    (ValueError, "x: expected no nulls, got 2: fill or drop them", column_of([None, [STEP], None])),
    (ValueError, "a sequence of x: expected no nulls, got 1", column_of([[STEP, None]])),
    (ValueError, "the numbers of x: expected no nulls, got 1", column_of([[STEP], [[None, *STEP[1:]]]])),
    (ValueError, "x: expected steps of 9 numbers, got one of 8", column_of([[STEP, STEP[1:]]])),
    (ValueError, "x: expected rows of 9 numbers a step, got one of 17",
     column_of([STEP, [*STEP, *STEP[1:]]], pa.list_(pa.float32()))),
]  # fmt: skip


@pytest.mark.parametrize(("error", "says", "column"), REFUSED, ids=[each[1][:40] for each in REFUSED])
def test_refused(error, says, column):
    with pytest.raises(error, match=f"^{says}"):
        Run(make(), False, 1)("x", column)


def test_nulls_elsewhere_are_nobodys_business():
    """In the rows of a column that this part of it does not have."""
    column = column_of([None, [STEP], [[None] * D], None]).slice(1, 1)
    assert_rows(lists(*Run(make(), False, 1)("x", column)), [make()(np.float32([STEP]))[0]])


def test_more_than_offsets_can_count():
    values = np.broadcast_to(np.float32(1), (2**31 // N + 1, N))
    with pytest.raises(
        ValueError, match=r"expected a batch with at most 2147483647 numbers of results, got 21474836\d\d"
    ):
        lists(values, np.array([0, len(values)]))


def test_what_goes_to_the_workers():
    """The weights as they were, once, and nothing else; a worker may have them where it cannot write."""
    layer, (row, *_) = make(), arrays(np.float32)
    column, expected = column_of([row.tolist()]), layer(row)[0]
    run = Run(layer, False, 2)
    layer.parameters["kernel_l0"][...] *= 0.5
    buffers = []
    data = pickle.dumps(run, protocol=5, buffer_callback=buffers.append)
    assert (
        len(data) + sum(len(each.raw()) for each in buffers) < sum(a.nbytes for a in layer.parameters.values()) + 2500
    )
    received = pickle.loads(data, buffers=[bytes(buffer) for buffer in buffers])
    assert not received.layer.parameters["kernel_l0"].flags.writeable
    assert_rows(lists(*received("x", column)), [expected])


@pytest.mark.parametrize("num_threads", [1, 2])
def test_threads_of_a_task(monkeypatch, num_threads):
    """As many as asked for, whatever the layer says itself."""
    layer, seen = IndyGRU(D, N, seed=0, num_threads=8), []
    monkeypatch.setattr(IndyGRU, "ragged", lambda *_, num_threads: seen.append(num_threads) or (None, None))
    Run(layer, False, num_threads)("x", column_of([[STEP]]))
    assert seen == [num_threads]


def test_arguments():
    with pytest.raises(TypeError, match="layer: expected an IndyGRU, got int"):
        Run(3, False, 1)
    with pytest.raises(ValueError, match="num_threads: expected at least 1, got 0"):
        Run(make(), False, 0)


@pytest.mark.parametrize(
    ("module", "needs"), [("ray", "pyarrow"), ("ray", "ray"), ("spark", "pyarrow"), ("spark", "pyspark")]
)
def test_the_error_names_the_extra(run_python, module, needs):
    said = run_python(f"import sys; sys.modules['{needs}'] = None; import indygru_cpu.{module}", status=1)
    assert f'pip install "indygru_cpu[{module}]"' in said


def test_who_does_not_use_the_bridges_loads_nothing(run_python):
    printed = run_python("""
        import sys
        import indygru_cpu
        print(*{"pyarrow", "pyspark", "ray"} & sys.modules.keys(), len(sys.modules) > 9)
    """)
    assert printed == "True"
