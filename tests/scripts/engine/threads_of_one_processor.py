"""Prints the processors of a process that may use one, and its default number of threads."""

from __future__ import annotations

import os

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

from indygru_cpu._engine import threads as thread_counts  # noqa: E402

print(thread_counts.affinity(), thread_counts.default().count)
