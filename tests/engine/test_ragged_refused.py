"""Wrong offsets and values are refused; offsets of any integer kind are accepted."""

from __future__ import annotations

import helpers
import numpy as np
import oracles
import pytest

from indygru_cpu import IndyGRU, functional

#: Every refusal has the same text whether or not compiled code could read the other arguments itself.
pytestmark = pytest.mark.usefixtures("both_ways")


@pytest.mark.parametrize("kind", [list, tuple, np.int8, np.uint16, np.uint64, ">i4", "strided", "read-only"])
def test_offsets_of_any_integer_kind_have_same_bits(kind):
    case = helpers.random_case((9, 7, 8, 17), np.float32, ragged=True)
    values, plain = oracles.concatenate_rows(case.x, case.lengths), oracles.offsets_from_lengths(case.lengths)
    offsets = kind(plain.tolist()) if kind in (list, tuple) else plain
    if kind == "strided":
        offsets = np.repeat(plain, 2)[::2]
    elif kind == "read-only":
        offsets.flags.writeable = False
    elif kind not in (list, tuple):
        offsets = plain.astype(kind)
    expected = functional.forward(values, *case.arguments[1:], offsets=plain.copy())
    results = functional.forward(values, *case.arguments[1:], offsets=offsets)
    helpers.assert_same_bits(dict(enumerate(results)), dict(enumerate(expected)))


WRONG_OFFSETS = [
    ([0, 4, 10], ValueError, r"expected values from 0 to 9, got 0 to 10"),
    ([-1, 4, 9], ValueError, r"expected values from 0 to 9, got -1 to 9"),
    ([0, 5, 4, 9], ValueError, "expected non-decreasing values, got 5, 4 for row 1"),
    (np.array([0, 7, 2, 9], np.uint8), ValueError, "expected non-decreasing values, got 7, 2 for row 1"),
    ([0, 7, 5, 6, 2, 9], ValueError, "expected non-decreasing values, got 7, 5 for row 1"),
    ([0, 40, 9], ValueError, "expected non-decreasing values, got 40, 9 for row 1"),
    (np.array([0, 2**63 + 5], np.uint64), ValueError, "expected values from 0 to 9, got 0 to 9223372036854775813"),
    (np.array([], int), ValueError, r"expected shape \(B \+ 1,\), got \(0,\)"),
    ([[0, 9]], ValueError, r"expected shape \(B \+ 1,\), got \(1, 2\)"),
    (9, ValueError, r"expected shape \(B \+ 1,\), got \(\)"),
    ([0.0, 9.0], TypeError, "expected integers, got float64"),
    ([False, True], TypeError, "expected integers, got bool"),
    (["0", "9"], TypeError, "expected integers, got <U1"),
]


@pytest.mark.parametrize(("wrong", "kind", "text"), WRONG_OFFSETS, ids=[text for *_, text in WRONG_OFFSETS])
def test_wrong_offsets_are_refused_and_nothing_is_written(wrong, kind, text):
    layer, values = IndyGRU(3, 7, seed=7), np.full((9, 3), 0.5, np.float32)
    out = np.full((9, 7), 0.375, np.float32)
    for call in (layer.ragged, lambda *arguments, **options: functional.forward(
        arguments[0], None, *layer.parameters.values(), offsets=arguments[1], **options
    )):  # fmt: skip
        with pytest.raises(kind, match=f"^offsets: {text}"):
            call(values, wrong, out=out)
    assert (out == 0.375).all()


WRONG_VALUES = [
    (np.full((9, 4), 0.5, np.float32), ValueError, r"values: expected shape \(sum of lengths, 3\), got \(9, 4\)"),
    (np.full((9, 2, 3), 0.5, np.float32), ValueError, r"values: expected shape .*, got \(9, 2, 3\)"),
    (np.full((9, 3), 0.5), TypeError, "values has dtype float64, but the layer has float32"),
    ([[0.5, 0.25, 0.125], [0.5]], ValueError, "values: expected an array"),
]


@pytest.mark.parametrize(("wrong", "kind", "text"), WRONG_VALUES, ids=[text for *_, text in WRONG_VALUES])
def test_wrong_values_are_refused(wrong, kind, text):
    with pytest.raises(kind, match=f"^{text}"):
        IndyGRU(3, 7, seed=7).ragged(wrong, [0, 9])


def test_initial_states_of_another_number_of_rows_are_refused():
    with pytest.raises(ValueError, match=r"h0: expected shape \(1, 2, 7\), got \(1, 3, 7\)"):
        IndyGRU(3, 7, seed=7).ragged(np.full((9, 3), 0.5, np.float32), [0, 4, 9], np.zeros((1, 3, 7), np.float32))


def test_lengths_with_offsets_are_refused():
    case = helpers.random_case((9, 1, 3, 7), np.float32)
    with pytest.raises(ValueError, match=r"lengths: .*offsets.*one of the two"):
        functional.forward(case.x[:, 0], *case.arguments[1:], lengths=[9], offsets=[0, 9])


def test_gradients_of_ragged_rows_in_another_shape_are_refused():
    case = helpers.random_case((9, 2, 3, 7), np.float32)
    _, _, tape = functional.forward(case.x[:, 0], *case.arguments[1:], offsets=[0, 4, 9], tape=True)
    with pytest.raises(ValueError, match=r"dy: expected shape \(9, 7\), got \(9, 2, 7\)"):
        functional.backward(tape, case.dy)
    layer = IndyGRU(3, 7, seed=7)
    with pytest.raises(ValueError, match="out, h_out: expected None with tape=True"):
        layer.ragged(case.x[:, 0], [0, 9], tape=True, out=np.empty((9, 7), np.float32))
    _, _, tape = layer.ragged(case.x[:, 0], [0, 4, 9], tape=True)
    with pytest.raises(ValueError, match=r"dy: expected shape \(9, 7\), got \(4, 7\)"):
        layer.backward(tape, case.dy[:4, 0])
