"""Properties of every shape, stride, length and seed, tested with hypothesis."""

from __future__ import annotations

from dataclasses import replace

import helpers
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import LAYOUTS

from indygru_cpu import functional

dtypes = st.sampled_from(helpers.DTYPES)
activations = st.sampled_from(helpers.ACTIVATIONS)


@st.composite
def cases(draw, min_sizes=(0, 0, 0), ragged=None, reset_gate=True):
    """`min_sizes` are those of T, B and D. Arguments of None are drawn."""
    sizes = [draw(st.integers(low, high)) for low, high in zip(min_sizes, (21, 13, 19), strict=True)]
    n_units = draw(st.integers(1, 37))
    ragged = draw(st.booleans()) if ragged is None else ragged
    reset_gate = draw(st.booleans()) if reset_gate is None else reset_gate
    options = draw(dtypes), draw(activations), ragged, draw(st.integers(0, 99)), reset_gate
    return helpers.random_case((*sizes, n_units), *options)


flags = st.fixed_dictionaries({"recompute": st.booleans(), "reproducible": st.booleans()})


@given(cases(reset_gate=None), flags)
@settings(max_examples=150)
def test_case_of_any_shape_equals_the_reference(case, options):
    helpers.assert_close(case.run(**options), case.expected(), case.x.dtype)


@given(
    cases(reset_gate=None),
    flags,
    st.dictionaries(st.sampled_from([*helpers.GRADIENTS, "dy", "dh_n"]), st.sampled_from([*LAYOUTS])),
)
@settings(max_examples=150)
def test_layouts_of_arguments_change_no_bit_and_no_argument(case, options, layouts):
    """Arguments have any mixture of strides, byte orders and alignments."""
    arranged = replace(case, **{name: LAYOUTS[layout](getattr(case, name)) for name, layout in layouts.items()})
    before = arranged.copy()
    helpers.assert_same_bits(arranged.run(**options), case.run(**options))
    helpers.assert_same_bits(arranged.forward(), case.forward())
    helpers.assert_same_bits(arranged.arrays, before.arrays)


@given(cases(min_sizes=(1, 1, 0)), st.sampled_from(["x", "dy"]), st.integers(0, 1))
def test_broadcast_arguments_have_same_bits(case, name, axis):
    """The stride over time or batch is 0."""
    array = getattr(case, name)
    view = np.broadcast_to(array.take([0], axis), array.shape)
    helpers.assert_same_bits(replace(case, **{name: view}).run(), replace(case, **{name: view.copy()}).run())


@given(cases(min_sizes=(1, 1, 1), ragged=True), flags)
def test_nan_in_padding_changes_no_bit(case, options):
    """y of padding is +0, the gradient of x there is 0, and the state of an empty row is copied."""
    padding = np.arange(len(case.x))[:, None] >= case.lengths
    poisoned = case.copy()
    poisoned.x[padding] = np.nan
    poisoned.dy[padding] = np.nan
    clean, results = case.run(**options), poisoned.run(**options)
    helpers.assert_same_bits(results, clean)
    assert not results["y"][padding].view(f"u{case.x.itemsize}").any()
    assert not results["x"][padding].any()
    empty = case.lengths == 0
    helpers.assert_same_bits(results["h_n"][empty], case.h0[empty])
    helpers.assert_same_bits(results["h0"][empty], case.dh_n[empty])
    for row in np.flatnonzero(~empty):
        helpers.assert_same_bits(results["h_n"][row], results["y"][case.lengths[row] - 1, row])


@pytest.mark.usefixtures("tier")
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_nan_through_blas_changes_no_other_row(dtype, poison):
    """BLAS multiplies several rows at once at this size."""
    case = helpers.random_case(helpers.THROUGH_BLAS[2], dtype, ragged=True)
    clean, poisoned = case.run(), case.copy()
    poisoned.x[np.arange(140)[:, None] >= case.lengths] = poison
    helpers.assert_same_bits(poisoned.run(), clean)
    row = int(case.lengths.argmax())
    poisoned.x[3, row, 5] = poison
    results, other_rows = poisoned.run(), np.arange(17) != row
    for name in ("y", "x"):
        helpers.assert_same_bits(results[name][:, other_rows], clean[name][:, other_rows])
    helpers.assert_same_bits(results["h0"][other_rows], clean["h0"][other_rows])
    assert not helpers.same_bits(results["y"][:, row], clean["y"][:, row])


def random_index(data, shape):
    return tuple(data.draw(st.integers(0, size - 1)) for size in shape)


@given(cases(min_sizes=(1, 2, 1)), flags, st.sampled_from([np.nan, np.inf, -np.inf]), st.data())
def test_poisoned_input_changes_no_other_row(case, options, poison, data):
    step, row, column = random_index(data, case.x.shape)
    clean, poisoned = case.run(**options), case.copy()
    poisoned.x[step, row, column] = poison
    results = poisoned.run(**options)
    other_rows = np.arange(case.x.shape[1]) != row
    for name in ("y", "x"):
        helpers.assert_same_bits(results[name][:, other_rows], clean[name][:, other_rows])
    for name in ("h_n", "h0"):
        helpers.assert_same_bits(results[name][other_rows], clean[name][other_rows])
    helpers.assert_same_bits(results["y"][:step], clean["y"][:step])


