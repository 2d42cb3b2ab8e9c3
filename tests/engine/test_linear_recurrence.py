"""Layers without recurrent weights: the gates of many steps are computed at once, with the bits of the recurrence.

A row beside another one runs step by step, and with `reproducible` its bits do not depend on the other row.
"""

from __future__ import annotations

from dataclasses import replace

import helpers
import numpy as np
import pytest

import indygru_cpu
from indygru_cpu import IndyGRU, functional


def linear_case(shape, dtype, activation="tanh", reset_gate=False, seed=0):
    case = helpers.random_case(shape, dtype, activation, seed=seed, reset_gate=reset_gate)
    return replace(case, recurrent_kernel=np.zeros_like(case.recurrent_kernel))


def beside_another_row(case):
    """The same row twice, so that both are in one tile."""
    rows = {name: np.repeat(getattr(case, name), 2, axis=-2) for name in ("x", "h0", "dy", "dh_n")}
    return replace(case, **rows, lengths=None if case.lengths is None else np.repeat(case.lengths, 2))


def results_of_row(case, **options):
    """y, h_n and the gates of the first row of a case."""
    y, h_n, tape = functional.forward(*case.arguments, **case.options, tape=True, reproducible=True, **options)
    n_planes, n = 3 if case.reset_gate else 2, h_n.shape[1]
    gates = tape.gates.reshape(-1, n_planes, n)[:: len(h_n)]
    return {"y": y[:, 0], "h_n": h_n[0], "gates": gates}


def assert_bits_step_by_step(case, **options):
    expected = results_of_row(beside_another_row(case))
    actual = results_of_row(case, **options)
    helpers.assert_same_bits(actual, expected)
    inference = functional.forward(*case.arguments, **case.options, reproducible=True, **options)
    helpers.assert_same_bits({"y": inference[0][:, 0], "h_n": inference[1][0]}, {k: expected[k] for k in ("y", "h_n")})


@pytest.mark.parametrize("reset_gate", [False, True])
@pytest.mark.parametrize("activation", helpers.ACTIVATIONS)
def test_linear_layer_has_the_bits_of_its_steps(tier, dtype, activation, reset_gate):
    for shape in [(3, 1, 5, 2), (4, 1, 5, 8), (61, 1, 9, 15), (300, 1, 3, 32), (61, 1, 9, 67)]:
        case = linear_case(shape, dtype, activation, reset_gate)
        assert_bits_step_by_step(case)
        helpers.assert_close(case.run(), case.expected(), dtype)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("activation", ["tanh", "identity", "mingru"])
def test_states_that_are_not_finite_have_the_bits_of_their_steps(tier, dtype, activation, value):
    """0 * infinity makes the gates NaN from the step after the first infinite state on."""
    case = linear_case((90, 1, 5, 8), dtype, activation)
    x = case.x.copy()
    x[37, 0, 2] = value
    assert_bits_step_by_step(replace(case, x=x))
    h0 = case.h0.copy()
    h0[0, 3] = value
    assert_bits_step_by_step(replace(case, h0=h0))


@pytest.mark.parametrize("plane", [0, 1, 2])
def test_gate_that_is_nan_has_the_bits_of_its_steps(tier, dtype, plane):
    """A NaN of r alone, of z alone or of the candidate alone, by an input or by a bias."""
    case = linear_case((90, 1, 2, 8), dtype, reset_gate=True)
    kernel, x = np.ones_like(case.kernel), np.abs(case.x)
    kernel[1, 8 * plane : 8 * plane + 3] = -1
    x[41] = np.inf
    case = replace(case, kernel=kernel, x=x)
    assert np.isnan(case.run()["y"][42:, 0, :3]).all()
    assert_bits_step_by_step(case)
    bias = case.bias.copy()
    bias[8 * plane + 5] = np.nan
    assert_bits_step_by_step(replace(case, x=np.abs(case.x[:40]), dy=case.dy[:40], bias=bias))


@pytest.mark.parametrize("bias", [-0.0, 0.0, 12.0, 1e30])
def test_biases_have_the_bits_of_the_steps(tier, dtype, bias):
    """With a bias of -0, a pre-activation may be -0; with a large one, units never forget."""
    case = linear_case((90, 1, 5, 8), dtype, "identity")
    x = case.x.copy()
    x[::3] = -0.0
    x[1::3] = np.finfo(dtype).tiny / 4
    h0 = np.where(np.arange(8) % 2, -0.0, case.h0).astype(dtype)
    assert_bits_step_by_step(replace(case, x=x, h0=h0, bias=np.full_like(case.bias, bias)))


def test_recurrent_weights_of_minus_zero_have_the_bits_of_the_steps(tier, dtype):
    case = linear_case((90, 1, 5, 8), dtype)
    assert_bits_step_by_step(replace(case, recurrent_kernel=-case.recurrent_kernel))


