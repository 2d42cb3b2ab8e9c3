"""The IndyGRU layer (a GRU whose recurrent weights are vectors) on CPUs, for NumPy."""

from indygru_cpu._version import __version__

try:
    from indygru_cpu import _core as _core
except ModuleNotFoundError as error:
    if error.name != "indygru_cpu._core":
        raise
    raise ImportError(
        f"{__path__[0]} is the source folder of indygru_cpu, and its extension is not built there. Run "
        "'pip install .' in the folder above it and then leave that folder, or 'pip install -e .' to use it in place."
    ) from None

from indygru_cpu import functional
from indygru_cpu.layer import IndyGRU

__all__ = ["IndyGRU", "__version__", "functional"]
