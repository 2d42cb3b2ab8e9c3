"""Calls that name no number of threads choose one by measured costs; trials of other numbers cost little."""

from __future__ import annotations

import itertools
import re
import threading

import numpy as np
import pytest

import indygru_cpu
from indygru_cpu import IndyGRU
from indygru_cpu._engine import _core
from indygru_cpu._engine import threads as thread_counts

needs_openmp = pytest.mark.skipif(not _core.openmp_threads(), reason="built without OpenMP")
FORWARD, BACKWARD, STEP = range(3)
US, WORK = 1000, 2e6


@pytest.fixture(autouse=True)
def no_known_costs():
    _core.testing.reset_thread_costs()
    yield
    _core.testing.reset_thread_costs()


def choices(costs, n_calls, *, max_threads=2, follows=False, work=WORK, n_steps=50, job=FORWARD):
    """Threads of so many calls, if one on n threads takes costs[n] ns, or costs(n, threads of the call before) ns."""
    chosen = []
    for _ in range(n_calls):
        before = chosen[-1] if chosen else 1
        times = {n: costs(n, before) if callable(costs) else costs[n] for n in range(1, max_threads + 1)}
        chosen.append(_core.testing.choose_threads(job, work, n_steps, max_threads, follows, times))
    return chosen


def total_cost(chosen, costs):
    return sum(costs[n] for n in chosen)


@pytest.mark.parametrize("follows", [False, True])
@pytest.mark.parametrize("costs", [{1: 100 * US, 2: 60 * US}, {1: 60 * US, 2: 3000 * US}, {1: 60 * US, 2: 70 * US}])
def test_choice_loses_few_percent_against_the_best_number(costs, follows):
    chosen = choices(costs, 3000, follows=follows)
    assert total_cost(chosen[20:], costs) < 1.05 * len(chosen[20:]) * min(costs.values())
    assert total_cost(chosen, costs) < 1.1 * len(chosen) * min(costs.values())


def test_choice_of_equal_costs_takes_fewer_threads():
    chosen = choices({1: 100 * US, 2: 99 * US}, 1000)
    assert chosen[100:].count(1) > 0.8 * 900


@pytest.mark.parametrize("follows", [False, True])
def test_choice_follows_a_change_of_costs(follows):
    """Costs change as when another program occupies a processor, and ends."""
    quiet, busy = {1: 100 * US, 2: 60 * US}, {1: 110 * US, 2: 900 * US}
    for costs, best in [(quiet, 2), (busy, 1), (quiet, 2), (busy, 1)]:
        chosen = choices(costs, 800, follows=follows)
        assert chosen[-200:].count(best) > 160


def test_trial_among_back_to_back_calls_lasts_until_helpers_are_awake():
    """The first parallel call is slow because it wakes the helpers; those after it are the fastest."""

    def costs(n, before):
        return 50 * US if n == 1 else 30 * US if before > 1 else 400 * US

    _core.testing.choose_threads(FORWARD, WORK, 50, 1, True, {1: 50 * US})
    chosen = choices(costs, 500, follows=True)
    assert chosen[-200:].count(2) > 150


@pytest.mark.parametrize("max_threads", [5, 8, 64])
@pytest.mark.parametrize("best", [1, 4, 64])
def test_choice_among_many_threads_finds_the_best_number(max_threads, best):
    costs = {n: 1000 * US * (1 + abs(np.log2(n / min(best, max_threads)))) for n in range(1, max_threads + 1)}
    chosen = choices(costs, 3000, max_threads=max_threads)
    assert set(chosen) <= {1, 2, 4, 8, 16, 32, 64, max_threads}
    assert chosen[-1000:].count(min(best, max_threads)) > 800


def test_one_slow_call_does_not_change_the_choice():
    slow = itertools.count()
    chosen = choices(lambda n, _: 60 * US * (30 if next(slow) % 101 == 0 else 1) * (1 if n == 2 else 1.6), 2000)
    assert chosen[200:].count(2) > 0.85 * 1800


