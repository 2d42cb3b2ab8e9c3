"""Layers on top of each other, in both directions, in every form of input: against compositions of the reference."""

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
from indygru_cpu._engine import threads
from indygru_cpu._layers import stack


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_stacks_equal_the_reference(tier, dtype, num_layers, bidirectional, ragged, recompute):
    layer = make_layer(dtype, num_layers=num_layers, bidirectional=bidirectional, activation="softsign")
    call = make_layer_call(layer, ragged=ragged)
    expected = oracles.stack_by_reference(layer, call)
    helpers.assert_close(run_layer(layer, call, recompute=recompute), expected, dtype)
    helpers.assert_close(infer_layer(layer, call), forward_results(expected), dtype)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(
    "options", [{"bias": False}, {"groups": 3}, {"activation": "elu", "reproducible": True}], ids=str
)
def test_options_equal_the_reference(dtype, bidirectional, options):
    layer = make_layer(dtype, num_layers=2, bidirectional=bidirectional, **options)
    call = make_layer_call(layer)
    helpers.assert_close(run_layer(layer, call), oracles.stack_by_reference(layer, call), dtype)


@cache
def large(sizes, dtype):
    layer = make_layer(dtype, sizes[2:], num_layers=2, bidirectional=True)
    call = make_layer_call(layer, sizes[:2], ragged=sizes[1] > 2)
    return layer, call, oracles.stack_by_reference(layer, call)


#: (T, B, D, N): several unit tiles and chunks; more row tiles than are wanted; BLAS.
@pytest.mark.parametrize("sizes", [(90, 7, 5, 129), (7, 800, 9, 17), (260, 1, 34, 33)], ids=str)
def test_sizes(tier, dtype, sizes):
    layer, call, expected = large(sizes, dtype)
    helpers.assert_close(run_layer(layer, call), expected, dtype)


def in_form(form, name, array, lengths):
    """An argument or result of a time-major call in a user's form; unbatched, it is the only row's."""
    if name in ("x", "y", "dy"):
        if form == "ragged":
            return oracles.concatenate_rows(array, lengths)
        return np.ascontiguousarray(array.swapaxes(0, 1)) if form == "batch first" else array[:, 0]
    return array[:, 0] if name in ("h0", "h_n", "dh_n") and "unbatched" in form else array


