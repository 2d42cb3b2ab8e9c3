"""Layers on top of each other, in both directions and in every layout, against compositions of the reference."""

from __future__ import annotations

import tracemalloc
from functools import cache
from itertools import product

import helpers
import numpy as np
import oracles
import pytest
from oracles import B, D, N, T, forward_results, infer_layer, make_layer, make_layer_call, run_layer

from indygru_cpu import IndyGRU
from indygru_cpu._engine import _core, threads


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_stack_equals_the_reference(tier, dtype, num_layers, bidirectional, ragged, recompute):
    layer = make_layer(dtype, num_layers=num_layers, bidirectional=bidirectional, activation="softsign")
    call = make_layer_call(layer, ragged=ragged)
    expected = oracles.stack_by_reference(layer, call)
    helpers.assert_close(run_layer(layer, call, recompute=recompute), expected, dtype)
    helpers.assert_close(infer_layer(layer, call), forward_results(expected), dtype)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(
    "options", [{"bias": False}, {"groups": 3}, {"activation": "elu", "reproducible": True}], ids=str
)
def test_stack_with_options_equals_the_reference(dtype, bidirectional, options):
    layer = make_layer(dtype, num_layers=2, bidirectional=bidirectional, **options)
    call = make_layer_call(layer)
    helpers.assert_close(run_layer(layer, call), oracles.stack_by_reference(layer, call), dtype)


@cache
def large_stack(sizes, dtype):
    layer = make_layer(dtype, sizes[2:], num_layers=2, bidirectional=True)
    call = make_layer_call(layer, sizes[:2], ragged=sizes[1] > 2)
    return layer, call, oracles.stack_by_reference(layer, call)


#: (T, B, D, N): several unit tiles and chunks; more row tiles than the target; BLAS.
@pytest.mark.parametrize("sizes", [(90, 7, 5, 129), (7, 800, 9, 17), (260, 1, 34, 33)], ids=str)
def test_large_stack_equals_the_reference(tier, dtype, sizes):
    layer, call, expected = large_stack(sizes, dtype)
    helpers.assert_close(run_layer(layer, call), expected, dtype)


def in_layout(layout, name, array, lengths):
    """An argument or result of a time-major call in another layout; unbatched, it is that of the only row."""
    if name in ("x", "y", "dy"):
        if layout == "ragged":
            return oracles.concatenate_rows(array, lengths)
        return np.ascontiguousarray(array.swapaxes(0, 1)) if layout == "batch first" else array[:, 0]
    return array[:, 0] if name in ("h0", "h_n", "dh_n") and "unbatched" in layout else array


