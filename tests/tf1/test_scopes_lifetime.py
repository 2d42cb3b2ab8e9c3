"""How long the variables of a scope live: until no cell uses them, or the scope is reset."""

from __future__ import annotations

import gc
import tracemalloc
import weakref

import cells
import numpy as np
import pytest
from scopes import MISSING, H, X, shares, used

from indygru_cpu import AUTO_REUSE, IndyGRUCell, get_variable_scope, reset_default_scope, variable_scope

rng = cells.rng  # and with it a fresh default scope


def test_reset_default_scope_forgets_names_and_variables():
    first = used("enc", AUTO_REUSE)
    reset_default_scope()
    assert IndyGRUCell(7).name == "indy_gru_cell_1"
    with pytest.raises(ValueError, match=MISSING.format("enc")):
        used("enc", reuse=True)
    second = used("enc")
    assert second.scope_name == "enc"
    assert not shares(first, second)
    first(X, H)
    with variable_scope("a"), pytest.raises(RuntimeError, match="inside of variable_scope 'a'"):
        reset_default_scope()


def test_variables_are_freed_with_their_last_cell():
    first = used("enc")
    twin = used("enc", reuse=True)
    alive = weakref.ref(first.named_variables["gates/bias"].base)
    del first
    gc.collect()
    assert alive() is not None
    del twin
    gc.collect()
    assert alive() is None
    with pytest.raises(ValueError, match=MISSING.format("enc")):
        used("enc", reuse=True)
    assert used("enc").scope_name == "enc_1"  # names are not given twice


def test_auto_reuse_keeps_variables_without_a_cell():
    def model():
        with variable_scope("net", reuse=AUTO_REUSE):
            return IndyGRUCell(7)(X, H)[0]

    first = model()
    gc.collect()
    np.testing.assert_array_equal(model(), first)


def test_scope_names_memory_is_independent_of_the_number_of_cells():
    root = get_variable_scope()

    def serve(n):
        for _ in range(n):
            used()
            with variable_scope("request"):
                used()
            with variable_scope(None, default_name="request"):
                used()
            with variable_scope(root):
                used("here", AUTO_REUSE)(X, H)
        gc.collect()

    tracemalloc.start()
    serve(50)
    before, _ = tracemalloc.get_traced_memory()
    serve(200)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 600 * 30  # one name alone would be more than 60 bytes
    assert used().scope_name == "indy_gru_cell_250"


def test_scope_name_long_number_is_part_of_the_name():
    name = "a_" + "9" * 5000
    assert used(name).scope_name == name
    assert used(name).scope_name == f"{name}_1"
