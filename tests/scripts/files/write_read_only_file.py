"""Write the read-only file named by the argument as an ordinary user, by NumPy and by this library."""

from __future__ import annotations

import os
import sys

import helpers
import numpy as np
from weight_files import RICH, random_arrays

from indygru_cpu import _files

helpers.give_up_capabilities()
path = sys.argv[1]
for write in (lambda: np.ones(3).tofile(path), lambda: _files.write(path, RICH, random_arrays(RICH))):
    try:
        print("written", write())
    except OSError as error:
        print(type(error).__name__, error.filename == path)
_files.write("other" + os.path.splitext(path)[1], RICH, random_arrays(RICH))
print(os.listdir())
