"""The section "Names, scopes, reuse" of the observed contract; lifetime of variables; threads."""

from __future__ import annotations

import asyncio
import gc
import re
import threading
import tracemalloc
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from indygru_cpu import (
    AUTO_REUSE,
    IndyGRUCell,
    get_variable_scope,
    initializers,
    reset_default_scope,
    variable_scope,
)

X = np.random.default_rng(3).normal(size=(3, 5))
H = np.random.default_rng(4).normal(size=(3, 7))
EXISTS = r"Variable {}/gates/kernel_w already exists, disallowed\. Did you mean to set reuse=True or reuse=tf"
MISSING = r"Variable {}/gates/kernel_w does not exist, or was not created with tf\.get_variable\(\)\. Did you mean"


@pytest.fixture(autouse=True)
def _fresh_default_scope():
    reset_default_scope(seed=11)


def used(name=None, reuse=None, scope=None, num_units=7):
    cell = IndyGRUCell(num_units, name=name, reuse=reuse)
    cell(X, H[:, :num_units], scope=scope)
    return cell


def shares(a, b):
    return all(p.value is q.value for p, q in zip(a.variables, b.variables, strict=True))


# --- names -------------------------------------------------------------------------------------------------


def test_order_and_names_of_variables():
    short = [
        "gates/kernel_w",
        "gates/kernel_u",
        "gates/bias",
        "candidate/kernel",
        "candidate/kernel_u",
        "candidate/bias",
    ]
    with variable_scope("model"):
        cell = used()
    assert [variable.name for variable in cell.variables] == [f"model/indy_gru_cell/{name}:0" for name in short]
    assert list(cell.named_variables) == short


def test_cells_are_named_at_construction_and_scopes_at_first_use():
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


def test_subclasses_are_named_after_themselves():
    class NoisyGRUCell(IndyGRUCell):
        pass

    assert NoisyGRUCell(7).name == "noisy_gru_cell_1"


def test_scope_name_before_first_use():
    with pytest.raises(ValueError, match=re.escape(
        'No name available for layer scope because the layer "indy_gru_cell_1" has not been used yet. '
    )):  # fmt: skip
        IndyGRUCell(7).scope_name  # noqa: B018


def test_a_second_cell_of_a_name_gets_a_number():
    first, second, third = used("enc"), used("enc", reuse=False), used("enc")
    assert [cell.scope_name for cell in (first, second, third)] == ["enc", "enc_1", "enc_2"]
    assert first.name == second.name == "enc"
    assert not shares(first, second)


def test_numbers_skip_names_that_are_taken():
    cells = [used(), used("indy_gru_cell_2"), used(), used(), used("indy_gru_cell_1"), used("indy_gru_cell")]
    assert [cell.scope_name for cell in cells] == [
        "indy_gru_cell",
        "indy_gru_cell_2",
        "indy_gru_cell_1",
        "indy_gru_cell_3",
        "indy_gru_cell_1_1",
        "indy_gru_cell_4",
    ]


@pytest.mark.parametrize("name", ["x y", "a:0", "ä", "_x", "-x", "a\n", "a\\b"])
def test_names_that_a_scope_cannot_have(name):
    cell = IndyGRUCell(7, name=name)
    with pytest.raises(ValueError, match=re.escape(f"{name!r} is not a valid scope name")):
        cell(X, H)
    assert not cell.built
    if name[0] in "_-":
        with variable_scope("inside"):
            cell(X, H)
        assert cell.scope_name == f"inside/{name}"


@pytest.mark.parametrize("name", ["a/b", "7", ".a", "A-b_c.d/9"])
def test_unusual_names_that_a_scope_can_have(name):
    assert used(name).scope_name == name


def test_empty_names_and_names_that_are_no_text():
    assert used("").scope_name == "indy_gru_cell"
    with pytest.raises(TypeError, match="name: expected a string, got 3"):
        used(3)


# --- reuse -------------------------------------------------------------------------------------------------


def test_reuse_shares_the_very_same_arrays():
    first, twin, other = used("enc"), used("enc", reuse=True), used("enc")
    assert twin.scope_name == "enc"
    assert shares(first, twin)
    assert twin.variables == first.variables
    assert not shares(first, other)
    np.testing.assert_array_equal(first(X, H)[0], twin(X, H)[0])
    first.variables[2].value[...] += 1
    np.testing.assert_array_equal(first(X, H)[0], twin(X, H)[0])


def test_reuse_without_a_name():
    first = used()
    assert shares(first, used(reuse=True))


