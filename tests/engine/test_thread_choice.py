"""Calls that name no number of threads choose one by measured costs; trials of other numbers cost little."""

from __future__ import annotations

import itertools
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
def nothing_known():
    _core.testing.reset_thread_costs()
    yield
    _core.testing.reset_thread_costs()


def choose(costs, n_calls, *, most=2, follows=False, work=WORK, n_steps=50, job=FORWARD):
    """Threads of so many calls, where one of n threads takes costs[n] nanoseconds, or costs(n, the threads before)."""
    chosen = []
    for _ in range(n_calls):
        before = chosen[-1] if chosen else 1
        times = {n: costs(n, before) if callable(costs) else costs[n] for n in range(1, most + 1)}
        chosen.append(_core.testing.choose_threads(job, work, n_steps, most, follows, times))
    return chosen


def total(chosen, costs):
    return sum(costs[n] for n in chosen)


@pytest.mark.parametrize("follows", [False, True])
@pytest.mark.parametrize("costs", [{1: 100 * US, 2: 60 * US}, {1: 60 * US, 2: 3000 * US}, {1: 60 * US, 2: 70 * US}])
def test_choice_loses_few_percent_against_the_best_number(costs, follows):
    chosen = choose(costs, 3000, follows=follows)
    assert total(chosen[20:], costs) < 1.05 * len(chosen[20:]) * min(costs.values())
    assert total(chosen, costs) < 1.1 * len(chosen) * min(costs.values())


def test_choice_of_equal_costs_takes_fewer_threads():
    chosen = choose({1: 100 * US, 2: 99 * US}, 1000)
    assert chosen[100:].count(1) > 0.8 * 900


@pytest.mark.parametrize("follows", [False, True])
def test_choice_follows_a_change_of_costs(follows):
    """A neighbour comes, and goes again."""
    quiet, busy = {1: 100 * US, 2: 60 * US}, {1: 110 * US, 2: 900 * US}
    for costs, best in [(quiet, 2), (busy, 1), (quiet, 2), (busy, 1)]:
        chosen = choose(costs, 800, follows=follows)
        assert chosen[-200:].count(best) > 160


def test_trial_among_calls_that_follow_each_other_lets_helpers_wake():
    """The first parallel call takes long, because it wakes the helpers; those after it are the fastest."""

    def costs(n, before):
        return 50 * US if n == 1 else 30 * US if before > 1 else 400 * US

    _core.testing.choose_threads(FORWARD, WORK, 50, 1, True, {1: 50 * US})
    chosen = choose(costs, 500, follows=True)
    assert chosen[-200:].count(2) > 150


@pytest.mark.parametrize("most", [5, 8, 64])
@pytest.mark.parametrize("best", [1, 4, 64])
def test_choice_among_many_threads_finds_the_best_number(most, best):
    costs = {n: 1000 * US * (1 + abs(np.log2(n / min(best, most)))) for n in range(1, most + 1)}
    chosen = choose(costs, 3000, most=most)
    assert set(chosen) <= {1, 2, 4, 8, 16, 32, 64, most}
    assert chosen[-1000:].count(min(best, most)) > 800


def test_one_slow_call_does_not_change_the_choice():
    slow = itertools.count()
    chosen = choose(lambda n, _: 60 * US * (30 if next(slow) % 101 == 0 else 1) * (1 if n == 2 else 1.6), 2000)
    assert chosen[200:].count(2) > 0.85 * 1800


def test_choices_of_jobs_sizes_and_places_are_independent():
    choose({1: 100 * US, 2: 60 * US}, 200)
    assert choose({1: 60 * US, 2: 900 * US}, 200, job=BACKWARD)[-20:].count(1) > 10
    assert choose({1: 60 * US, 2: 900 * US}, 200, work=64 * WORK)[-20:].count(1) > 10
    assert choose({1: 60 * US, 2: 900 * US}, 200, n_steps=2000)[-20:].count(1) > 10
    assert choose({1: 60 * US, 2: 900 * US}, 200, follows=True)[-20:].count(1) > 10
    assert choose({1: 100 * US, 2: 60 * US}, 20).count(2) > 10
    assert {key[0] for key in _core.thread_costs()} == {"forward", "backward"}
    assert {key[3] for key in _core.thread_costs()} == {"following", "alone"}


