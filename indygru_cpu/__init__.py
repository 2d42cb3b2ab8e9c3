"""The IndyGRU layer (a GRU whose recurrent weights are vectors) on CPUs, for NumPy."""

from indygru_cpu._environment import short_waits
from indygru_cpu._version import __version__

try:
    with short_waits():
        import indygru_cpu._core  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "indygru_cpu._core":
        raise
    raise ImportError(
        f"{__path__[0]} is the source folder of indygru_cpu, and its extension is not built there. Run "
        "'pip install .' in the folder above it and then leave that folder, or 'pip install -e .' to use it in place."
    ) from None

from indygru_cpu import functional, initializers
from indygru_cpu._dynamic_rnn import dynamic_rnn
from indygru_cpu._scopes import AUTO_REUSE, get_variable_scope, reset_default_scope, variable_scope
from indygru_cpu._weights import WeightsError
from indygru_cpu.cell import IndyGRUCell
from indygru_cpu.layer import IndyGRU

__all__ = [
    "AUTO_REUSE",
    "IndyGRU",
    "IndyGRUCell",
    "WeightsError",
    "__version__",
    "dynamic_rnn",
    "functional",
    "get_variable_scope",
    "initializers",
    "reset_default_scope",
    "variable_scope",
]