@pytest.mark.parametrize(("name", "scope"), [("foo", "foo"), (None, "indy_gru_cell")])
def test_reuse_of_what_is_not_there(name, scope):
    cell = IndyGRUCell(7, name=name, reuse=True)
    with pytest.raises(ValueError, match=MISSING.format(scope)):
        cell(X, H)
    assert not cell.built
    there = used(scope)
    cell(X, H)  # nothing was spoilt
    assert shares(cell, there)


@pytest.mark.parametrize("reuse", [True, AUTO_REUSE])
def test_reuse_of_what_does_not_fit(reuse):
    kept = used("foo", num_units=4)
    sharing = "Trying to share variable foo/gates/kernel_w, but specified "
    with pytest.raises(ValueError, match=re.escape(sharing + "shape (5, 6) and found shape (5, 8).")):
        used("foo", reuse, num_units=3)
    cell = IndyGRUCell(4, name="foo", reuse=reuse)
    with pytest.raises(ValueError, match=sharing + "dtype float32 and found dtype float64_ref."):
        cell(X.astype("f4"), H[:, :4].astype("f4"))
    assert not cell.built
    assert kept.variables[0].shape == (5, 8)


def test_auto_reuse_shares_or_makes():
    first, second = used("enc", AUTO_REUSE), used("enc", AUTO_REUSE)
    assert first.scope_name == second.scope_name == "enc"
    assert shares(first, second)
    assert used("enc").scope_name == "enc_1"


@pytest.mark.parametrize("reuse", [3, "yes", 1.0])
def test_reuse_that_is_none(reuse):
    with pytest.raises(ValueError, match="The reuse parameter must be True or False or None"):
        used("enc", reuse)
    with pytest.raises(ValueError, match="The reuse parameter must be"), variable_scope("a", reuse=reuse):
        pass


def test_the_scope_is_fixed_at_first_use():
    cell = used(scope="s")
    before = cell.variables
    with variable_scope("elsewhere"):
        cell(X, H)
        cell(X, H, scope="t")
    assert cell.scope_name == "s"
    assert cell.variables == before


def test_scope_at_the_call():
    assert used("enc", scope="s").scope_name == "s"
    kept = used(scope="t")
    with pytest.raises(ValueError, match=EXISTS.format("t")):
        used(scope="t")
    assert shares(kept, used(scope="t", reuse=True))
    with variable_scope("outer"):
        assert used(scope="t").scope_name == "outer/t"
    with pytest.raises(TypeError, match="must be a string or VariableScope, got 3"):
        used(scope=3)


# --- variable_scope ----------------------------------------------------------------------------------------


def test_nested_scopes_and_numbers_inside():
    with variable_scope("decoder") as outer:
        with variable_scope("layer"):
            first, second = used(), used()
        third = used()
        assert get_variable_scope() is outer
    assert [cell.scope_name for cell in (first, second, third)] == [
        "decoder/layer/indy_gru_cell",
        "decoder/layer/indy_gru_cell_1",
        "decoder/indy_gru_cell",
    ]
    assert get_variable_scope().name == ""


def test_entering_a_scope_by_name_again():
    with variable_scope("decoder"):
        first = used()
    with variable_scope("decoder"), pytest.raises(ValueError, match=EXISTS.format("decoder/indy_gru_cell")):
        used()
    with variable_scope("decoder", reuse=True):
        assert shares(first, used())
    with variable_scope("decoder", reuse=AUTO_REUSE):
        assert shares(first, used())
        assert used().scope_name == "decoder/indy_gru_cell_1"


def test_reuse_is_inherited_and_cannot_be_undone_inside():
    with variable_scope("a"), variable_scope("b"):
        first = used("enc")
    with variable_scope("a", reuse=True), variable_scope("b", reuse=False) as scope:
        assert scope.reuse is True
        assert shares(first, used("enc"))
    with variable_scope("a", reuse=np.bool_(True)), variable_scope("b"):
        assert shares(first, used("enc", reuse=False))


def test_scope_objects():
    with variable_scope("a", initializer="ones") as scope:
        first = used()
    with variable_scope("elsewhere"), variable_scope(scope, reuse=True) as same:
        assert (same.name, same.reuse) == ("a", True)
        assert repr(same) == "<VariableScope 'a' reuse=True>"
        assert shares(first, used())
    with variable_scope(scope, initializer=initializers.Constant(3)):
        other = used("other")
    assert other.scope_name == "a/other"
    assert (first.variables[0].value == 1).all()
    assert (other.variables[0].value == 3).all()
    assert used(scope=scope, name="ignored").scope_name == "a"