@pytest.mark.parametrize("form", ["batch first", "unbatched", "unbatched, batch first", "ragged"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_forms(dtype, form, bidirectional):
    """The same bits, laid out otherwise: arguments, results and gradients."""
    options = {"num_layers": 2, "bidirectional": bidirectional}
    layer, like = make_layer(dtype, batch_first="batch first" in form, **options), make_layer(dtype, **options)
    call = make_layer_call(layer, (T, 1) if "unbatched" in form else (T, B))
    lengths = call["lengths"]

    def formed(results):
        return {name: in_form(form, name, array, lengths) for name, array in results.items()}

    expected, given = formed(run_layer(like, call)), formed(call)
    assert given["x"].ndim == (3 if form == "batch first" else 2)
    if form == "ragged":
        arguments = given["x"], oracles.offsets_from_lengths(lengths), given["h0"]
        found = oracles.results_and_gradients(layer, given, *layer.ragged(*arguments, tape=True))
        inferred = dict(zip(helpers.FORWARD, layer.ragged(*arguments), strict=True))
    else:
        found, inferred = run_layer(layer, given), infer_layer(layer, given)
    helpers.assert_same_bits(found, expected)
    helpers.assert_same_bits(inferred, forward_results(expected))


def test_the_length_of_the_only_row():
    """A number, or an array of one."""
    layer = make_layer(num_layers=2, bidirectional=True)
    x = make_layer_call(layer)["x"][:, 0]
    for lengths in (9, np.int64(9), np.array(9)):
        helpers.assert_same_bits(layer(x, lengths=lengths)[0], layer(x, lengths=[9])[0])


def test_names_and_shapes_are_torchs():
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


def test_last_states_are_in_the_order_of_torch(dtype):
    """Layer by layer, forward before reverse: the last layer's are y at its rows' last and first steps."""
    layer = make_layer(dtype, num_layers=2, bidirectional=True)
    call = make_layer_call(layer)
    found, rows = infer_layer(layer, call), np.flatnonzero(call["lengths"])
    helpers.assert_same_bits(found["h_n"][2, rows], found["y"][call["lengths"][rows] - 1, rows, :N])
    helpers.assert_same_bits(found["h_n"][3, rows], found["y"][0, rows, N:])
    empty = call["lengths"] == 0
    helpers.assert_same_bits(found["h_n"][:, empty], call["h0"][:, empty])


@pytest.mark.parametrize("recompute", [False, True])
def test_padding_is_never_read(dtype, recompute):
    """NaN past the lengths, in x and in dy: no bit of anything changes. Each row is as if it were alone."""
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
def test_small_and_empty(dtype, sizes, bidirectional):
    layer = make_layer(dtype, num_layers=3, bidirectional=bidirectional)
    call = make_layer_call(layer, sizes, ragged=False)
    expected = oracles.stack_by_reference(layer, call)
    found = run_layer(layer, call)
    helpers.assert_close(found, expected, dtype)
    helpers.assert_same_bits(infer_layer(layer, call), forward_results(found))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_same_bits_on_any_number_of_threads(dtype, bidirectional):
    layer = make_layer(dtype, num_layers=3, bidirectional=bidirectional, groups=3)
    call = make_layer_call(layer, (130, 17))
    assert threads.count(5, call["lengths"].sum() * 3 * N * (3 + 30)) == 5
    expected = run_layer(layer, call, num_threads=1)
    for num_threads in (2, 3, 5):
        helpers.assert_same_bits(run_layer(layer, call, num_threads=num_threads), expected)
        helpers.assert_same_bits(infer_layer(layer, call, num_threads=num_threads), forward_results(expected))


def test_threads_of_a_call_are_what_it_asks_for(monkeypatch):
    """Else the layer's; backward takes those of its forward pass."""
    layer, asked = make_layer(num_layers=2, num_threads=3), []
    monkeypatch.setattr(threads, "count", lambda num_threads, work: asked.append(num_threads) or 1)
    call = make_layer_call(layer)
    values, offsets = call["x"][:, 0], [0, T]
    ways = [layer, layer.last, layer.forward, lambda x, **options: layer.ragged(values, offsets, **options)]
    for way in ways:
        for options, expected in [({}, 3), ({"num_threads": 2}, 2)]:
            asked.clear()
            found = way(call["x"], **options)
            if way == layer.forward:
                layer.backward(found[2])
            assert set(asked) == {expected}


@pytest.mark.parametrize("num_layers", [1, 2])
def test_batch_first_makes_no_copy(monkeypatch, num_layers):
    """Neither of x nor of y: what is allocated is smaller than either."""
    monkeypatch.setattr(stack, "INNER_BYTES", 64 * 1024)
    monkeypatch.setattr(stack, "LEAST_STEPS", 1)
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


def test_summary_adds_up():
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


def test_repr_says_what_is_not_default():
    layer = make_layer(np.float32, num_layers=2, bidirectional=True, groups=3, dropout=0.25, num_threads=3)
    text = "IndyGRU(9, 33, num_layers=2, dropout=0.25, bidirectional=True, groups=3, dtype=float32)"
    assert repr(layer) == text
    assert repr(eval(text, {"IndyGRU": IndyGRU, "float32": np.float32})) == text


WRONG = [
    *product([{"num_layers": 0}, {"groups": 0}, {"groups": 5}, {"dropout": 1.0}, {"dropout": -0.1}], [ValueError]),
    *product([{"num_layers": 1.5}, {"groups": True}, {"dropout": "0.5"}, {"dropout": True}], [TypeError]),
]


@pytest.mark.parametrize(("options", "kind"), WRONG, ids=str)
def test_wrong_options(options, kind):
    (name,) = options
    with pytest.raises(kind, match=f"^{name}: expected "):
        make_layer(**options)


def test_first_states_of_every_layer_and_direction():
    layer = make_layer(num_layers=2, bidirectional=True)
    call = make_layer_call(layer)
    with pytest.raises(ValueError, match=r"h0: expected shape \(4, 7, 33\), got \(2, 7, 33\)"):
        layer(call["x"], call["h0"][:2])
    zeros = np.zeros_like(call["h0"])
    helpers.assert_same_bits(layer(call["x"])[0], layer(call["x"], zeros)[0])
