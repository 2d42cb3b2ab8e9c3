"""Write the weight file named by the argument, where no file may exceed 1000 bytes. Prints the error."""

from __future__ import annotations

import resource
import sys

from weight_files import RICH, random_arrays

from indygru_cpu import _files

resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    _files.write(sys.argv[1], RICH, random_arrays(RICH))
except OSError as error:
    print(type(error).__name__, error.strerror)
