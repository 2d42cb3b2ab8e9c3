"""Reports of a pool's processes. Argument: the start method.

Prints whether their results are right and they run in parallel unless forked, and the largest number of warnings.
"""

from __future__ import annotations

import multiprocessing
import sys

from forked_results import report
from parallel_layer import all_results

if __name__ == "__main__":
    method = sys.argv[1]
    expected = all_results()
    with multiprocessing.get_context(method).Pool(2) as pool:
        reports = pool.map(report, range(4), chunksize=1)
    print(all(results == expected and is_parallel == (method != "fork") for results, _, is_parallel in reports))
    print(max(n_warnings for _, n_warnings, _ in reports))
