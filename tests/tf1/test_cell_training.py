"""IndyGRUCell and dynamic_rnn: gradients, their arguments, and activations that are Python functions."""

from __future__ import annotations

import cells
import helpers
import numpy as np
import pytest
from cells import VARIABLE_NAMES, B, D, N, T

from indygru_cpu import IndyGRUCell, dynamic_rnn

rng = cells.rng


def soft_clip(x):
    return x / np.sqrt(1 + x * x)


soft_clip.derivative = lambda c: (1 - c * c) ** 1.5

PAIRS = {
    "tanh": (lambda x: np.tanh(x), lambda c: 1 - c * c),
    "relu": (lambda x: np.maximum(x, 0), lambda c: (c > 0).astype(c.dtype)),
    "softsign": (lambda x: x / (1 + np.abs(x)), lambda c: (1 - np.abs(c)) ** 2),
}


def cell_with_random_weights(rng, activation=None, dtype="float64"):
    cell = IndyGRUCell(N, activation, dtype=dtype)
    cell.build((None, D))
    cell.set_weights([rng.normal(size=v.shape).astype(dtype) for v in cell.variables])
    return cell


def assert_scaled_error_below(actual, expected, bound=1e-10):
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
    assert helpers.scaled_error(actual, expected) <= bound


def central_difference(function, array, index, step=1e-6):
    """Central difference of function() with respect to array[index]."""
    values, original = [], array[index]
    for shift in (step, -step):
        array[index] = original + shift
        values.append(function())
    array[index] = original
    return (values[0] - values[1]) / (2 * step)


# --- one step ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["elu", soft_clip])
@pytest.mark.parametrize(("rows_x", "rows_h"), [(B, B), (1, B), (B, 1), (1, 1)])
def test_backward_step_gradients_equal_finite_differences(activation, rows_x, rows_h, rng):
    cell = cell_with_random_weights(rng, activation)
    x, h = rng.normal(size=(rows_x, D)), rng.normal(size=(rows_h, N))
    G = rng.normal(size=(max(rows_x, rows_h), N))
    output, new_state, tape = cell.forward(x, h)
    np.testing.assert_array_equal(output, cell(x, h)[0])
    assert new_state is output
    grads = cell.backward(tape, G)
    arrays = {**cell.named_variables, "inputs": x, "initial_state": h}
    assert list(grads) == [*VARIABLE_NAMES, "inputs", "initial_state"]
    for name, array in arrays.items():
        assert grads[name].shape == array.shape
        for _ in range(4):
            index = tuple(rng.integers(array.shape))
            expected = central_difference(lambda: (cell(x, h)[0] * G).sum(), array, index)
            np.testing.assert_allclose(grads[name][index], expected, rtol=1e-6, atol=1e-7, err_msg=name)


def test_backward_adds_output_and_state_gradients(rng):
    cell = cell_with_random_weights(rng)
    G, Gh = rng.normal(size=(2, B, N))
    *_, tape = cell.forward(rng.normal(size=(B, D)), rng.normal(size=(B, N)))
    both, summed, swapped = (
        cell.backward(tape, G, Gh),
        cell.backward(tape, G + Gh),
        cell.backward(tape, None, G + Gh),
    )
    for name, gradient in both.items():
        assert_scaled_error_below(gradient, summed[name], 1e-12)
        assert_scaled_error_below(swapped[name], summed[name], 1e-12)
    assert not any(gradient.any() for gradient in cell.backward(tape).values())


def test_forward_builds_in_the_scope_argument(rng):
    cell = IndyGRUCell(N)
    cell.forward(rng.normal(size=(B, D)), rng.normal(size=(B, N)), scope="s")
    assert cell.scope_name == "s"


# --- sequences ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_backward_sequence_gradients_equal_those_of_single_steps(dtype, rng):
    cell = cell_with_random_weights(rng, dtype=dtype)
    x, h = rng.normal(size=(B, T, D)).astype(dtype), rng.normal(size=(B, N)).astype(dtype)
    G, Gh = rng.normal(size=(B, T, N)).astype(dtype), rng.normal(size=(B, N)).astype(dtype)
    *_, tape = dynamic_rnn(cell, x, initial_state=h, tape=True)
    whole = tape.backward(G, Gh)
    tapes, state = [], h
    for t in range(T):
        _, state, step_tape = cell.forward(x[:, t], state)
        tapes.append(step_tape)
    sums = {name: np.zeros_like(v) for name, v in cell.named_variables.items()}
    d_state = Gh
    for t, step_tape in reversed(list(enumerate(tapes))):
        grads = cell.backward(step_tape, G[:, t], d_state)
        d_state = grads["initial_state"]
        assert_scaled_error_below(whole["inputs"][:, t], grads["inputs"], 1e-5 if dtype == "float32" else 1e-10)
        for name, total in sums.items():
            total += grads[name]
    for name, total in {**sums, "initial_state": d_state}.items():
        assert_scaled_error_below(whole[name], total, 1e-5 if dtype == "float32" else 1e-10)