@pytest.mark.parametrize("layout", ["batch first", "unbatched", "unbatched, batch first", "ragged"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_layout_computes_the_bits_of_time_first(dtype, layout, bidirectional):
    """Arguments, results and gradients have the layout."""
    options = {"num_layers": 2, "bidirectional": bidirectional}
    layer, time_first = make_layer(dtype, batch_first="batch first" in layout, **options), make_layer(dtype, **options)
    call = make_layer_call(layer, (T, 1) if "unbatched" in layout else (T, B))
    lengths = call["lengths"]

    def rearranged(results):
        return {name: in_layout(layout, name, array, lengths) for name, array in results.items()}

    expected, arrays = rearranged(run_layer(time_first, call)), rearranged(call)
    assert arrays["x"].ndim == (3 if layout == "batch first" else 2)
    if layout == "ragged":
        arguments = arrays["x"], oracles.offsets_from_lengths(lengths), arrays["h0"]
        actual = oracles.results_and_gradients(layer, arrays, *layer.ragged(*arguments, tape=True))
        inferred = dict(zip(helpers.FORWARD, layer.ragged(*arguments), strict=True))
    else:
        actual, inferred = run_layer(layer, arrays), infer_layer(layer, arrays)
    helpers.assert_same_bits(actual, expected)
    helpers.assert_same_bits(inferred, forward_results(expected))


def test_length_of_an_unbatched_call_may_be_a_number():
    layer = make_layer(num_layers=2, bidirectional=True)
    x = make_layer_call(layer)["x"][:, 0]
    for lengths in (9, np.int64(9), np.array(9)):
        helpers.assert_same_bits(layer(x, lengths=lengths)[0], layer(x, lengths=[9])[0])


def test_names_and_shapes_of_parameters_are_those_of_torch():
    layer = make_layer(num_layers=2, bidirectional=True, groups=3)
    shapes = {name: array.shape for name, array in layer.parameters.items()}
    vector = (3 * N,)
    assert list(shapes.items()) == [
        ("kernel_l0", (D // 3, 3 * N)), ("recurrent_kernel_l0", vector), ("bias_l0", vector),
        ("kernel_l0_reverse", (D // 3, 3 * N)), ("recurrent_kernel_l0_reverse", vector), ("bias_l0_reverse", vector),
        ("kernel_l1", (2 * N // 3, 3 * N)), ("recurrent_kernel_l1", vector), ("bias_l1", vector),
        ("kernel_l1_reverse", (2 * N // 3, 3 * N)), ("recurrent_kernel_l1_reverse", vector),
        ("bias_l1_reverse", vector),
    ]  # fmt: skip
    assert list(layer.backward(layer.forward(make_layer_call(layer)["x"])[2]).parameters) == list(shapes)
    assert list(make_layer(num_layers=2, bias=False).parameters) == [
        "kernel_l0", "recurrent_kernel_l0", "kernel_l1", "recurrent_kernel_l1"
    ]  # fmt: skip


def test_final_states_are_in_the_order_of_torch(dtype):
    """They go layer by layer, forward before reverse. The last layer's are y at the last and first steps of rows."""
    layer = make_layer(dtype, num_layers=2, bidirectional=True)
    call = make_layer_call(layer)
    results, rows = infer_layer(layer, call), np.flatnonzero(call["lengths"])
    helpers.assert_same_bits(results["h_n"][2, rows], results["y"][call["lengths"][rows] - 1, rows, :N])
    helpers.assert_same_bits(results["h_n"][3, rows], results["y"][0, rows, N:])
    empty = call["lengths"] == 0
    helpers.assert_same_bits(results["h_n"][:, empty], call["h0"][:, empty])


@pytest.mark.parametrize("recompute", [False, True])
def test_nan_in_padding_of_a_stack_changes_no_bit(dtype, recompute):
    """Padding of x and dy is NaN. Each row has the bits of a separate call."""
    layer = make_layer(dtype, num_layers=2, bidirectional=True, reproducible=True)
    call = make_layer_call(layer)
    padding = np.arange(T)[:, None] >= call["lengths"]
    poisoned = {name: array.copy() for name, array in call.items()}
    poisoned["x"][padding] = poisoned["dy"][padding] = np.nan
    clean = run_layer(layer, call, recompute=recompute)
    helpers.assert_same_bits(run_layer(layer, poisoned, recompute=recompute), clean)
    helpers.assert_same_bits(infer_layer(layer, poisoned), forward_results(clean))
    for array in (clean["y"], clean["x"]):
        assert not array[padding].view(f"u{np.dtype(dtype).itemsize}").any()
    for row, n in enumerate(call["lengths"]):
        y, h_n = layer(call["x"][:n, row], call["h0"][:, row])
        helpers.assert_same_bits({"y": y, "h_n": h_n}, {"y": clean["y"][:n, row], "h_n": clean["h_n"][:, row]})


@pytest.mark.parametrize("sizes", [(0, B), (T, 0), (1, B)])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_stack_of_one_step_or_empty_arrays_equals_the_reference(dtype, sizes, bidirectional):
    layer = make_layer(dtype, num_layers=3, bidirectional=bidirectional)
    call = make_layer_call(layer, sizes, ragged=False)
    expected = oracles.stack_by_reference(layer, call)
    results = run_layer(layer, call)
    helpers.assert_close(results, expected, dtype)
    helpers.assert_same_bits(infer_layer(layer, call), forward_results(results))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_stack_on_any_number_of_threads_computes_same_bits(dtype, bidirectional):
    layer = make_layer(dtype, num_layers=3, bidirectional=bidirectional, groups=3)
    call = make_layer_call(layer, (130, 17))
    assert threads.count(5, call["lengths"].sum() * 3 * N * (3 + 30)) == 5
    expected = run_layer(layer, call, num_threads=1)
    for num_threads in (2, 3, 5):
        helpers.assert_same_bits(run_layer(layer, call, num_threads=num_threads), expected)
        helpers.assert_same_bits(infer_layer(layer, call, num_threads=num_threads), forward_results(expected))


@pytest.mark.skipif(not _core.openmp_threads(), reason="built without OpenMP")
def test_num_threads_of_a_call_takes_precedence_over_the_layers(monkeypatch):
    """backward uses that of its forward pass."""
    layer, asked = make_layer(num_layers=2, num_threads=3), []
    monkeypatch.setattr(threads, "count", lambda num_threads, work: asked.append(num_threads) or 1)
    call = make_layer_call(layer, (900, B))  # enough work for several threads
    values, offsets = call["x"][:, 0], [0, 900]
    entry_points = [layer, layer.last, layer.forward, lambda x, **options: layer.ragged(values, offsets, **options)]
    for entry_point in entry_points:
        for options, expected in [({}, 3), ({"num_threads": 2}, 2)]:
            asked.clear()
            results = entry_point(call["x"], **options)
            if entry_point == layer.forward:
                layer.backward(results[2])
            assert set(asked) == {expected}


@pytest.mark.parametrize("num_layers", [1, 2])
def test_batch_first_copies_neither_x_nor_y(segments, num_layers):
    """All allocations together are smaller than either."""
    segments(64 * 1024, 1)
    layer = make_layer(sizes=(400, 129), num_layers=num_layers, batch_first=True)
    x, y = np.full((17, 90, 400), 0.5), np.empty((17, 90, 129))
    for call in (lambda: layer(x, out=y), lambda: layer.last(x)):
        call()
        tracemalloc.start()
        try:
            call()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 0.25 * y.nbytes < x.nbytes


def test_summary_adds_up_its_columns():
    layer = make_layer(np.float32, num_layers=2, bidirectional=True, groups=3)
    first, head, *rows, total = layer.summary().splitlines()
    assert first == repr(layer)
    assert head.split() == ["name", "shape", "parameters", "bytes", "multiply-adds"]
    assert [row.split()[0] for row in rows] == list(layer.parameters)
    assert [str(array.shape) in row for row, array in zip(rows, layer.parameters.values(), strict=True)] == [True] * 12
    counts = np.array([row.split()[-3:] for row in rows], int)
    sizes = [array.size for array in layer.parameters.values()]
    assert counts[:, 0].tolist() == sizes
    assert (counts[:, 1] == 4 * counts[:, 0]).all()
    assert counts[:, 2].tolist() == [0 if i % 3 == 2 else size for i, size in enumerate(sizes)]
    assert [int(text) for text in total.split()[1:]] == counts.sum(axis=0).tolist()
    assert len({len(row) for row in [head, *rows, total]}) == 1


def test_repr_of_a_stack_can_be_evaluated():
    layer = make_layer(np.float32, num_layers=2, bidirectional=True, groups=3, dropout=0.25, num_threads=3)
    text = "IndyGRU(9, 33, num_layers=2, dropout=0.25, bidirectional=True, groups=3, dtype=float32)"
    assert repr(layer) == text
    assert repr(eval(text, {"IndyGRU": IndyGRU, "float32": np.float32})) == text


WRONG = [
    *product([{"num_layers": 0}, {"groups": 0}, {"groups": 5}, {"dropout": 1.0}, {"dropout": -0.1}], [ValueError]),
    *product([{"num_layers": 1.5}, {"groups": True}, {"dropout": "0.5"}, {"dropout": True}], [TypeError]),
]


@pytest.mark.parametrize(("options", "kind"), WRONG, ids=str)
def test_wrong_options_of_a_stack_are_refused(options, kind):
    (name,) = options
    with pytest.raises(kind, match=f"^{name}: expected "):
        make_layer(**options)


def test_initial_states_of_too_few_directions_are_refused():
    layer = make_layer(num_layers=2, bidirectional=True)
    call = make_layer_call(layer)
    with pytest.raises(ValueError, match=r"h0: expected shape \(4, 7, 33\), got \(2, 7, 33\)"):
        layer(call["x"], call["h0"][:2])
    zeros = np.zeros_like(call["h0"])
    helpers.assert_same_bits(layer(call["x"])[0], layer(call["x"], zeros)[0])
