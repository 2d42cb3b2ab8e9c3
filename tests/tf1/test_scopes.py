"""Names of cells, variables and scopes, and reuse. test_variable_scope.py tests variable_scope."""

from __future__ import annotations

import pickle
import re

import cells
import numpy as np
import pytest
from scopes import ALREADY_EXISTS, DOES_NOT_EXIST, H, X, share_variables, used_cell

from indygru_cpu import (
    AUTO_REUSE,
    IndyGRUCell,
    dynamic_rnn,
    get_variable_scope,
    reset_default_scope,
    variable_scope,
)

rng = cells.rng  # resets the default scope too


# --- names -------------------------------------------------------------------------------------------------


def test_variables_have_the_order_and_names_of_tensorflow():
    with variable_scope("model"):
        cell = used_cell()
    assert [variable.name for variable in cell.variables] == [
        f"model/indy_gru_cell/{name}:0" for name in cells.VARIABLE_NAMES
    ]
    assert list(cell.named_variables) == cells.VARIABLE_NAMES


def test_cell_name_is_set_at_construction_and_scope_name_at_first_use():
    a, b, c = (IndyGRUCell(7) for _ in range(3))
    assert [a.name, b.name, c.name] == ["indy_gru_cell_1", "indy_gru_cell_2", "indy_gru_cell_3"]
    for cell in (c, a, b):
        cell(X, H)
    assert [c.scope_name, a.scope_name, b.scope_name] == [
        "indy_gru_cell",
        "indy_gru_cell_1",
        "indy_gru_cell_2",
    ]
    assert c.variables[2].name == "indy_gru_cell/gates/bias:0"


def test_cell_subclass_default_name_is_its_class_name():
    class NoisyGRUCell(IndyGRUCell):
        pass

    assert NoisyGRUCell(7).name == "noisy_gru_cell_1"


def test_cell_private_subclass_default_name_is_a_valid_scope_name():
    class _Noisy(IndyGRUCell):
        pass

    class _P(IndyGRUCell):
        pass

    assert (_Noisy(7).name, _P(7).name) == ("private__noisy_1", "private_p_1")
    cell = _Noisy(7)
    cell(X, H)
    assert cell.scope_name == "private__noisy"


def test_scope_name_before_first_use_raises_value_error():
    with pytest.raises(ValueError, match=re.escape(
        'No name available for layer scope because the layer "indy_gru_cell_1" has not been used yet. '
    )):  # fmt: skip
        IndyGRUCell(7).scope_name  # noqa: B018


def test_scope_name_second_cell_of_a_name_gets_a_number():
    first, second, third = used_cell("enc"), used_cell("enc", reuse=False), used_cell("enc")
    assert [cell.scope_name for cell in (first, second, third)] == ["enc", "enc_1", "enc_2"]
    assert first.name == second.name == "enc"
    assert not share_variables(first, second)


def test_scope_name_numbers_skip_used_names():
    cells = [
        used_cell(),
        used_cell("indy_gru_cell_2"),
        used_cell(),
        used_cell(),
        used_cell("indy_gru_cell_1"),
        used_cell("indy_gru_cell"),
    ]
    assert [cell.scope_name for cell in cells] == [
        "indy_gru_cell",
        "indy_gru_cell_2",
        "indy_gru_cell_1",
        "indy_gru_cell_3",
        "indy_gru_cell_1_1",
        "indy_gru_cell_4",
    ]


@pytest.mark.parametrize("name", ["x y", "a:0", "ä", "_x", "-x", "a\n", "a\\b"])
def test_scope_name_invalid_raises_value_error(name):
    cell = IndyGRUCell(7, name=name)
    with pytest.raises(ValueError, match=re.escape(f"{name!r} is not a valid scope name")):
        cell(X, H)
    assert not cell.built
    if name[0] in "_-":
        with variable_scope("inside"):
            cell(X, H)
        assert cell.scope_name == f"inside/{name}"


@pytest.mark.parametrize("name", ["a/b", "7", ".a", "A-b_c.d/9"])
def test_scope_name_unusual_characters_are_accepted(name):
    assert used_cell(name).scope_name == name


def test_cell_empty_name_is_the_default_and_other_types_raise():
    assert used_cell("").scope_name == "indy_gru_cell"
    with pytest.raises(TypeError, match="name: expected a string, got 3"):
        used_cell(3)


# --- reuse -------------------------------------------------------------------------------------------------