@pytest.mark.parametrize("time_major", [False, True])
def test_tape_is_reusable_and_its_outputs_are_read_only(time_major, rng):
    cell = cell_with_random_weights(rng)
    outputs, final_state, tape = dynamic_rnn(
        cell, rng.normal(size=(B, T, D)), dtype="float64", time_major=time_major, tape=True
    )
    first, second = tape.backward(2 * outputs), tape.backward(2 * outputs)
    for name, gradient in first.items():
        np.testing.assert_array_equal(gradient, second[name])
    with pytest.raises(ValueError, match="read-only"):
        outputs[0] = 0
    final_state[...] = 0  # the tape does not refer to it
    np.testing.assert_array_equal(tape.backward(2 * outputs)["inputs"], first["inputs"])


def test_backward_gradient_descent_reduces_the_loss(rng):
    cell = cell_with_random_weights(rng)
    teacher = cell_with_random_weights(rng)
    x = rng.normal(size=(B, T, D))
    target, _ = dynamic_rnn(teacher, x, dtype="float64")
    losses = []
    for _ in range(60):
        outputs, _, tape = dynamic_rnn(cell, x, dtype="float64", tape=True)
        losses.append(((outputs - target) ** 2).mean())
        for name, gradient in tape.backward(2 * (outputs - target)).items():
            if name in cell.named_variables:
                cell.named_variables[name][...] -= 0.003 * gradient
    assert losses[-1] < 0.3 * losses[0]
    assert losses == sorted(losses, reverse=True)


# --- arguments ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("d_output", "d_state", "error", "message"),
    [
        ((B, N + 1), None, ValueError, r"d_output: expected shape \(8, 7\), got \(8, 8\)"),
        (None, (1, N), ValueError, r"d_state: expected shape \(8, 7\), got \(1, 7\)"),
        ((B, N), "float32", TypeError, "d_state has dtype float32"),
    ],
)
def test_backward_step_invalid_gradients_raise(d_output, d_state, error, message, rng):
    cell = cell_with_random_weights(rng)
    *_, tape = cell.forward(rng.normal(size=(B, D)), rng.normal(size=(B, N)))
    d_output = None if d_output is None else rng.normal(size=d_output)
    d_state = rng.normal(size=(B, N)).astype("f4") if d_state == "float32" else d_state and rng.normal(size=d_state)
    with pytest.raises(error, match=message):
        cell.backward(tape, d_output, d_state)


def test_backward_sequence_invalid_gradients_raise(rng):
    cell = cell_with_random_weights(rng)
    *_, tape = dynamic_rnn(cell, rng.normal(size=(B, T, D)), dtype="float64", tape=True)
    with pytest.raises(ValueError, match=r"d_outputs: expected shape \(8, 9, 7\), got \(9, 8, 7\)"):
        tape.backward(rng.normal(size=(T, B, N)))
    with pytest.raises(ValueError, match=r"d_final_state: expected shape \(8, 7\), got \(7,\)"):
        tape.backward(None, rng.normal(size=N))
    with pytest.raises(TypeError, match="d_outputs"):
        tape.backward(rng.normal(size=(B, T, N)).astype("f4"))
    with pytest.raises(TypeError, match=r"tape: expected .*, got str"):
        cell.backward("tape")


# --- activations that are functions ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("lengths", [None, [9, 0, 1, 5, 3, 8, 9, 2], [3, 0, 1, 5, 3, 0, 4, 2]])
def test_activation_function_equals_the_kernels(name, lengths, dtype, rng):
    cell = cell_with_random_weights(rng, name, dtype)
    slow = IndyGRUCell(N, PAIRS[name], dtype=dtype)
    slow.build((None, D))
    slow.set_weights(cell.get_weights())
    x, h, G, Gh = (rng.normal(size=shape).astype(dtype) for shape in [(B, T, D), (B, N), (B, T, N), (B, N)])
    forward, backward = (5e-6, 1e-5) if dtype == "float32" else (1e-12, 1e-10)
    fast, slow_results = (dynamic_rnn(c, x, lengths, h, tape=True) for c in (cell, slow))
    for expected, actual in zip(fast[:2], slow_results[:2], strict=True):
        assert_scaled_error_below(actual, expected, forward)
    expected, actual = (results[2].backward(G, Gh) for results in (fast, slow_results))
    for key, gradient in expected.items():
        assert_scaled_error_below(actual[key], gradient, backward)
    for a, b in zip(dynamic_rnn(slow, x, lengths, h), slow_results[:2], strict=True):
        np.testing.assert_array_equal(a, b)


