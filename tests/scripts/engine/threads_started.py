"""Prints how many threads a forward and a backward pass start. Argument: num_threads."""

from __future__ import annotations

import importlib
import sys

from process_state import thread_count

before = thread_count()
importlib.import_module("parallel_layer").all_results(num_threads=int(sys.argv[1]))
print(thread_count() - before)
