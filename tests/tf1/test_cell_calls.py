"""IndyGRUCell: building, and calls of one step."""

from __future__ import annotations

import re

import cells
import numpy as np
import pytest

from indygru_cpu import IndyGRUCell

rng = cells.rng


def random_step_arrays(rng, *shapes, dtype="float64"):
    return [rng.normal(size=shape).astype(dtype) for shape in shapes]


# --- build -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(None, 5), [None, 5], (2, 5, 9), (2, np.int64(5)), (-1, 5.0)])
def test_build_uses_element_1_of_the_shape(shape):
    cell = IndyGRUCell(7)
    cell.build(shape)
    assert cell.built
    assert cell.variables[0].shape == (5, 14)


@pytest.mark.parametrize(
    ("shape", "error", "message"),
    [
        ([None, None], ValueError, r"Expected inputs.shape\[-1\] to be known, saw shape: \[None, None\]"),
        ((3, None), ValueError, r"saw shape: \(3, None\)"),
        ((3, -1), ValueError, "Dimension -1 must be >= 0"),
        ((3, 2.5), ValueError, r"Ambiguous dimension: 2\.5"),
        ((3,), IndexError, "range"),
        (5, TypeError, "subscriptable"),
    ],
)
def test_build_invalid_shape_raises_and_leaves_the_cell_unbuilt(shape, error, message):
    cell = IndyGRUCell(7)
    with pytest.raises(error, match=message):
        cell.build(shape)
    assert not cell.built


def test_build_twice_keeps_variables_and_checks_depth():
    cell = IndyGRUCell(7)
    cell.build((None, 5))
    before = cell.variables
    cell.build((None, 5))
    assert cell.variables == before
    with pytest.raises(ValueError, match=r"indy_gru_cell/gates/kernel_w, .* shape \(9, 14\) .* shape \(5, 14\)"):
        cell.build((None, 9))
    assert cell.variables == before


def test_build_uses_the_dtype_of_the_cell():
    cell = IndyGRUCell(7, dtype="float64")
    cell.build((None, 5))
    assert cell.variables[3].dtype == "float64"


@pytest.mark.parametrize(("batch", "depth", "units"), [(3, 0, 7), (0, 5, 7), (3, 5, 0), (0, 0, 0)])
def test_step_sizes_of_zero_give_empty_results(batch, depth, units, rng):
    x, h, G = random_step_arrays(rng, (batch, depth), (batch, units), (batch, units))
    cell = IndyGRUCell(units)
    assert cell(x, h)[0].shape == (batch, units)
    output, _, tape = cell.forward(x, h)
    grads = cell.backward(tape, G)
    assert output.shape == (batch, units)
    assert grads["inputs"].shape == x.shape
    assert grads["gates/kernel_w"].shape == (depth, 2 * units)


# --- results -----------------------------------------------------------------------------------------------


def test_step_returns_a_tuple_of_the_same_array_twice(rng):
    result = IndyGRUCell(7)(*random_step_arrays(rng, (3, 5), (3, 7)))
    assert type(result) is tuple
    assert result[0] is result[1]
    assert result[0].shape == (3, 7)


def test_step_accepts_inputs_state_and_scope_by_keyword_only(rng):
    x, h = random_step_arrays(rng, (3, 5), (3, 7))
    cell = IndyGRUCell(7)
    by_name = cell(inputs=x, state=h, scope="s")[0]
    np.testing.assert_array_equal(by_name, cell(x, h)[0])
    assert cell.scope_name == "s"
    for wrong in ({"training": True}, {"sequence_length": [3]}):
        with pytest.raises(TypeError):
            cell(x, h, **wrong)


def test_step_does_not_change_its_arguments(rng):
    x, h = random_step_arrays(rng, (3, 5), (3, 7))
    x.flags.writeable = h.flags.writeable = False
    copies = x.copy(), h.copy()
    output, _ = IndyGRUCell(7)(x, h)
    assert not np.shares_memory(output, h)
    np.testing.assert_array_equal(x, copies[0])
    np.testing.assert_array_equal(h, copies[1])


@pytest.mark.parametrize("change", ["reversed", "columns", "big-endian", "misaligned"])
def test_step_result_is_independent_of_memory_layout(change, rng):
    x, h = random_step_arrays(rng, (3, 5), (3, 7))
    relayout = {
        "reversed": lambda a: np.ascontiguousarray(a[::-1, ::-1])[::-1, ::-1],
        "columns": np.asfortranarray,
        "big-endian": lambda a: a.astype(">f8"),
        "misaligned": lambda a: np.frombuffer(b"\0" + a.tobytes(), "u1")[1:].view("f8").reshape(a.shape),
    }[change]
    cell = IndyGRUCell(7)
    expected = cell(x, h)[0]
    np.testing.assert_array_equal(cell(relayout(x), relayout(h))[0], expected)


