"""The bound layer of the core: arguments that it reads itself, arguments that were checked, and what it refuses."""

from __future__ import annotations

import copy
import gc
import pickle
from dataclasses import replace

import helpers
import numpy as np
import pytest

from indygru_cpu import IndyGRU, functional
from indygru_cpu._engine import _core
from indygru_cpu._engine.arguments import choose_threads

T, B, D, N = 6, 4, 9, 15
KINDS = {
    "one layer": {},
    "groups, float64": {"groups": 3, "dtype": np.float64},
    "stack": {"num_layers": 3, "activation": "relu"},
    "bidirectional stack": {"num_layers": 2, "bidirectional": True},
    "batch first": {"batch_first": True, "bidirectional": True, "bias": False},
    "dropout": {"num_layers": 3, "dropout": 0.3},
}
FORMS = ["padded", "lengths", "one row", "ragged", "recompute", "swapped"]


def layer_and_call(kind, form):
    """A layer, the arguments of a call, and its options."""
    options = {"dtype": np.float32, **KINDS[kind]}
    layer, rng = IndyGRU(D, N, seed=0, **options), np.random.default_rng(7)
    n_states, shape = layer.num_layers * (1 + layer.bidirectional), (T, B, D)
    if layer.batch_first:
        shape = (B, T, D)
    call, state_shape = {}, (n_states, B, N)
    if form in ("one row", "ragged"):
        shape, state_shape = ((T, D), (n_states, N)) if form == "one row" else ((T * B - 3, D), (n_states, B, N))
    if form == "lengths":
        call["lengths"] = np.array([T, 0, 2, 3])
    if form == "ragged":
        call["offsets"] = np.array([1, 7, 7, 12, 20])
    if form == "recompute":
        call["recompute"] = True
    x, h0 = (rng.uniform(-1, 1, size).astype(options["dtype"]) for size in (shape, state_shape))
    if form == "swapped":
        x = x.swapaxes(0, 1).copy().swapaxes(0, 1)
    return layer, (x, h0), call


def run(layer, arguments, call, **requested):
    """Results of inference and training, and the gradients of x, h0 and the parameters."""
    call = dict(call)
    recompute = call.pop("recompute", False)
    if "offsets" in call:
        (x, h0), offsets = arguments, call["offsets"]
        y, h_n = layer.ragged(x, offsets, h0)
        taped_y, taped_h, tape = layer.ragged(x, offsets, h0, tape=True, recompute=recompute)
    else:
        y, h_n = layer(*arguments, **call)
        taped_y, taped_h, tape = layer.forward(*arguments, **call, recompute=recompute)
    dh_n = np.linspace(-1, 1, h_n.size).astype(h_n.dtype).reshape(h_n.shape)
    gradients = layer.backward(tape, np.cos(taped_y), dh_n, **requested)
    without = layer.backward(tape, **requested)
    results = {"y": y, "h_n": h_n, "taped y": taped_y, "taped h_n": taped_h}
    for name, each in (("", gradients), ("of nothing ", without)):
        results |= {name + key: value for key, value in each.parameters.items()} | {f"{name}dh0": each.h0}
        if each.x is not None:
            results[f"{name}dx"] = each.x
    return results


@pytest.fixture
def unchecked():
    """A function that sets whether calls read plain arrays themselves; the default is restored."""
    yield _core.testing.set_unchecked
    _core.testing.set_unchecked(True)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_call_that_reads_arrays_itself_has_the_bits_of_a_checked_call(unchecked, kind, form):
    results = []
    for value in (True, False):
        unchecked(value)
        results.append(run(*layer_and_call(kind, form)))
    assert len(results[0]) >= 6
    helpers.assert_same_bits(*results)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_that_are_not_requested_change_no_bit_of_the_others(kind, form):
    expected = run(*layer_and_call(kind, form))
    for requested in ({"x": False}, {"parameters": False}, {"x": False, "parameters": False}):
        results = run(*layer_and_call(kind, form), **requested)
        helpers.assert_same_bits(results, {name: expected[name] for name in results})
        assert ("dx" in results) == requested.get("x", True)
        assert ("kernel_l0" in results) == requested.get("parameters", True)
        assert "dh0" in results


