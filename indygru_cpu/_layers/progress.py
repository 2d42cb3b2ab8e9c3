"""Progress of a long call: reports of the steps done to a function or a tqdm bar."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from indygru_cpu._typing import ProgressCallback


class Progress:
    """The steps done and their total, summed over the core calls that one call of a layer makes.

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
        self._report, self._total, self._done = report, total, 0

    def callback(self) -> ProgressCallback:
        """The callback of the next core call, which counts the steps of that call only."""
        report, before, total = self._report, self._done, self._total
        return lambda done: report(before + done, total)

    def add(self, n_steps: int) -> None:
        """Count the steps of a finished core call."""
        self._done += n_steps


def _bar_callback(update: Callable[[int], object]) -> Callable[[int, int], object]:
    """A function ``report(done, total)`` for a bar, whose `update` takes increments."""
    reported = 0

    def report(done: int, _total: int) -> None:
        nonlocal reported
        update(done - reported)
        reported = done

    return report
