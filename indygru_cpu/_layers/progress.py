"""News of a long call: a function, or a bar of tqdm, learns how many steps are done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Progress:
    """Steps done and steps in all, summed over the calls of `functional` that one call of a layer makes.

    Parameters
    ----------
    report : callable, object or None
        Called as ``report(done, total)``; or a bar of tqdm, or anything with its `n`, `total` and `update`.
    total : int
        Steps in all.
    """

    def __init__(self, report: Any, total: int) -> None:
        if report is not None and all(hasattr(report, name) for name in ("n", "total", "update")):
            report.total = report.n + total  # one bar may watch several calls
            report = _update_of(report.update)
        elif report is not None and not callable(report):
            raise TypeError(f"progress: expected a function (done, total) or a tqdm bar, got {type(report).__name__}")
        self._report, self._total, self._done = report, total, 0

    def of_a_call(self) -> Callable[[int], object] | None:
        """What `functional.forward` takes as its `progress`."""
        if self._report is None:
            return None
        report, before, total = self._report, self._done, self._total
        return lambda done: report(before + done, total)

    def add(self, steps: int) -> None:
        """Note that a call is over."""
        self._done += steps


#: Of calls whose news nobody wants: none need an object of their own.
SILENCE = Progress(None, 0)


def _update_of(update: Callable[[int], object]) -> Callable[[int, int], object]:
    """A report for a bar, which wants increments."""
    seen = 0

    def report(done: int, _total: int) -> None:
        nonlocal seen
        update(done - seen)
        seen = done

    return report