# --- shapes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (5,), (3, 9, 5), (3, 9, 8, 5)])
def test_step_inputs_of_another_rank_raise_value_error(shape, rng):
    cell = IndyGRUCell(7, name="enc")
    message = (
        f"Input 0 of layer enc is incompatible with the layer: expected ndim=2, found ndim={len(shape)}. "
        f"Full shape received: {list(shape)}"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        cell(rng.normal(size=shape), rng.normal(size=(3, 7)))
    assert not cell.built


@pytest.mark.parametrize("shape", [(3, 8), (3, 1), (7,), (3,), (1, 3, 7), (9, 7), (2, 7), ()])
def test_step_state_of_another_shape_raises_value_error(shape, rng):
    cell = IndyGRUCell(7)
    with pytest.raises(ValueError, match="state: expected"):
        cell(rng.normal(size=(3, 5)), rng.normal(size=shape))
    assert not cell.built


def test_step_batch_of_1_is_broadcast(rng):
    x, h = random_step_arrays(rng, (9, 5), (9, 7))
    cell = IndyGRUCell(7)
    for short_x, short_h in ((x[:1], h), (x, h[:1])):
        full_x, full_h = np.repeat(short_x, 9 // len(short_x), 0), np.repeat(short_h, 9 // len(short_h), 0)
        np.testing.assert_array_equal(cell(short_x, short_h)[0], cell(full_x, full_h)[0])
    assert cell(x[:1], h[:0])[0].shape == (0, 7)


def test_step_without_state_raises(rng):
    (x,), cell = random_step_arrays(rng, (3, 5)), IndyGRUCell(7)
    with pytest.raises(ValueError, match="state: expected an array, got None"):
        cell(x, None)
    for wrapped in ([x[:, :1] * np.full((1, 7), 0.5)], (x[:, :1] * np.full((1, 7), 0.5),)):
        with pytest.raises(ValueError, match="state"):
            cell(x, wrapped)
    with pytest.raises(TypeError, match="state"):
        cell(x)


def test_step_inputs_of_another_depth_raise_value_error(rng):
    x, h, wide = random_step_arrays(rng, (3, 5), (3, 7), (3, 8))
    cell = IndyGRUCell(7)
    cell(x, h)
    with pytest.raises(ValueError, match=r"inputs: expected 5 features .* got 8"):
        cell(wide, h)


# --- dtypes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("inputs", "state"), [("float32", "float64"), ("float64", "float32"), ("float64", "int64")])
def test_step_inputs_and_state_of_different_dtypes_raise_type_error(inputs, state, rng):
    x, h = random_step_arrays(rng, (3, 5), (3, 7))
    message = f"Input 'state' has type {state} that does not match type {inputs} of argument 'inputs'"
    with pytest.raises(TypeError, match=message):
        IndyGRUCell(7)(x.astype(inputs), h.astype(state))


@pytest.mark.parametrize("by", ["argument", "build", "call"])
def test_step_inputs_and_cell_of_different_dtypes_raise_type_error(by, rng):
    x, h = random_step_arrays(rng, (3, 5), (3, 7), dtype="float32")
    cell = IndyGRUCell(7, dtype="float64" if by != "call" else None)
    if by == "build":
        cell.build((None, 5))
    if by == "call":
        cell(x.astype(float), h.astype(float))
    with pytest.raises(TypeError, match=r"'inputs' has type float32 that does not match type float64 .* 'cell'"):
        cell(x, h)


@pytest.mark.parametrize(
    ("dtype", "error"),
    [
        ("bool", ValueError),
        ("complex128", ValueError),
        ("int64", TypeError),
        ("uint8", TypeError),
        ("float16", TypeError),
        ("longdouble", TypeError),
        ("object", TypeError),
        ("str", TypeError),
    ],
)
def test_step_inputs_of_unsupported_dtypes_raise(dtype, error, rng):
    cell = IndyGRUCell(7)
    with pytest.raises(error, match="inputs: expected float32 or float64, got"):
        cell(rng.normal(size=(3, 5)).astype(dtype), rng.normal(size=(3, 7)))
    assert not cell.built


def test_step_nested_lists_are_accepted_as_state_only(rng):
    x, h = random_step_arrays(rng, (3, 5), (3, 7), dtype="float32")
    cell = IndyGRUCell(7)
    for nested in (h.tolist(), tuple(map(tuple, h.tolist())), list(h)):
        np.testing.assert_array_equal(cell(x, nested)[0], cell(x, h)[0])
    with pytest.raises(ValueError, match="inputs: expected one array, got a list"):
        cell(x.tolist(), h)
    with pytest.raises(ValueError, match="inhomogeneous"):
        cell(x, [[0.5, 0.25], [0.5]])


def test_step_masked_arrays_raise_type_error(rng):
    x, h = random_step_arrays(rng, (3, 5), (3, 7))
    with pytest.raises(TypeError, match="inputs: masked"):
        IndyGRUCell(7)(np.ma.masked_less(x, 0), h)
    with pytest.raises(TypeError, match="state: masked"):
        IndyGRUCell(7)(x, np.ma.masked_less(h, 0))
