"""variable_scope: names, nesting, re-entry, inherited reuse, errors."""

from __future__ import annotations

import cells
import numpy as np
import pytest
from scopes import ALREADY_EXISTS, share_variables, used_cell

from indygru_cpu import AUTO_REUSE, get_variable_scope, initializers, variable_scope

rng = cells.rng  # resets the default scope too


def test_variable_scope_nested_scopes_number_cells_separately():
    with variable_scope("decoder") as outer:
        with variable_scope("layer"):
            first, second = used_cell(), used_cell()
        third = used_cell()
        assert get_variable_scope() is outer
    assert [cell.scope_name for cell in (first, second, third)] == [
        "decoder/layer/indy_gru_cell",
        "decoder/layer/indy_gru_cell_1",
        "decoder/indy_gru_cell",
    ]
    assert get_variable_scope().name == ""


def test_variable_scope_entered_by_name_again_requires_reuse():
    with variable_scope("decoder"):
        first = used_cell()
    with variable_scope("decoder"), pytest.raises(ValueError, match=ALREADY_EXISTS.format("decoder/indy_gru_cell")):
        used_cell()
    with variable_scope("decoder", reuse=True):
        assert share_variables(first, used_cell())
    with variable_scope("decoder", reuse=AUTO_REUSE):
        assert share_variables(first, used_cell())
        assert used_cell().scope_name == "decoder/indy_gru_cell_1"


def test_variable_scope_reuse_is_inherited():
    with variable_scope("a"), variable_scope("b"):
        first = used_cell("enc")
    with variable_scope("a", reuse=True), variable_scope("b", reuse=False) as scope:
        assert scope.reuse is True
        assert share_variables(first, used_cell("enc"))
    with variable_scope("a", reuse=np.bool_(True)), variable_scope("b"):
        assert share_variables(first, used_cell("enc", reuse=False))


def test_variable_scope_object_can_be_entered_again():
    with variable_scope("a", initializer="ones") as scope:
        first = used_cell()
    with variable_scope("elsewhere"), variable_scope(scope, reuse=True) as same:
        assert (same.name, same.reuse) == ("a", True)
        assert repr(same) == "<VariableScope 'a' reuse=True>"
        assert share_variables(first, used_cell())
    with variable_scope(scope, initializer=initializers.Constant(3)):
        other = used_cell("other")
    assert other.scope_name == "a/other"
    assert (first.variables[0].value == 1).all()
    assert (other.variables[0].value == 3).all()
    assert used_cell(scope=scope, name="ignored").scope_name == "a"


def test_variable_scope_reentered_while_open_continues_numbering():
    with variable_scope("a") as scope:
        first = used_cell()
        with variable_scope(scope):
            second = used_cell()
        with pytest.raises(ValueError, match=ALREADY_EXISTS.format("a/indy_gru_cell_1")):
            used_cell()  # leaving the re-entered scope has released the name
    assert [first.scope_name, second.scope_name] == ["a/indy_gru_cell", "a/indy_gru_cell_1"]


def test_reuse_variables_sets_reuse():
    with variable_scope("a") as scope:
        first = used_cell("enc")
        scope.reuse_variables()
        assert share_variables(first, used_cell("enc", reuse=True))
    with variable_scope(scope):
        assert share_variables(first, used_cell("enc"))


def test_variable_scope_default_name_gets_numbers():
    names = []
    for _ in range(3):
        with variable_scope(None, default_name="block") as scope:
            names.append((scope.name, used_cell().scope_name))
    assert names == [(name, f"{name}/indy_gru_cell") for name in ("block", "block_1", "block_2")]
    with variable_scope("block", default_name="unused") as scope:
        assert scope.name == "block"
    with (
        pytest.raises(TypeError, match="If default_name is None then name_or_scope is required"),
        variable_scope(None),
    ):
        pass
    with pytest.raises(ValueError, match="reuse=True cannot be used without a name_or_scope"):  # noqa: SIM117
        with variable_scope(None, default_name="block", reuse=True):
            pass


def test_variable_scope_empty_name_inside_a_scope_adds_a_slash():
    with variable_scope("a"), variable_scope("") as scope:
        assert scope.name == "a/"
        assert [used_cell().scope_name, used_cell().scope_name] == ["a//indy_gru_cell", "a//indy_gru_cell_1"]


def test_variable_scope_empty_name_at_top_level_is_the_default_scope():
    with variable_scope("") as scope:
        assert scope.name == ""
        assert used_cell().scope_name == "indy_gru_cell"
    assert used_cell().scope_name == "indy_gru_cell_1"


@pytest.mark.parametrize("name", [3, b"a", ["a"]])
def test_variable_scope_other_types_raise_type_error(name):
    with pytest.raises(TypeError, match="must be a string or VariableScope"), variable_scope(name):
        pass


