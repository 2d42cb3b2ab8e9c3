"""Scopes in threads and asyncio tasks: current scope, names, building."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import cells
import numpy as np
from scopes import H, X, share_variables, used_cell

from indygru_cpu import AUTO_REUSE, IndyGRUCell, get_variable_scope, variable_scope

rng = cells.rng  # resets the default scope too


def run_in_threads(function, n=16):
    barrier = threading.Barrier(n)

    def start(number):
        barrier.wait()
        return function(number)

    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(start, range(n)))


def test_threads_unnamed_cells_get_distinct_names():
    cells = run_in_threads(lambda number: [used_cell() for _ in range(20)])
    scopes = [cell.scope_name for row in cells for cell in row]
    assert len(set(scopes)) == 320
    assert {"indy_gru_cell", "indy_gru_cell_319"} <= set(scopes)
    assert len({cell.name for row in cells for cell in row}) == 320


def test_threads_auto_reuse_shares_variables():
    cells = run_in_threads(lambda number: used_cell("enc", AUTO_REUSE))
    assert all(share_variables(cell, cells[0]) for cell in cells)


def test_threads_first_use_of_a_cell_builds_it_once():
    cell = IndyGRUCell(7)
    outputs = run_in_threads(lambda number: cell(X, H)[0])
    assert cell.scope_name == "indy_gru_cell"
    for output in outputs:
        np.testing.assert_array_equal(output, outputs[0])


def test_threads_have_separate_current_scopes():
    def work(number):
        with variable_scope(f"thread_{number}"):
            first, second = used_cell(), used_cell()
        return first.scope_name, second.scope_name

    with variable_scope("main"):
        scope_names = run_in_threads(work)
    expected = [(f"thread_{n}/indy_gru_cell", f"thread_{n}/indy_gru_cell_1") for n in range(16)]
    assert scope_names == expected


def test_asyncio_tasks_have_separate_current_scopes():
    async def work(number):
        with variable_scope(f"task_{number}"):
            await asyncio.sleep(0)
            return used_cell().scope_name

    async def main():
        return await asyncio.gather(*map(work, range(5)))

    assert asyncio.run(main()) == [f"task_{number}/indy_gru_cell" for number in range(5)]


def test_threads_leaving_a_scope_keeps_names_of_other_threads():
    with variable_scope(get_variable_scope()):
        run_in_threads(lambda number: used_cell(), 4)
    assert used_cell().scope_name == "indy_gru_cell_4"
    with variable_scope("a"), variable_scope("b"):
        run_in_threads(lambda number: used_cell(), 4)
    assert used_cell().scope_name == "indy_gru_cell_9"


def test_threads_in_scopes_of_one_name_number_cells_separately():
    def work(number):
        with variable_scope("s", reuse=AUTO_REUSE):
            return [used_cell().scope_name for _ in range(3)]

    assert run_in_threads(work, 4) == [["s/indy_gru_cell", "s/indy_gru_cell_1", "s/indy_gru_cell_2"]] * 4
