"""Progress of a long call: reports of the steps done to a function or a tqdm bar."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Progress:
    """A callback of the core that reports the steps done and their total.

    Parameters
    ----------
    report : callable or tqdm bar
        Called as ``report(done, total)``; or a tqdm bar, or another object with `n`, `total` and `update`.
    total : int
        Steps of all layers and directions.
    """

    def __init__(self, report: Any, total: int) -> None:
        if all(hasattr(report, name) for name in ("n", "total", "update")):
            report.total = report.n + total  # a bar may count several calls
            report = _bar_callback(report.update)
        elif not callable(report):
            raise TypeError(f"progress: expected a function (done, total) or a tqdm bar, got {type(report).__name__}")
        self._report, self._total = report, total

    def __call__(self, done: int) -> None:
        """Report the steps done."""
        self._report(done, self._total)


def _bar_callback(update: Callable[[int], object]) -> Callable[[int, int], object]:
    """A function ``report(done, total)`` for a bar, whose `update` takes increments."""
    reported = 0

    def report(done: int, _total: int) -> None:
        nonlocal reported
        update(done - reported)
        reported = done

    return report
