"""Write the weight file named by the argument."""

from __future__ import annotations

import sys

from weight_files import RICH, random_arrays

from indygru_cpu import _files

_files.write(sys.argv[1], RICH, random_arrays(RICH))