def test_coming_back_to_an_open_scope_counts_on():
    with variable_scope("a") as scope:
        first = used()
        with variable_scope(scope):
            second = used()
        with pytest.raises(ValueError, match=EXISTS.format("a/indy_gru_cell_1")):
            used()  # the counters are what they were before coming back
    assert [first.scope_name, second.scope_name] == ["a/indy_gru_cell", "a/indy_gru_cell_1"]


def test_reuse_variables():
    with variable_scope("a") as scope:
        first = used("enc")
        scope.reuse_variables()
        assert shares(first, used("enc", reuse=True))
    with variable_scope(scope):
        assert shares(first, used("enc"))


def test_default_names():
    names = []
    for _ in range(3):
        with variable_scope(None, default_name="block") as scope:
            names.append((scope.name, used().scope_name))
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


def test_the_empty_name_is_the_current_scope():
    with variable_scope("a"), variable_scope("") as scope:
        assert scope.name == "a"
        assert used().scope_name == "a/indy_gru_cell"


@pytest.mark.parametrize("name", [3, b"a", ["a"]])
def test_scopes_that_are_none(name):
    with pytest.raises(TypeError, match="must be a string or VariableScope"), variable_scope(name):
        pass


@pytest.mark.parametrize("name", ["a b", "_a", "a:0"])
def test_invalid_names_of_scopes(name):
    with pytest.raises(ValueError, match="is not a valid scope name"), variable_scope(name):
        pass
    assert get_variable_scope().name == ""


def test_errors_inside_leave_the_scope():
    with pytest.raises(KeyError), variable_scope("a"), variable_scope("b"):
        raise KeyError
    assert get_variable_scope().name == ""


def test_scopes_of_a_stack_of_cells():
    names = []
    with variable_scope("multi_rnn_cell"):
        for number in range(2):
            with variable_scope(f"cell_{number}"):
                names.append(used().scope_name)
    assert names == ["multi_rnn_cell/cell_0/indy_gru_cell", "multi_rnn_cell/cell_1/indy_gru_cell"]


# --- lifetime ----------------------------------------------------------------------------------------------


def test_reset_forgets_names_and_variables():
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


def test_variables_live_as_long_as_a_cell_uses_them():
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


def test_auto_reuse_keeps_variables_for_those_who_come_back():
    def model():
        with variable_scope("net", reuse=AUTO_REUSE):
            return IndyGRUCell(7)(X, H)[0]

    first = model()
    gc.collect()
    np.testing.assert_array_equal(model(), first)


def test_nothing_grows_with_the_number_of_cells():
    def serve(n):
        for _ in range(n):
            used()
            with variable_scope("request"):
                used()
            with variable_scope(None, default_name="request"):
                used()
        gc.collect()

    tracemalloc.start()
    serve(50)
    before, _ = tracemalloc.get_traced_memory()
    serve(200)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 600 * 30  # one name alone would be more than 60 bytes
    assert used().scope_name == "indy_gru_cell_250"


# --- threads -----------------------------------------------------------------------------------------------


def run_in_threads(function, n=16):
    barrier = threading.Barrier(n)

    def start(number):
        barrier.wait()
        return function(number)

    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(start, range(n)))


def test_threads_get_names_of_their_own():
    cells = run_in_threads(lambda number: [used() for _ in range(20)])
    scopes = [cell.scope_name for row in cells for cell in row]
    assert len(set(scopes)) == 320
    assert {"indy_gru_cell", "indy_gru_cell_319"} <= set(scopes)
    assert len({cell.name for row in cells for cell in row}) == 320


def test_threads_that_auto_reuse_share():
    cells = run_in_threads(lambda number: used("enc", AUTO_REUSE))
    assert all(shares(cell, cells[0]) for cell in cells)


def test_threads_that_use_a_cell_for_the_first_time_build_it_once():
    cell = IndyGRUCell(7)
    outputs = run_in_threads(lambda number: cell(X, H)[0])
    assert cell.scope_name == "indy_gru_cell"
    for output in outputs:
        np.testing.assert_array_equal(output, outputs[0])


def test_each_thread_has_its_own_current_scope():
    def work(number):
        with variable_scope(f"thread_{number}"):
            first, second = used(), used()
        return first.scope_name, second.scope_name

    with variable_scope("main"):
        found = run_in_threads(work)
    names = [(f"thread_{n}/indy_gru_cell", f"thread_{n}/indy_gru_cell_1") for n in range(16)]
    assert found == names


def test_each_asyncio_task_has_its_own_current_scope():
    async def work(number):
        with variable_scope(f"task_{number}"):
            await asyncio.sleep(0)
            return used().scope_name

    async def main():
        return await asyncio.gather(*map(work, range(5)))

    assert asyncio.run(main()) == [f"task_{number}/indy_gru_cell" for number in range(5)]
