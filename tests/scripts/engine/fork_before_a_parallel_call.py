"""Children of a process that has made no parallel call run in parallel; children of one that has are serial."""

from __future__ import annotations

from forked_results import parallel, report, serial
from forks import in_child
from parallel_layer import all_results


def child_is_parallel_and_its_child_serial():
    return report() == parallel(expected) and in_child(lambda: report() == serial(expected))


expected = all_results(num_threads=1)
assert all(in_child(child_is_parallel_and_its_child_serial) for _ in range(3))
all_results()
print(all(in_child(lambda: report() == serial(expected)) for _ in range(3)))
