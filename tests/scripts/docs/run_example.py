"""Run a program: arguments are "default" or "error" for the warning filter, its path and its own arguments."""

from __future__ import annotations

import runpy
import sys
import warnings

if sys.argv.pop(1) == "default":
    warnings.simplefilter("default")
runpy.run_path(sys.argv.pop(1), run_name="__main__")
