"""A child's child computes on one thread; it warns only if its parent has not."""

from __future__ import annotations

from forked_results import report, serial
from forks import in_child
from parallel_layer import all_results

expected = all_results()
assert in_child(lambda: in_child(lambda: report() == serial(expected)) and report() == serial(expected))
print(in_child(lambda: report() == serial(expected) and in_child(lambda: report() == (expected, 0, False))))
