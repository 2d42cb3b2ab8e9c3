"""The layer for C, Cython and Numba: functions that run without Python.

The header ``indygru_call.h`` in the folder `get_include` documents their arguments and results; ``docs/c_api.md`` shows
a call from each language. Cython: ``from indygru_cpu.c_api cimport indygru_call, indygru_forward``. Numba gets their
addresses from ``numba.extending.get_cython_function_address("indygru_cpu.c_api", "indygru_forward")``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from indygru_cpu._engine import _core
from indygru_cpu._engine._core import message

__all__ = ["CALL", "get_include", "message"]

_FIELDS = [
    (np.uintp, "size"),
    (np.intc, "dtype activation reproducible without_reset_gate n_threads"),
    (np.intp, "n_steps n_batch n_inputs n_units n_groups"),
    (np.uintp, "lengths kernel recurrent_kernel bias x h y tape h0 dy dh dx dkernel drecurrent_kernel dbias"),
]

#: The struct `indygru_call` as a NumPy dtype, for Numba and ctypes. Pointers are addresses: ``array.ctypes.data``.
CALL = np.dtype([(name, kind) for kind, names in _FIELDS for name in names.split()], align=True)

#: The capsules of the functions, from which `cimport`, Numba and indygru_cpu.h get their addresses.
__pyx_capi__ = _core.__pyx_capi__


def get_include() -> str:
    """Return the folder of the C headers, for the ``include_dirs`` of an extension.

    Returns
    -------
    str
        Path of ``indygru_cpu/_engine/include``.

    Examples
    --------
    >>> import os, indygru_cpu
    >>> sorted(os.listdir(indygru_cpu.get_include()))
    ['indygru_call.h', 'indygru_cpu.h']
    """
    return str(Path(__file__).parent / "_engine" / "include")
