"""Python threads that start at the same time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier


def run_at_once(functions):
    """Run each function in a thread of its own. They start together. Returns the results in the same order."""
    barrier = Barrier(len(functions))

    def run(function):
        barrier.wait(60)
        return function()

    with ThreadPoolExecutor(len(functions)) as executor:
        return [future.result() for future in [executor.submit(run, function) for function in functions]]


def error_of(function, *expected):
    """The text of the error of one of the expected types that a call raises; None without an error."""
    try:
        function()
    except expected as error:
        return str(error)
    return None