@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("shape", [(300, 9, 40, 130), (60, 70, 700, 33)], ids=str)
def test_large_gradients_that_are_not_requested_change_no_bit_of_the_others(tier, shape, num_threads):
    """The calls have several tiles and chunks; dx is computed by the micro-kernel and by BLAS."""
    case = helpers.random_case(shape, np.float32, ragged=True)
    expected = case.run(num_threads=num_threads)
    for lengths in (case.lengths, None):
        _, _, tape = functional.forward(*case.arguments, lengths=lengths, tape=True)
        complete = functional.backward(tape, case.dy, case.dh_n, num_threads=num_threads)
        if lengths is not None:
            helpers.assert_same_bits(complete._asdict(), {name: expected[name] for name in complete._fields})
        for x, parameters in ((False, True), (True, False), (False, False)):
            results = functional.backward(tape, case.dy, case.dh_n, x=x, parameters=parameters)._asdict()
            assert [value is None for value in results.values()] == [not x, False, *[not parameters] * 3]
            requested = {name: value for name, value in results.items() if value is not None}
            helpers.assert_same_bits(requested, {name: complete._asdict()[name] for name in requested})


@pytest.mark.parametrize("sizes", [(9, 7), (3, 40), (70, 2)], ids=str)
def test_small_calls_of_many_rows_equal_the_reference(tier, dtype, sizes):
    """The calls are short enough to keep the GIL, and have from one to many tiles of rows."""
    rng = np.random.default_rng(5)
    for lengths in ([8, 1, 0, 33, 17], [2] * 30, [1] * 90, [3, 0] * 40, [5], [1]):
        case = helpers.random_case((max(lengths), len(lengths), *sizes), dtype)
        case = replace(case, lengths=rng.permutation(lengths))
        results = case.forward()
        helpers.assert_close(results, case.expected_forward(), dtype)
        y, h_n, _ = functional.forward(*case.arguments, **case.options, tape=True)
        helpers.assert_same_bits({"y": y, "h_n": h_n}, results)


def bound_layer(weights, **options):
    defaults = {"groups": 1, "activation": 0, "reproducible": False, "has_layer_axis": True, "is_reverse": False}
    return _core.BoundLayer(weights, count_threads=choose_threads, tape_class=None, **{**defaults, **options})


def random_weights(n_inputs=3, n_units=5, dtype=np.float32):
    rng = np.random.default_rng(0)
    shapes = [(n_inputs, 3 * n_units), (3 * n_units,), (3 * n_units,)]
    return [rng.uniform(-1, 1, shape).astype(dtype) for shape in shapes]


def misfits(array):
    """The array with another shape, dtype or memory, none of which the kernels can read as they are."""
    for axis in range(array.ndim):
        yield f"shorter along {axis}", array.take(range(array.shape[axis] - 1), axis).copy()
    yield "another dtype", array.astype(np.float64 if array.dtype == np.float32 else np.float32)
    yield "big-endian", array.astype(array.dtype.newbyteorder())
    yield "one axis more", array[None].copy()
    yield "strided", np.repeat(array, 2, axis=-1)[..., ::2]
    yield "unaligned", np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    yield "list", array.tolist()
    yield "nothing", np.zeros((), array.dtype)


def calls(bound):
    """Each method with arguments that fit, by name, and the index of each array among them."""
    rng = np.random.default_rng(1)
    x, h, y = (rng.uniform(-1, 1, shape).astype(np.float32) for shape in [(6, 4, 3), (1, 4, 5), (6, 4, 5)])
    lengths, offsets = np.array([6, 0, 2, 3]), np.array([0, 3, 3, 6])
    values, ragged_h = x[:, 0].copy(), h[:, :3].copy()
    tape = bound.train(x, h, lengths, None, None, None, False, False, None)[2]
    return {
        "infer": (bound.infer, [x, h, lengths, None, y.copy(), h.copy(), False, True, 1], (0, 1, 4, 5)),
        "ragged": (bound.infer, [values, ragged_h, None, offsets, y[:, 0].copy(), None, False, True, 1], (0, 1, 4)),
        "train": (bound.train, [x, h, lengths, None, y.copy(), h.copy(), False, False, 1], (0, 1, 4, 5)),
        "backward": (bound.backward, [tape, y, h, True, True, 1], (1, 2)),
    }