def test_choices_of_operations_sizes_and_spacings_are_independent():
    choices({1: 100 * US, 2: 60 * US}, 200)
    assert choices({1: 60 * US, 2: 900 * US}, 200, job=BACKWARD)[-20:].count(1) > 10
    assert choices({1: 60 * US, 2: 900 * US}, 200, work=64 * WORK)[-20:].count(1) > 10
    assert choices({1: 60 * US, 2: 900 * US}, 200, n_steps=2000)[-20:].count(1) > 10
    assert choices({1: 60 * US, 2: 900 * US}, 200, follows=True)[-20:].count(1) > 10
    assert choices({1: 100 * US, 2: 60 * US}, 20).count(2) > 10
    assert {key[0] for key in _core.thread_costs()} == {"forward", "backward"}
    assert {key[3] for key in _core.thread_costs()} == {"back to back", "isolated"}


@pytest.mark.parametrize("work", [1.0, 1e6, 2.0**62, 1e300])
def test_choice_of_any_amount_of_work_is_possible(work):
    assert choices({1: 100 * US, 2: 60 * US}, 50, work=work)[-1] in (1, 2)


def large_layer_and_x():
    return IndyGRU(64, 128, seed=0), np.random.default_rng(0).standard_normal((50, 8, 64), dtype=np.float32)


@needs_openmp
def test_call_with_num_threads_uses_it_and_records_no_cost():
    layer, x = large_layer_and_x()
    for n in (1, 2, 3, 1):
        layer(x, num_threads=n)
        assert indygru_cpu.last_num_threads() == n
        _, _, tape = layer.forward(x, num_threads=n)
        layer.backward(tape)
        assert indygru_cpu.last_num_threads() == n
    assert _core.thread_costs() == {}


@needs_openmp
def test_calls_that_name_no_number_record_their_costs(monkeypatch):
    monkeypatch.setattr(thread_counts, "_unforked_limit", lambda: thread_counts.ThreadLimit(2, "test"))
    layer, x = large_layer_and_x()
    for _ in range(30):
        y, _, tape = layer.forward(x)
        layer.backward(tape, y)
        assert indygru_cpu.last_num_threads() in (1, 2)
    known = indygru_cpu.thread_statistics()
    assert {each.operation for each in known} == {"forward", "backward"}
    for each in known:
        assert each.multiply_adds[0] * 2 == each.multiply_adds[1]
        assert set(each.nanoseconds) <= {1, 2}
        assert all(cost > 0 for cost in each.nanoseconds.values())


def test_number_of_threads_of_the_last_call_belongs_to_a_python_thread():
    layer, x = large_layer_and_x()
    layer(x, num_threads=1)
    results = []
    thread = threading.Thread(target=lambda: results.append(indygru_cpu.last_num_threads()))
    thread.start()
    thread.join()
    assert (results, indygru_cpu.last_num_threads()) == ([0], 1)


@needs_openmp
def test_environment_fixes_the_number_of_threads(run_script):
    for n_threads in (3, 1):
        printed = run_script("engine/threads_from_environment.py", INDYGRU_CPU_NUM_THREADS=str(n_threads))
        assert printed == f"{{{n_threads}}} 2 []"


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", " ", "9" * 5000, "\u0664\u00b2"])
def test_environment_with_no_number_of_threads_is_refused(run_script, value):
    assert run_script("engine/import_and_call.py", INDYGRU_CPU_NUM_THREADS="64") == "called"
    printed = run_script("engine/import_and_call.py", INDYGRU_CPU_NUM_THREADS=value)
    assert re.search("INDYGRU_CPU_NUM_THREADS: expected .*number", printed)


@needs_openmp
def test_choices_of_callers_that_do_not_overlap_are_those_of_one_caller(run_script):
    assert run_script("engine/choices_in_a_pool.py") == "True"


@needs_openmp
def test_call_of_one_tile_runs_on_one_thread(monkeypatch):
    monkeypatch.setattr(thread_counts, "_unforked_limit", lambda: thread_counts.ThreadLimit(2, "test"))
    layer, x = IndyGRU(64, 16, seed=0), np.random.default_rng(0).standard_normal((500, 1, 64), dtype=np.float32)
    for _ in range(10):
        layer(x)
        assert indygru_cpu.last_num_threads() == 1