@pytest.mark.parametrize("name", ["a b", "_a", "a:0"])
def test_variable_scope_invalid_name_raises_value_error(name):
    with pytest.raises(ValueError, match="is not a valid scope name"), variable_scope(name):
        pass
    assert get_variable_scope().name == ""


def test_variable_scope_error_inside_leaves_the_scope():
    with pytest.raises(KeyError), variable_scope("a"), variable_scope("b"):
        raise KeyError
    assert get_variable_scope().name == ""


def test_variable_scope_names_of_a_multi_rnn_cell_are_reproduced():
    names = []
    with variable_scope("multi_rnn_cell"):
        for number in range(2):
            with variable_scope(f"cell_{number}"):
                names.append(used_cell().scope_name)
    assert names == ["multi_rnn_cell/cell_0/indy_gru_cell", "multi_rnn_cell/cell_1/indy_gru_cell"]


# --- the context manager -----------------------------------------------------------------------------------


def test_variable_scope_manager_can_be_entered_again():
    manager = variable_scope("a")
    with manager as scope:
        first = used_cell()
        assert scope.name == "a"
    with variable_scope("b"), manager as scope:
        assert scope.name == "b/a"
        second = used_cell()
    assert [first.scope_name, second.scope_name] == ["a/indy_gru_cell", "b/a/indy_gru_cell"]


def test_variable_scope_manager_keeps_default_name_and_scope():
    manager = variable_scope(None, "block")
    for _ in range(2):
        with manager as scope:
            assert scope.name == "block"
    again = variable_scope(scope)
    with again as first:
        first.reuse_variables()
    with again as second:
        assert second is first
        assert second.reuse is True
    assert scope.reuse is False


def test_variable_scope_manager_can_be_entered_while_active():
    manager = variable_scope("a")
    with manager, manager as scope:
        assert scope.name == "a/a"
    assert get_variable_scope().name == ""
    manager = variable_scope(scope)
    with manager, manager:
        assert get_variable_scope().name == "a/a"
    assert get_variable_scope().name == ""


def test_variable_scope_left_out_of_order_raises_runtime_error():
    outer, inner = variable_scope("a"), variable_scope("b")
    outer.__enter__()
    inner.__enter__()
    with pytest.raises(RuntimeError, match=r"Improper nesting of variable_scope: .*The current scope is 'a/b'"):
        outer.__exit__(None, None, None)
    assert get_variable_scope().name == "a/b"
    inner.__exit__(None, None, None)
    outer.__exit__(None, None, None)
    assert get_variable_scope().name == ""
    with pytest.raises(RuntimeError, match="Improper nesting"):
        outer.__exit__(None, None, None)


def test_variable_scope_accepts_values_and_dtype():
    x = np.zeros(3)
    for values in ([x], x, ()):
        with variable_scope(None, "d", values, "ones", reuse=None, dtype="float64") as scope:
            assert scope.dtype == "float64"
            cell = used_cell()
            assert (cell.variables[0].value == 1).all()
            with variable_scope("inside") as inner:
                assert inner.dtype == "float64"
    assert get_variable_scope().dtype == "float32"
    with pytest.raises(TypeError, match="values: expected a list of arrays, got int"):
        variable_scope(None, "d", 3)
    with pytest.raises(TypeError, match="dtype: expected float32 or float64"):
        variable_scope("d", dtype="int32")


def test_variable_scope_dtype_does_not_affect_cells():
    with variable_scope("a", dtype="float64"):
        cell = cells.built_cell(7)
    assert cell.dtype == "float32"


def test_variable_scope_attributes_are_set_by_methods_only():
    with variable_scope("a") as scope:
        for name in ("name", "reuse", "initializer", "dtype"):
            with pytest.raises(AttributeError):
                setattr(scope, name, "b")
        scope.set_initializer("ones")
        scope.set_dtype("float64")
        assert (used_cell().variables[0].value == 1).all()
    assert (scope.initializer, scope.dtype) == ("ones", "float64")


def test_variable_scope_inner_first_character_is_invalid_at_top_level():
    with variable_scope("a"), variable_scope("_b") as scope:
        pass
    with pytest.raises(ValueError, match="'_b' is not a valid scope name"), variable_scope(scope):
        pass


def test_variable_scope_reentered_releases_names_when_left():
    root = get_variable_scope()
    with variable_scope(root):
        first = used_cell()
    with pytest.raises(ValueError, match=ALREADY_EXISTS.format("indy_gru_cell")):
        used_cell()
    with variable_scope(root, reuse=AUTO_REUSE):
        assert share_variables(first, used_cell())
        assert used_cell().scope_name == "indy_gru_cell_1"