@pytest.mark.parametrize("work", [1.0, 1e6, 2.0**62, 1e300])
def test_choice_of_any_amount_of_work_is_possible(work):
    assert choose({1: 100 * US, 2: 60 * US}, 50, work=work)[-1] in (1, 2)


def large():
    return IndyGRU(64, 128, seed=0), np.random.default_rng(0).standard_normal((50, 8, 64), dtype=np.float32)


@needs_openmp
def test_call_that_names_a_number_of_threads_gets_it():
    layer, x = large()
    for n in (1, 2, 3, 1):
        layer(x, num_threads=n)
        assert indygru_cpu.last_num_threads() == n
        _, _, tape = layer.forward(x, num_threads=n)
        layer.backward(tape)
        assert indygru_cpu.last_num_threads() == n
    assert _core.thread_costs() == {}


@needs_openmp
def test_calls_that_name_no_number_record_their_costs(monkeypatch):
    monkeypatch.setattr(thread_counts, "_without_fork", lambda: thread_counts.Choice(2, "test"))
    layer, x = large()
    for _ in range(30):
        y, _, tape = layer.forward(x)
        layer.backward(tape, y)
        assert indygru_cpu.last_num_threads() in (1, 2)
    known = indygru_cpu.thread_statistics()
    assert {each.job for each in known} == {"forward", "backward"}
    for each in known:
        assert each.multiply_adds[0] * 2 == each.multiply_adds[1]
        assert set(each.nanoseconds) <= {1, 2}
        assert all(cost > 0 for cost in each.nanoseconds.values())


def test_number_of_threads_of_the_last_call_belongs_to_a_python_thread():
    layer, x = large()
    layer(x, num_threads=1)
    found = []
    thread = threading.Thread(target=lambda: found.append(indygru_cpu.last_num_threads()))
    thread.start()
    thread.join()
    assert (found, indygru_cpu.last_num_threads()) == ([0], 1)


@needs_openmp
def test_environment_fixes_the_number_of_threads(run_python):
    code = """
        import numpy as np
        import indygru_cpu
        from indygru_cpu import IndyGRU

        layer, x = IndyGRU(64, 128, seed=0), np.ones((50, 8, 64), np.float32)
        found = set()
        for _ in range(20):
            layer(x)
            found.add(indygru_cpu.last_num_threads())
        layer(x, num_threads=2)
        print(found, indygru_cpu.last_num_threads(), indygru_cpu.thread_statistics())
    """
    assert run_python(code, INDYGRU_CPU_NUM_THREADS="3") == "{3} 2 []"
    assert run_python(code, INDYGRU_CPU_NUM_THREADS="1") == "{1} 2 []"


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", " ", "9" * 5000, "\u0664\u00b2"])
def test_environment_with_no_number_of_threads_is_refused(run_python, value):
    code = """
        try:
            import indygru_cpu
            indygru_cpu.IndyGRU(64, 128)(__import__("numpy").ones((50, 8, 64), "float32"))
            print("taken")
        except ImportError as error:
            print(error)
    """
    assert run_python(code, INDYGRU_CPU_NUM_THREADS="64") == "taken"
    assert "INDYGRU_CPU_NUM_THREADS: expected auto or a number" in run_python(code, INDYGRU_CPU_NUM_THREADS=value)


@needs_openmp
def test_callers_that_take_turns_choose_as_one(run_python):
    """As requests in a pool of workers: no two calls overlap, so none leaves a processor to another."""
    code = """
        from concurrent.futures import ThreadPoolExecutor
        from indygru_cpu._engine import _core

        with ThreadPoolExecutor(4) as pool:
            found = [
                pool.submit(_core.testing.choose_threads, 0, 2e6, 50, 2, False, {1: 9e5, 2: 5e5}).result()
                for _ in range(400)
            ]
        print(found.count(2) > 300)
    """
    assert run_python(code) == "True"


@needs_openmp
def test_call_of_one_tile_runs_on_one_thread(monkeypatch):
    monkeypatch.setattr(thread_counts, "_without_fork", lambda: thread_counts.Choice(2, "test"))
    layer, x = IndyGRU(64, 16, seed=0), np.random.default_rng(0).standard_normal((500, 1, 64), dtype=np.float32)
    for _ in range(10):
        layer(x)
        assert indygru_cpu.last_num_threads() == 1
