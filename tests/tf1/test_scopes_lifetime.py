"""Lifetime of the variables and names of a scope."""

from __future__ import annotations

import gc
import tracemalloc
import weakref

import cells
import numpy as np
import pytest
from scopes import DOES_NOT_EXIST, H, X, share_variables, used_cell

from indygru_cpu import AUTO_REUSE, IndyGRUCell, get_variable_scope, reset_default_scope, variable_scope

rng = cells.rng  # resets the default scope too


def test_reset_default_scope_forgets_names_and_variables():
    first = used_cell("enc", AUTO_REUSE)
    reset_default_scope()
    assert IndyGRUCell(7).name == "indy_gru_cell_1"
    with pytest.raises(ValueError, match=DOES_NOT_EXIST.format("enc")):
        used_cell("enc", reuse=True)
    second = used_cell("enc")
    assert second.scope_name == "enc"
    assert not share_variables(first, second)
    first(X, H)
    with variable_scope("a"), pytest.raises(RuntimeError, match="inside of variable_scope 'a'"):
        reset_default_scope()


def test_variables_are_freed_with_their_last_cell():
    first = used_cell("enc")
    twin = used_cell("enc", reuse=True)
    reference = weakref.ref(first.named_variables["gates/bias"].base)
    del first
    gc.collect()
    assert reference() is not None
    del twin
    gc.collect()
    assert reference() is None
    with pytest.raises(ValueError, match=DOES_NOT_EXIST.format("enc")):
        used_cell("enc", reuse=True)
    assert used_cell("enc").scope_name == "enc_1"  # the name stays in use


def test_auto_reuse_keeps_variables_without_a_cell():
    def model():
        with variable_scope("net", reuse=AUTO_REUSE):
            return IndyGRUCell(7)(X, H)[0]

    first = model()
    gc.collect()
    np.testing.assert_array_equal(model(), first)


def test_scope_names_memory_is_independent_of_the_number_of_cells():
    root = get_variable_scope()

    def use_cells(n):
        for _ in range(n):
            used_cell()
            with variable_scope("request"):
                used_cell()
            with variable_scope(None, default_name="request"):
                used_cell()
            with variable_scope(root):
                used_cell("here", AUTO_REUSE)(X, H)
        gc.collect()

    tracemalloc.start()
    use_cells(50)
    before, _ = tracemalloc.get_traced_memory()
    use_cells(200)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 600 * 30  # a stored name takes more than 60 bytes
    assert used_cell().scope_name == "indy_gru_cell_250"


def test_scope_name_long_number_is_part_of_the_name():
    name = "a_" + "9" * 5000
    assert used_cell(name).scope_name == name
    assert used_cell(name).scope_name == f"{name}_1"
