"""Prints the warnings of a child's call after a parallel call of its parent."""

from __future__ import annotations

from forked_results import with_warnings
from forks import in_child
from parallel_layer import all_results

all_results()
print(in_child(lambda: print(*with_warnings()[1], flush=True) is None))
