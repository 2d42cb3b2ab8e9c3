"""What holds for every shape, stride, length and seed: found by hypothesis."""

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
def cases(draw, least=(0, 0, 0), ragged=None):
    """`least` is that of T, B and D."""
    sizes = [draw(st.integers(low, high)) for low, high in zip(least, (21, 13, 19), strict=True)]
    n_units = draw(st.integers(1, 37))
    ragged = draw(st.booleans()) if ragged is None else ragged
    return helpers.random_case((*sizes, n_units), draw(dtypes), draw(activations), ragged, draw(st.integers(0, 99)))


flags = st.fixed_dictionaries({"recompute": st.booleans(), "reproducible": st.booleans()})


@given(cases(), flags)
@settings(max_examples=150)
def test_any_shape_equals_the_reference(case, options):
    helpers.assert_close(case.run(**options), case.expected(), case.x.dtype)


@given(
    cases(),
    flags,
    st.dictionaries(st.sampled_from([*helpers.GRADIENTS, "dy", "dh_n"]), st.sampled_from([*LAYOUTS])),
)
@settings(max_examples=150)
def test_layout_changes_no_bit_and_no_argument(case, options, layouts):
    """Any mixture of strides, byte orders and alignments of any arguments."""
    laid = replace(case, **{name: LAYOUTS[layout](getattr(case, name)) for name, layout in layouts.items()})
    before = laid.copy()
    helpers.assert_same_bits(laid.run(**options), case.run(**options))
    helpers.assert_same_bits(laid.forward(), case.forward())
    helpers.assert_same_bits(laid.arrays, before.arrays)


@given(cases(least=(1, 1, 0)), st.sampled_from(["x", "dy"]), st.integers(0, 1))
def test_broadcast_arguments(case, name, axis):
    """Stride 0 over time or batch."""
    array = getattr(case, name)
    view = np.broadcast_to(array.take([0], axis), array.shape)
    helpers.assert_same_bits(replace(case, **{name: view}).run(), replace(case, **{name: view.copy()}).run())


@given(cases(least=(1, 1, 1), ragged=True), flags)
def test_padding_is_never_read(case, options):
    """NaN past the lengths changes no bit of anything; y there is +0, x's gradient 0, the state is copied."""
    padding = np.arange(len(case.x))[:, None] >= case.lengths
    poisoned = case.copy()
    poisoned.x[padding] = np.nan
    poisoned.dy[padding] = np.nan
    clean, found = case.run(**options), poisoned.run(**options)
    helpers.assert_same_bits(found, clean)
    assert not found["y"][padding].view(f"u{case.x.itemsize}").any()
    assert not found["x"][padding].any()
    empty = case.lengths == 0
    helpers.assert_same_bits(found["h_n"][empty], case.h0[empty])
    helpers.assert_same_bits(found["h0"][empty], case.dh_n[empty])
    for row in np.flatnonzero(~empty):
        helpers.assert_same_bits(found["h_n"][row], found["y"][case.lengths[row] - 1, row])


@pytest.mark.usefixtures("tier")
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_rows_and_padding_are_apart_in_blas_too(dtype, poison):
    """At a size where BLAS multiplies several rows at once: what is in one of them stays there."""
    case = helpers.random_case(helpers.THROUGH_BLAS[2], dtype, ragged=True)
    clean, poisoned = case.run(), case.copy()
    poisoned.x[np.arange(140)[:, None] >= case.lengths] = poison
    helpers.assert_same_bits(poisoned.run(), clean)
    row = int(case.lengths.argmax())
    poisoned.x[3, row, 5] = poison
    found, others = poisoned.run(), np.arange(17) != row
    for name in ("y", "x"):
        helpers.assert_same_bits(found[name][:, others], clean[name][:, others])
    helpers.assert_same_bits(found["h0"][others], clean["h0"][others])
    assert not helpers.same_bits(found["y"][:, row], clean["y"][:, row])


def places(data, shape):
    return tuple(data.draw(st.integers(0, size - 1)) for size in shape)