def test_linear_layer_of_one_nonzero_recurrent_weight_has_the_bits_of_its_steps(tier, dtype):
    case = linear_case((90, 1, 5, 8), dtype)
    for i in (0, 7, 8, 15):
        u = case.recurrent_kernel.copy()
        u[i] = np.finfo(dtype).tiny
        assert_bits_step_by_step(replace(case, recurrent_kernel=u))


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("bias", [0, 30])
@pytest.mark.parametrize("n_units", [2, 7, 32])
def test_long_linear_sequence_has_the_bits_of_its_steps(tier, dtype, n_threads, bias, n_units):
    case = linear_case((5003, 1, 3, n_units), dtype, "mingru")
    case = replace(case, bias=(case.bias + dtype(bias)).astype(dtype))
    y, h_n = functional.forward(*case.arguments, **case.options, num_threads=n_threads)
    h = case.h0.copy()
    for t in range(5003):
        h = functional.step(case.x[t], h, *case.arguments[2:], activation="mingru", reset_gate=False, out=h)
        if t % 97 == 0:
            helpers.assert_same_bits(y[t], h)
    helpers.assert_same_bits(h_n, h)


def in_pieces(case):
    """y and h_n of calls that are too short for chunks of time."""
    h, outputs = case.h0, []
    for first in range(0, len(case.x), 1999):
        x, lengths = case.x[first : first + 1999], np.clip(case.lengths - first, 0, 1999)
        y, h = functional.forward(
            x, h, *case.arguments[2:], activation=case.activation, reset_gate=case.reset_gate,
            lengths=np.minimum(lengths, len(x)), num_threads=1,
        )  # fmt: skip
        outputs.append(y)
    return {"y": np.concatenate(outputs), "h_n": h}


@pytest.mark.parametrize("reset_gate", [False, True])
@pytest.mark.parametrize("spoiled_step", [None, 2, 9001, 19_999])
@pytest.mark.parametrize("bias", [0, 30])
def test_chunks_of_linear_rows_on_several_threads_have_the_bits_of_the_sequence(dtype, bias, spoiled_step, reset_gate):
    """An input may make a state infinite, in the first chunk or a later one."""
    case = linear_case((20_003, 3, 3, 9), dtype, "identity", reset_gate)
    x, biases = case.x.copy(), case.bias.copy()
    if spoiled_step is not None:
        x[spoiled_step, 1, 0] = np.inf
    biases[-18:-9] += dtype(bias)  # of z
    case = replace(case, x=x, bias=biases, lengths=np.array([20_003, 12_345, 0]))
    if spoiled_step == 19_999:
        case = replace(case, lengths=np.array([20_003, 20_003, 17]))
    before, expected = indygru_cpu.chunk_statistics(), in_pieces(case)
    assert indygru_cpu.chunk_statistics() == before
    for n_threads in (2, 5):
        arguments = {"num_threads": n_threads, **case.options}
        y, h_n = functional.forward(*case.arguments, **arguments)
        helpers.assert_same_bits({"y": y, "h_n": h_n}, expected)
        _, h_n = functional.forward(*case.arguments, **arguments, return_sequences=False)
        helpers.assert_same_bits(h_n, expected["h_n"])
        y, h_n, tape = functional.forward(*case.arguments, **arguments, tape=True)
        helpers.assert_same_bits({"y": y, "h_n": h_n}, expected)
        other = functional.forward(*case.arguments, **case.options, tape=True, num_threads=1)[2]
        helpers.assert_same_bits(tape.gates, other.gates)
    assert indygru_cpu.chunk_statistics().steps > before.steps


def test_rows_of_lengths_and_both_directions_have_the_bits_of_their_steps(dtype):
    layer = IndyGRU(5, 8, 2, bidirectional=True, dtype=dtype, reset_gate=False, activation="mingru", reproducible=True)
    for name, array in layer.parameters.items():
        if name.startswith("recurrent"):
            array[...] = 0
    x = np.random.default_rng(3).standard_normal((70, 1, 5)).astype(dtype)
    for length in (70, 41, 3):
        y, h_n = layer(x, lengths=[length])
        y2, h_n2 = layer(np.repeat(x, 2, axis=1), lengths=[length, length])
        helpers.assert_same_bits(y, np.ascontiguousarray(y2[:, :1]))
        helpers.assert_same_bits(h_n, np.ascontiguousarray(h_n2[:, :1]))
        values, states = layer.ragged(x[:length, 0], [0, length])[:2]
        helpers.assert_same_bits(values, np.ascontiguousarray(y[:length, 0]))
        helpers.assert_same_bits(states, h_n)