WRONG_ROWS = {
    "infer": (2, [[7, 0, 2, 3], [-1, 0, 2, 3], [6, 0, 2], [10**12, 0, 2, 3], [[6, 0, 2, 3]]]),
    "ragged": (3, [[1, 0, 3, 6], [-1, 3, 3, 6], [0, 3, 3, 7], [0, 2**62, 3, 6], [0, 6], []]),
    "train": (2, [[7, 0, 2, 3], [-1, 0, 2, 3], [6, 0, 2], [10**12, 0, 2, 3]]),
}


def wrong_calls(name, good, arrays):
    """The arguments with one that does not fit, and its description: arrays, lengths, offsets, num_threads."""
    for i in arrays:
        for description, wrong in misfits(good[i]):
            yield f"{i} {description}", [*good[:i], wrong, *good[i + 1 :]]
    i, values = WRONG_ROWS.get(name, (0, []))
    for wrong in values:
        yield f"{i} {wrong}", [*good[:i], np.array(wrong, np.intp), *good[i + 1 :]]
    if i:
        yield f"{i} of int32", [*good[:i], good[i].astype(np.int32), *good[i + 1 :]]
    for wrong in (0, -1, True, 1.0, "1"):
        yield f"num_threads {wrong!r}", [*good[:-1], wrong]


@pytest.mark.parametrize("name", ["infer", "ragged", "train", "backward"])
def test_bound_layer_refuses_arguments_that_do_not_fit(name):
    """It returns None for a caller that checks them then, and raises if they were checked; nothing is written."""
    method, good, arrays = calls(bound_layer([[random_weights()]]))[name]
    assert method(*good) is not None
    options = {"is_checked": True}
    for description, arguments in wrong_calls(name, good, arrays):
        before = [np.array(value) for value in arguments if isinstance(value, np.ndarray)]
        print(description)  # the last line names the arguments that were not refused
        assert method(*arguments) is None
        with pytest.raises(ValueError, match="expected a shape, strides and values that fit"):
            method(*arguments, **options)
        after = [value for value in arguments if isinstance(value, np.ndarray)]
        assert all(map(helpers.same_bits, after, before)), description


def test_step_of_a_bound_layer_refuses_arguments_that_do_not_fit():
    bound, rng = bound_layer([[random_weights()]], has_layer_axis=False), np.random.default_rng(1)
    good = [rng.uniform(-1, 1, shape).astype(np.float32) for shape in [(4, 3), (4, 5), (4, 5)]]
    assert bound.step(*good) is good[2]
    for i in range(3):
        for description, wrong in misfits(good[i]):
            arguments = [*good[:i], wrong, *good[i + 1 :]]
            print(i, description)
            assert bound.step(*arguments) is None
            with pytest.raises(ValueError, match="expected a shape, strides and values that fit"):
                bound.step(*arguments, True)


@pytest.mark.parametrize("index", range(3))
def test_bound_layer_refuses_weights_that_do_not_fit(index):
    good = random_weights()
    for description, wrong in misfits(good[index]):
        if (index, description) == (0, "shorter along 0"):
            continue  # a kernel of fewer inputs
        weights = [*good[:index], wrong, *good[index + 1 :]]
        print(description)
        with pytest.raises(ValueError, match="expected a shape"):
            bound_layer([[weights]])
    for layers in ([], [[]], [[good], [good]], [[good], []]):
        with pytest.raises((ValueError, IndexError)):
            bound_layer(layers)
    for options in ({"groups": 0}, {"groups": 2}, {"groups": -1}, {"activation": -1}, {"activation": 99}):
        with pytest.raises(ValueError, match="expected a shape"):
            bound_layer([[good]], **options)


