"""Write the weight file named by the argument, and die by SIGKILL before the temporary file is renamed."""

from __future__ import annotations

import os
import signal
import sys

from weight_files import RICH, random_arrays

from indygru_cpu import _files
from indygru_cpu._files import atomic

atomic.os.replace = lambda *names: os.kill(os.getpid(), signal.SIGKILL)
_files.write(sys.argv[1], RICH, random_arrays(RICH))
