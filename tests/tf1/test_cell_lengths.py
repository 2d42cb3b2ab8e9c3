"""dynamic_rnn: accepted values of sequence_length, and results and gradients after the last valid step."""

from __future__ import annotations

import re

import cells
import numpy as np
import pytest
from cells import B, N, T

from indygru_cpu import dynamic_rnn

rng = cells.rng
sequence_case = cells.sequence_case


def sequence_gradients(cell, x, lengths, h, G, Gh):
    *_, tape = dynamic_rnn(cell, x, lengths, h, tape=True)
    return tape.backward(G, Gh)


def test_sequence_length_outputs_after_it_are_positive_zeros(sequence_case):
    cell, x, lengths, h = sequence_case
    outputs, final_state = dynamic_rnn(cell, x, lengths, h)
    full, _ = dynamic_rnn(cell, x, initial_state=h)
    for row, length in enumerate(lengths):
        np.testing.assert_array_equal(outputs[row, :length], full[row, :length])
        assert not outputs[row, length:].any()
        assert not np.signbit(outputs[row, length:]).any()
        np.testing.assert_array_equal(final_state[row], full[row, length - 1] if length else h[row])


def test_sequence_length_all_0_returns_zeros_and_the_initial_state(sequence_case):
    cell, x, _, h = sequence_case
    outputs, final_state = dynamic_rnn(cell, x, [0] * B, h)
    assert not outputs.any()
    np.testing.assert_array_equal(final_state, h)


def test_sequence_length_maximum_below_n_steps_equals_shorter_inputs(sequence_case):
    cell, x, lengths, h = sequence_case
    short, last = dynamic_rnn(cell, x[:, :6], np.minimum(lengths, 6), h)
    long, same = dynamic_rnn(cell, x, np.minimum(lengths, 6), h)
    np.testing.assert_array_equal(long[:, :6], short)
    assert not long[:, 6:].any()
    np.testing.assert_array_equal(last, same)


@pytest.mark.parametrize(
    "sequence_length",
    [
        [9, 0, 1, 5, 3, 8, 9, 2],
        (9, 0, 1, 5, 3, 8, 9, 2),
        np.array([10, -1, 1, 5, 3, 8, 300, 2]),
        np.array([127, -128, 1, 5, 3, 8, 9, 2], np.int8),
        np.array([2**64 - 1, 0, 1, 5, 3, 8, 9, 2], np.uint64),
        np.array([2**62, -(2**62), 1, 5, 3, 8, 9, 2]),
        np.array([9.9, -0.5, 1.7, 5.0, 3.999, 8.25, np.inf, 2]),
        np.array([9, 0, 1, 5, 3, 8, 9, 2], ">i4"),
        np.array([9, 0, 1, 5, 3, 8, 9, 2], np.float16),
    ],
)
def test_sequence_length_any_number_type_is_truncated_and_clipped(sequence_length, sequence_case):
    cell, x, lengths, h = sequence_case
    for a, b in zip(dynamic_rnn(cell, x, sequence_length, h), dynamic_rnn(cell, x, lengths, h), strict=True):
        np.testing.assert_array_equal(a, b)


def test_sequence_length_booleans_are_0_and_1(sequence_case):
    cell, x, _, h = sequence_case
    flags = np.array([True, False] * 4)
    for a, b in zip(dynamic_rnn(cell, x, flags, h), dynamic_rnn(cell, x, flags.astype(int), h), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    [
        (np.full((B, 1), 3), ValueError, "must be a vector of length batch_size, but saw shape: (8, 1)"),
        (3, ValueError, "sequence_length must be a vector of length batch_size, but saw shape: ()"),
        ([3] * (B + 1), ValueError, "sequence_length: expected 8 numbers, one for each row, got 9"),
        ([3] * (B - 1), ValueError, "sequence_length: expected 8 numbers, one for each row, got 7"),
        (["3"] * B, TypeError, "sequence_length: expected integers"),
        ([3 + 0j] * B, TypeError, "sequence_length: expected integers"),
        ([3.0] * 7 + [np.nan], ValueError, "sequence_length: expected integers, got NaN"),
    ],
)
def test_sequence_length_invalid_raises(lengths, error, message, sequence_case):
    cell, x, _, h = sequence_case
    with pytest.raises(error, match=re.escape(message)):
        dynamic_rnn(cell, x, lengths, h)


@pytest.mark.parametrize("activation", ["relu", (np.arctan, lambda c: np.cos(c) ** 2)])
@pytest.mark.parametrize("padding_value", [-3e5, np.nan, np.inf])
def test_sequence_length_padding_affects_no_output_and_no_gradient(padding_value, activation, sequence_case, rng):
    cell, x, lengths, h = sequence_case
    cell._activation = activation
    G, Gh = rng.normal(size=(B, T, N)), rng.normal(size=(B, N))
    expected = sequence_gradients(cell, x, lengths, h, G, Gh)
    outputs, final_state = dynamic_rnn(cell, x, lengths, h)
    padding = np.arange(T) >= lengths[:, None]
    x[padding] = padding_value
    G[padding] = padding_value
    for a, b in zip(dynamic_rnn(cell, x, lengths, h), (outputs, final_state), strict=True):
        np.testing.assert_array_equal(a, b)
    grads = sequence_gradients(cell, x, lengths, h, G, Gh)
    assert not grads["inputs"][padding].any()
    for name, gradient in expected.items():
        np.testing.assert_array_equal(grads[name], gradient, err_msg=name)


def test_backward_final_state_gradient_equals_gradient_of_the_last_valid_step(sequence_case, rng):
    cell, x, lengths, h = sequence_case
    Gh = rng.normal(size=(B, N))
    direct = sequence_gradients(cell, x, lengths, h, None, Gh)
    G = np.zeros((B, T, N))
    valid = lengths > 0
    G[valid, lengths[valid] - 1] = Gh[valid]
    moved = sequence_gradients(cell, x, lengths, h, G, None)
    np.testing.assert_array_equal(direct["initial_state"][~valid], Gh[~valid])
    assert not moved["initial_state"][~valid].any()
    np.testing.assert_allclose(direct["initial_state"][valid], moved["initial_state"][valid], atol=1e-12)
    for name in set(direct) - {"initial_state"}:
        np.testing.assert_allclose(direct[name], moved[name], rtol=0, atol=1e-10, err_msg=name)


def test_tape_lengths_changed_after_the_call_have_no_effect(sequence_case):
    cell, x, lengths, h = sequence_case
    expected, _ = dynamic_rnn(cell, x, lengths, h)
    passed_lengths = lengths.copy()
    outputs, _, tape = dynamic_rnn(cell, x, passed_lengths, h, tape=True)
    before = tape.backward(outputs)
    passed_lengths[:] = len(x[0])
    after = tape.backward(outputs)
    np.testing.assert_array_equal(outputs, expected)
    for name, gradient in before.items():
        np.testing.assert_array_equal(after[name], gradient)