@pytest.mark.filterwarnings("ignore:Setting the shape:DeprecationWarning")
def test_weights_reshaped_between_calls_are_refused_by_the_next_call():
    weights = random_weights()
    bound = bound_layer([[weights]])
    x = np.linspace(-1, 1, 24, dtype=np.float32).reshape(2, 4, 3)
    expected = bound.infer(x, None, None, None, None, None, False, True, 1)
    weights[0].shape = (15, 3)
    for is_checked in (False, True):
        with pytest.raises(ValueError, match="layer: expected a shape"):
            bound.infer(x, None, None, None, None, None, False, True, 1, None, is_checked)
    weights[0].shape = (3, 15)
    results = bound.infer(x, None, None, None, None, None, False, True, 1)
    assert all(map(helpers.same_bits, results, expected))


@pytest.mark.filterwarnings("ignore:Setting the shape:DeprecationWarning")
@pytest.mark.parametrize("name", ["x", "y"])
def test_arrays_of_a_tape_reshaped_before_backward_change_no_gradient(name):
    case = helpers.random_case((6, 4, 3, 5), np.float32)
    _, _, tape = functional.forward(*case.arguments, tape=True)
    expected = functional.backward(tape, case.dy)
    array = getattr(tape, name)
    array.shape = (array.size,)
    helpers.assert_same_bits(functional.backward(tape, case.dy)._asdict(), expected._asdict())


def test_x_resized_in_place_before_backward_is_refused():
    """The tape would refer to memory that was freed."""
    case = helpers.random_case((6, 4, 3, 5), np.float32)
    x = case.x.copy()
    _, _, tape = functional.forward(x, *case.arguments[1:], tape=True)
    x.resize(1_000_000, refcheck=False)
    with pytest.raises(ValueError, match="x: expected a shape"):
        functional.backward(tape, case.dy)


def test_tape_of_another_bound_layer_is_refused():
    bound, other = (bound_layer([[random_weights()]]) for _ in range(2))
    x = np.linspace(-1, 1, 24, dtype=np.float32).reshape(2, 4, 3)
    tape = bound.train(x, None, None, None, None, None, False, False, 1)[2]
    for wrong in (tape, None, _core.Tape()):
        with pytest.raises(ValueError, match="tape: expected"):
            other.backward(wrong, None, None, True, True, 1)
    with pytest.raises(TypeError):
        other.backward("tape", None, None, True, True, 1)


def test_objects_that_were_never_initialised_refuse_every_call():
    tape, bound = _core.Tape(), _core.BoundLayer.__new__(_core.BoundLayer)
    assert (tape.layer, tape.x, tape.y, tape.gates, tape.masks, tape.num_threads) == (None, None, None, None, [], None)
    for name in ("y_shape", "h_shape"):
        with pytest.raises(ValueError, match="tape: expected"):
            getattr(tape, name)
    x = np.linspace(-1, 1, 24, dtype=np.float32).reshape(2, 4, 3)
    assert bound.infer(x, None, None, None, None, None, False, True, 1) is None
    assert bound.train(x, None, None, None, None, None, False, False, 1) is None
    assert bound.step(x[0], x[0], None) is None
    for call in (
        lambda: bound.infer(x, None, None, None, None, None, False, True, 1, None, True),
        lambda: bound.backward(tape, None, None, True, True, 1),
        lambda: bound.restore_tape(x, None, None, None, x, None, False, None),
        lambda: bound_layer([[random_weights()]]).backward(tape, None, None, True, True, 1),
    ):
        with pytest.raises(ValueError, match="expected a shape"):
            call()
    initialised = bound_layer([[random_weights()]])
    with pytest.raises(RuntimeError, match="initialised already"):
        initialised.__init__([[random_weights()]], 1, 0, False, choose_threads)