@given(cases(min_sizes=(1, 2, 1)), flags, st.sampled_from([np.nan, np.inf, -np.inf]), st.data())
def test_poisoned_state_changes_no_other_row_or_unit(case, options, poison, data):
    row, unit = random_index(data, case.h0.shape)
    clean, poisoned = case.run(**options), case.copy()
    poisoned.h0[row, unit] = poison
    results = poisoned.run(**options)
    unaffected = np.ones(case.h0.shape, bool)
    unaffected[row, unit] = False
    helpers.assert_same_bits(results["y"][:, unaffected], clean["y"][:, unaffected])
    for name in ("h_n", "h0"):
        helpers.assert_same_bits(results[name][unaffected], clean[name][unaffected])
    other_rows = np.arange(len(case.h0)) != row
    helpers.assert_same_bits(results["x"][:, other_rows], clean["x"][:, other_rows])
    other_units = np.arange(case.h0.shape[1]) != unit
    for name in ("kernel", "recurrent_kernel", "bias"):
        planes = [array[name].reshape(-1, 3, case.h0.shape[1])[..., other_units] for array in (results, clean)]
        helpers.assert_same_bits(*planes)


@given(cases(min_sizes=(1, 1, 1)), flags, st.data())
def test_poisoned_recurrent_weight_changes_no_other_unit(case, options, data):
    (column,) = random_index(data, case.recurrent_kernel.shape)
    clean, poisoned = case.run(**options), case.copy()
    poisoned.recurrent_kernel[column] = np.nan
    results = poisoned.run(**options)
    other_units = np.arange(case.h0.shape[1]) != column % case.h0.shape[1]
    for name in ("y", "h_n", "h0"):
        helpers.assert_same_bits(results[name][..., other_units], clean[name][..., other_units])


@given(cases(min_sizes=(1, 1, 0)), st.data())
@settings(max_examples=60)
def test_reproducible_row_has_same_bits_in_any_batch(case, data):
    """The row is computed alone, in another order, and among other rows."""
    n_batch = case.x.shape[1]
    whole = case.forward(reproducible=True)
    row = data.draw(st.integers(0, n_batch - 1))

    def rows(index):
        lengths = None if case.lengths is None else case.lengths[index]
        return replace(case, x=case.x[:, index], h0=case.h0[index], lengths=lengths)

    alone = rows([row]).forward(reproducible=True)
    helpers.assert_same_bits(alone["y"], whole["y"][:, [row]])
    order = data.draw(st.permutations(range(n_batch)))
    helpers.assert_same_bits(rows(order).forward(reproducible=True)["y"], whole["y"][:, order])
    crowded = case.copy()
    crowded.x[:, np.arange(n_batch) != row] = 3.25
    helpers.assert_same_bits(crowded.forward(reproducible=True)["y"][:, row], whole["y"][:, row])


@given(cases(min_sizes=(1, 0, 0), ragged=False), st.data())
@settings(max_examples=60)
def test_reproducible_sequence_in_two_parts_has_same_bits(case, data):
    """The sequence is cut anywhere, with the state carried over, and run step by step."""
    whole = case.forward(reproducible=True)
    cut = data.draw(st.integers(0, len(case.x)))
    first = replace(case, x=case.x[:cut]).forward(reproducible=True)
    second = replace(case, x=case.x[cut:], h0=first["h_n"]).forward(reproducible=True)
    helpers.assert_same_bits(np.concatenate([first["y"], second["y"]]), whole["y"])
    helpers.assert_same_bits(second["h_n"], whole["h_n"])
    h = case.h0
    for x_t, y_t in zip(case.x, whole["y"], strict=True):
        h = functional.step(x_t, h, *case.arguments[2:], activation=case.activation)
        helpers.assert_same_bits(h, y_t)


@given(cases(min_sizes=(0, 0, 0)), flags)
def test_backward_is_linear_in_the_upstream_gradients(case, options):
    """Gradients of dy and of dh_n add up to those of both; without either they are exactly zero."""
    _, _, tape = functional.forward(*case.arguments, **case.options, tape=True, **options)
    both = functional.backward(tape, case.dy, case.dh_n)
    parts = [functional.backward(tape, case.dy), functional.backward(tape, dh_n=case.dh_n)]
    for name in helpers.GRADIENTS:
        total = sum(getattr(part, name).astype(np.float64) for part in parts)
        assert helpers.scaled_error(getattr(both, name), total) <= helpers.bound(name, case.x.dtype)
    for array in functional.backward(tape):
        assert not array.any()


@given(cases(), flags)
def test_tape_used_twice_gives_same_gradients(case, options):
    y, _, tape = functional.forward(*case.arguments, **case.options, tape=True, **options)
    before = y.copy()
    first = functional.backward(tape, case.dy, case.dh_n)
    helpers.assert_same_bits(functional.backward(tape, case.dy, case.dh_n)._asdict(), first._asdict())
    helpers.assert_same_bits(y, before)
