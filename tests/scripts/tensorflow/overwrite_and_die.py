"""Overwrites a checkpoint in child processes, each of which exits before one more of its file operations.

Prints the value that the checkpoint contains after each exit: 1 is the old checkpoint, 2 the new one.
"""

from __future__ import annotations

import os
import sys

import numpy as np

from indygru_cpu import tensorflow
from indygru_cpu.tensorflow._checkpoint import write_checkpoint

FILE_OPERATIONS = {"open", "os.rename", "os.remove", "os.listdir", "os.chmod", "os.truncate"}
EXIT_STATUS = 9
prefix = sys.argv[1]


def write_value(value):
    write_checkpoint(prefix, {"t": np.full(9, value, np.float32), "u": np.float64(value)})


def read_value():
    assert tensorflow.latest_checkpoint(os.path.dirname(prefix)) == prefix
    values = [*tensorflow.load_variable(prefix, "t"), float(tensorflow.load_variable(prefix, "u"))]
    assert len(set(values)) == 1, values
    return int(values[0])


def exits_before_operation(n):
    """Write the value 2 in a child that exits before its file operation number n. Return whether it has exited."""
    remaining = n

    def count(event, _):
        nonlocal remaining
        if event in FILE_OPERATIONS:
            remaining -= 1
            if remaining < 0:
                os._exit(EXIT_STATUS)

    child = os.fork()
    if not child:
        sys.addaudithook(count)
        write_value(2)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == EXIT_STATUS


values = []
write_value(1)
while exits_before_operation(len(values)):
    values.append(read_value())
    write_value(1)
    assert read_value() == 1
assert read_value() == 2
print(*values)