def test_reuse_true_shares_the_arrays():
    first, twin, other = used_cell("enc"), used_cell("enc", reuse=True), used_cell("enc")
    assert twin.scope_name == "enc"
    assert share_variables(first, twin)
    assert twin.variables == first.variables
    assert not share_variables(first, other)
    np.testing.assert_array_equal(first(X, H)[0], twin(X, H)[0])
    first.variables[2].value[...] += 1
    np.testing.assert_array_equal(first(X, H)[0], twin(X, H)[0])


def test_reuse_true_without_a_name_shares_the_default_name():
    first = used_cell()
    assert share_variables(first, used_cell(reuse=True))


@pytest.mark.parametrize(("name", "scope"), [("foo", "foo"), (None, "indy_gru_cell")])
def test_reuse_true_of_missing_variables_raises_value_error(name, scope):
    cell = IndyGRUCell(7, name=name, reuse=True)
    with pytest.raises(ValueError, match=DOES_NOT_EXIST.format(scope)):
        cell(X, H)
    assert not cell.built
    existing = used_cell(scope)
    cell(X, H)  # the failure has changed nothing
    assert share_variables(cell, existing)


@pytest.mark.parametrize("reuse", [True, AUTO_REUSE])
def test_reuse_of_another_size_or_dtype_raises_value_error(reuse):
    first = used_cell("foo", num_units=4)
    sharing = "Trying to share variable foo/gates/kernel_w, but specified "
    with pytest.raises(ValueError, match=re.escape(sharing + "shape (5, 6) and found shape (5, 8).")):
        used_cell("foo", reuse, num_units=3)
    cell = IndyGRUCell(4, name="foo", reuse=reuse)
    with pytest.raises(ValueError, match=sharing + "dtype float32 and found dtype float64_ref."):
        cell(X.astype("f4"), H[:, :4].astype("f4"))
    assert not cell.built
    assert first.variables[0].shape == (5, 8)


def test_auto_reuse_shares_or_creates_variables():
    first, second = used_cell("enc", AUTO_REUSE), used_cell("enc", AUTO_REUSE)
    assert first.scope_name == second.scope_name == "enc"
    assert share_variables(first, second)
    assert used_cell("enc").scope_name == "enc_1"


@pytest.mark.parametrize("reuse", [3, "yes", 1.0])
def test_reuse_invalid_raises_value_error(reuse):
    with pytest.raises(ValueError, match="The reuse parameter must be True or False or None"):
        used_cell("enc", reuse)
    with pytest.raises(ValueError, match="The reuse parameter must be"), variable_scope("a", reuse=reuse):
        pass


def test_cell_scope_is_fixed_at_first_use():
    cell = used_cell(scope="s")
    before = cell.variables
    with variable_scope("elsewhere"):
        cell(X, H)
        cell(X, H, scope="t")
    assert cell.scope_name == "s"
    assert cell.variables == before


def test_cell_each_call_registers_its_scope():
    first = IndyGRUCell(7)
    dynamic_rnn(first, X[np.newaxis], dtype="float64")  # releases the names inside "rnn" at its end
    first(X, H)
    second = IndyGRUCell(7)
    dynamic_rnn(second, X[np.newaxis], dtype="float64")
    assert (first.scope_name, second.scope_name) == ("rnn/indy_gru_cell", "rnn/indy_gru_cell_1")


def test_auto_reuse_after_a_second_call_creates_new_variables():
    with variable_scope("s", reuse=AUTO_REUSE):
        first = used_cell()
    with variable_scope("s", reuse=AUTO_REUSE):
        first(X, H)
        second = used_cell()
    assert second.scope_name == "s/indy_gru_cell_1"
    assert not share_variables(first, second)


def test_cell_unregistered_variables_calls_register_no_name():
    before = used_cell()
    reset_default_scope()
    before(X, H)
    copy = pickle.loads(pickle.dumps(before))
    copy(X, H)
    assert used_cell().scope_name == "indy_gru_cell"


def test_variable_name_invalid_as_scope_name_raises_value_error():
    root = get_variable_scope()
    with variable_scope("a"), variable_scope(root), pytest.raises(ValueError, match="_x/gates/kernel_w' is not a val"):
        used_cell("_x")


def test_cell_scope_argument_sets_the_scope():
    assert used_cell("enc", scope="s").scope_name == "s"
    first = used_cell(scope="t")
    with pytest.raises(ValueError, match=ALREADY_EXISTS.format("t")):
        used_cell(scope="t")
    assert share_variables(first, used_cell(scope="t", reuse=True))
    with variable_scope("outer"):
        assert used_cell(scope="t").scope_name == "outer/t"
    with pytest.raises(TypeError, match="must be a string or VariableScope, got 3"):
        used_cell(scope=3)