def test_restored_tape_has_the_gradients_of_the_first_one():
    for recompute in (False, True):
        case = helpers.random_case((6, 4, 3, 5), np.float64)
        bound = bound_layer([[case.arguments[2:]]], has_layer_axis=False)
        gates = np.zeros((1, 3 * 5 * 24 + 7))
        y, _, tape = bound.train(case.x, case.h0, None, None, None, None, False, recompute, 1, None, None, gates)
        expected = bound.backward(tape, case.dy, case.dh_n, True, True, 1)
        restored = bound.restore_tape(case.x, case.h0, None, None, y, None if recompute else gates, False, None)
        results = bound.backward(restored, case.dy, case.dh_n, True, True, 1)
        assert all(map(helpers.same_bits, [*results[:2], *results[2][0]], [*expected[:2], *expected[2][0]]))
        for wrong in (gates[:, :100].copy(), gates[0], gates.astype(np.float32)):
            with pytest.raises(ValueError, match="gates: expected"):
                bound.restore_tape(case.x, case.h0, None, None, y, wrong, False, None)
        with pytest.raises(ValueError, match="y: expected"):
            bound.restore_tape(case.x, case.h0, None, None, y[1:], gates, False, None)


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.array])
def test_num_threads_of_an_integer_type_has_the_results_of_an_int(kind):
    case = helpers.random_case((6, 4, 3, 5), np.float64)
    layer, dh_n = IndyGRU(3, 5, dtype=np.float64, seed=0), np.ones((1, 4, 5))
    results = [
        [
            *functional.forward(*case.arguments, num_threads=number),
            *functional.backward(functional.forward(*case.arguments, tape=True, num_threads=number)[2], case.dy),
            *layer(case.x, num_threads=number),
            *layer.ragged(case.x[0], [0, 1, 4], num_threads=number),
            layer.backward(layer.forward(case.x, num_threads=number)[2], dh_n=dh_n).x,
        ]
        for number in (2, kind(2))
    ]
    assert all(map(helpers.same_bits, *results))


def test_groups_whose_product_with_three_overflows_an_int_are_refused():
    kernel, vector, groups = np.zeros((0, 6)), np.zeros(6), 1431655766  # 3 * groups is 2 modulo 2 ** 32
    with pytest.raises(ValueError, match="groups: expected a divisor of N 2"):
        functional.forward(np.zeros((2, 1, 0)), None, kernel, vector, vector, groups=groups)
    with pytest.raises(ValueError, match="groups: expected a divisor of N 2"):
        functional.step(np.zeros((1, 0)), np.zeros((1, 2)), kernel, vector, vector, groups=groups)


def test_tape_of_no_call_is_refused():
    tape = functional.Tape()
    with pytest.raises(TypeError, match="tape: expected"):
        functional.backward(tape)
    for name in ("h_shape", "y_shape"):
        with pytest.raises(ValueError, match="tape: expected"):
            getattr(tape, name)
    assert tape.masks == []


def test_tape_copied_or_pickled_is_refused():
    case = helpers.random_case((6, 4, 3, 5), np.float64)
    tapes = functional.forward(*case.arguments, tape=True)[2], IndyGRU(3, 5, dtype=np.float64).forward(case.x)[2]
    for tape in tapes:
        for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match=r"^tape: expected"):
                duplicate(tape)


def test_stack_with_many_steps_of_no_row_returns_at_once():
    layer = IndyGRU(3, 5, num_layers=2)
    y, h_n = layer(np.zeros((2**50, 0, 3), np.float32))
    assert (y.shape, h_n.shape) == ((2**50, 0, 5), (2, 0, 5))


def test_tape_of_a_call_that_has_not_ended_is_refused():
    """A callback can find it among the objects of the garbage collector."""

    class FoundTape(_core.Tape):
        pass

    weights, refused = [[random_weights(3, 3)], [random_weights(3, 3)]], []
    bound = _core.BoundLayer(weights, 1, 0, False, choose_threads, FoundTape)

    def new_mask(shape):
        for tape in [item for item in gc.get_objects() if type(item) is FoundTape]:
            assert (tape.layer, tape.x, tape.y, tape.num_threads, tape.masks) == (None, None, None, None, [])
            with pytest.raises(ValueError, match="tape: expected"):
                bound.backward(tape, None, None, True, True, 1)
            refused.append(tape.gates)
        return np.ones(shape, np.float32)

    x = np.ones((2, 4, 3), np.float32)
    bound.train(x, None, None, None, None, None, False, False, 1, None, new_mask)
    assert refused == [None]
