"""Results of `parallel_layer` in this process and in forks of it, for scripts about processes.

A module, so that processes started by any method can import it.
"""

from __future__ import annotations

import signal
import warnings

from parallel_layer import all_results

from indygru_cpu._engine import threads as thread_counts

# Python 3.12 warns of every fork while there are threads, and multiprocessing forks too.
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)


def with_warnings(call=all_results):
    """The result of a call, and the texts of its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = call()
    assert all(warning.category is RuntimeWarning for warning in caught)
    return result, [str(warning.message) for warning in caught]


def report(_=None):
    """For a child process: its results, its number of warnings, and whether it runs in parallel."""
    signal.alarm(50)
    results, first_warnings = with_warnings()
    again, more_warnings = with_warnings()
    assert results == again
    return results, len(first_warnings + more_warnings), thread_counts.count(2, 1e12) > 1


def serial(results):
    """The report of a child that has warned once and runs on one thread."""
    return results, 1, False


def parallel(results):
    """The report of a child that has not warned and runs in parallel."""
    return results, 0, True