def test_activation_function_is_not_called_for_padding(rng):
    row_counts = []

    def activation(x):
        row_counts.append(len(x))
        return np.arctan(x)

    cell = cell_with_random_weights(rng, activation)
    dynamic_rnn(cell, rng.normal(size=(B, T, D)), [4, 0, 1, 4, 2, 0, 0, 3], dtype="float64")
    assert row_counts == [5, 4, 3, 2]


@pytest.mark.parametrize("run", [lambda c, x, h: c(x, h), lambda c, x, h: dynamic_rnn(c, x[:, None], initial_state=h)])
@pytest.mark.parametrize(
    ("activation", "error", "message"),
    [
        (lambda x: x.astype("f4"), TypeError, "activation: expected a result of float64, got float32"),
        (lambda x: x[:1], ValueError, r"activation: expected a result of shape \(8, 7\), got \(1, 7\)"),
        (lambda x: 1 / "", TypeError, "unsupported operand"),
    ],
)
def test_activation_function_invalid_result_raises(activation, error, message, run, rng):
    with pytest.raises(error, match=message):
        run(IndyGRUCell(N, activation), rng.normal(size=(B, D)), rng.normal(size=(B, N)))


@pytest.mark.parametrize("activation", [np.arctan, (np.arctan, None), (np.arctan, np.cos, np.sin)])
def test_activation_function_without_derivative_raises_at_backward(activation, rng):
    cell = cell_with_random_weights(rng, activation)
    if isinstance(activation, tuple):
        with pytest.raises(TypeError, match="'tuple' object is not callable"):
            cell.forward(rng.normal(size=(B, D)), rng.normal(size=(B, N)))
        return
    *_, tape = cell.forward(rng.normal(size=(B, D)), rng.normal(size=(B, N)))
    with pytest.raises(ValueError, match=r"activation: expected a derivative .*, got a function without one"):
        cell.backward(tape, rng.normal(size=(B, N)))


def test_activation_derivative_of_another_shape_raises_value_error(rng):
    cell = cell_with_random_weights(rng, (np.arctan, lambda c: np.float64(1)))
    *_, tape = cell.forward(rng.normal(size=(B, D)), rng.normal(size=(B, N)))
    with pytest.raises(ValueError, match=r"derivative of activation: expected a result of shape \(8, 7\), got \(\)"):
        cell.backward(tape, rng.normal(size=(B, N)))


def test_activation_function_named_tanh_is_called(rng):
    def tanh(x):
        return 0.25 * x

    x, h = rng.normal(size=(B, D)), rng.normal(size=(B, N))
    quarter, named = cell_with_random_weights(rng, tanh), cell_with_random_weights(rng, "tanh")
    named.set_weights(quarter.get_weights())
    assert np.abs(quarter(x, h)[0] - named(x, h)[0]).max() > 0.01


def test_activation_function_overflow_does_not_warn(rng):
    cell = cell_with_random_weights(rng, np.exp)
    x = np.full((B, D), 1e300)
    cell(x, rng.normal(size=(B, N)))


@pytest.mark.parametrize("activation", [(np.tanh, lambda y: 1 - y * y), "tanh"], ids=["function", "name"])
def test_tape_state_overwritten_before_backward_has_no_effect(rng, activation):
    cell = IndyGRUCell(7, activation)
    x, h = rng.normal(size=(3, 4, 5)), rng.normal(size=(3, 7))
    for run in (
        lambda state: dynamic_rnn(cell, x, None, state, tape=True),
        lambda state: cell.forward(x[:, 0], state),
    ):
        outputs, _, tape = run(h.copy())
        expected = tape.backward(outputs)
        state = h.copy()
        outputs, _, tape = run(state)
        state[:] = 0
        for name, gradient in tape.backward(outputs).items():
            np.testing.assert_array_equal(gradient, expected[name], err_msg=name)
