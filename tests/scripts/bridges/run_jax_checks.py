"""Run the tests of JAX in this process: arguments are a configuration file, the tests, and options of pytest.

The option --one-cpu, if it is first, restricts the process to one CPU.
"""

from __future__ import annotations

import os
import sys

import pytest

configuration, checks, *options = sys.argv[1:]
if options[:1] == ["--one-cpu"]:
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    options = options[1:]
fixed = ["-q", "-p", "no:cacheprovider", "--import-mode=importlib", "-W", "error", "-c", configuration]
sys.exit(pytest.main([*fixed, checks, *options]))
