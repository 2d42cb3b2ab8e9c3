"""Prints the processors of a process that may use one, and its default number of threads."""

from __future__ import annotations

import importlib
import os

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

thread_counts = importlib.import_module("indygru_cpu._engine.threads")
print(thread_counts.affinity(), thread_counts.default().count)