@given(cases(least=(1, 2, 1)), flags, st.sampled_from([np.nan, np.inf, -np.inf]), st.data())
def test_poisoned_input_stays_in_its_row(case, options, poison, data):
    step, row, column = places(data, case.x.shape)
    clean, poisoned = case.run(**options), case.copy()
    poisoned.x[step, row, column] = poison
    found = poisoned.run(**options)
    others = np.arange(case.x.shape[1]) != row
    for name in ("y", "x"):
        helpers.assert_same_bits(found[name][:, others], clean[name][:, others])
    for name in ("h_n", "h0"):
        helpers.assert_same_bits(found[name][others], clean[name][others])
    helpers.assert_same_bits(found["y"][:step], clean["y"][:step])


@given(cases(least=(1, 2, 1)), flags, st.sampled_from([np.nan, np.inf, -np.inf]), st.data())
def test_poisoned_state_stays_in_its_row_and_unit(case, options, poison, data):
    row, unit = places(data, case.h0.shape)
    clean, poisoned = case.run(**options), case.copy()
    poisoned.h0[row, unit] = poison
    found = poisoned.run(**options)
    others = np.ones(case.h0.shape, bool)
    others[row, unit] = False
    helpers.assert_same_bits(found["y"][:, others], clean["y"][:, others])
    for name in ("h_n", "h0"):
        helpers.assert_same_bits(found[name][others], clean[name][others])
    other_rows = np.arange(len(case.h0)) != row
    helpers.assert_same_bits(found["x"][:, other_rows], clean["x"][:, other_rows])
    other_units = np.arange(case.h0.shape[1]) != unit
    for name in ("kernel", "recurrent_kernel", "bias"):
        planes = [array[name].reshape(-1, 3, case.h0.shape[1])[..., other_units] for array in (found, clean)]
        helpers.assert_same_bits(*planes)


@given(cases(least=(1, 1, 1)), flags, st.data())
def test_poisoned_recurrent_weight_stays_in_its_unit(case, options, data):
    (column,) = places(data, case.recurrent_kernel.shape)
    clean, poisoned = case.run(**options), case.copy()
    poisoned.recurrent_kernel[column] = np.nan
    found = poisoned.run(**options)
    others = np.arange(case.h0.shape[1]) != column % case.h0.shape[1]
    for name in ("y", "h_n", "h0"):
        helpers.assert_same_bits(found[name][..., others], clean[name][..., others])


@given(cases(least=(1, 1, 0)), st.data())
@settings(max_examples=60)
def test_reproducible_row_depends_on_itself_alone(case, data):
    """Alone, permuted, among other rows: always the same bits."""
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
    company = case.copy()
    company.x[:, np.arange(n_batch) != row] = 3.25
    helpers.assert_same_bits(company.forward(reproducible=True)["y"][:, row], whole["y"][:, row])


@given(cases(least=(1, 0, 0), ragged=False), st.data())
@settings(max_examples=60)
def test_reproducible_split_of_time(case, data):
    """Cut anywhere, state carried over: the same bits as in one piece, and as step by step."""
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


@given(cases(least=(0, 0, 0)), flags)
def test_backward_is_linear_in_what_comes_from_above(case, options):
    """Of dy alone plus of dh_n alone is of both; of neither it is exactly zero."""
    _, _, tape = functional.forward(*case.arguments, **case.options, tape=True, **options)
    both = functional.backward(tape, case.dy, case.dh_n)
    parts = [functional.backward(tape, case.dy), functional.backward(tape, dh_n=case.dh_n)]
    for name in helpers.GRADIENTS:
        total = sum(getattr(part, name).astype(np.float64) for part in parts)
        assert helpers.scaled_error(getattr(both, name), total) <= helpers.bound(name, case.x.dtype)
    for array in functional.backward(tape):
        assert not array.any()


@given(cases(), flags)
def test_a_tape_can_be_used_again(case, options):
    y, _, tape = functional.forward(*case.arguments, **case.options, tape=True, **options)
    before = y.copy()
    first = functional.backward(tape, case.dy, case.dh_n)
    helpers.assert_same_bits(functional.backward(tape, case.dy, case.dh_n)._asdict(), first._asdict())
    helpers.assert_same_bits(y, before)
