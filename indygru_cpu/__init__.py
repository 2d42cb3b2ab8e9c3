"""IndyGRU, a GRU layer whose recurrent weights are vectors, on CPUs for NumPy."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from indygru_cpu._version import __version__

try:
    import indygru_cpu._engine  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "indygru_cpu._engine._core":
        raise
    raise ImportError(
        f"{__path__[0]} is the source folder of indygru_cpu, and its extension is not built there. Run "
        "'pip install .' in the folder above it and then leave that folder, or 'pip install -e .' to use it in place."
    ) from None

from indygru_cpu import functional
from indygru_cpu._engine.memory import release as release_memory
from indygru_cpu._engine.threads import chunk_statistics, last_num_threads
from indygru_cpu._engine.threads import statistics as thread_statistics
from indygru_cpu.layer import IndyGRU
from indygru_cpu.stream import StreamPool

if TYPE_CHECKING:
    from indygru_cpu import initializers
    from indygru_cpu._files.arrays import WeightsError
    from indygru_cpu._tf1.cell import IndyGRUCell
    from indygru_cpu._tf1.dynamic_rnn import bidirectional_dynamic_rnn, dynamic_rnn, reverse_sequence
    from indygru_cpu._tf1.scopes import AUTO_REUSE, get_variable_scope, reset_default_scope, variable_scope
    from indygru_cpu.c_api import get_include

__all__ = [
    "AUTO_REUSE",
    "IndyGRU",
    "IndyGRUCell",
    "StreamPool",
    "WeightsError",
    "__version__",
    "bidirectional_dynamic_rnn",
    "chunk_statistics",
    "dynamic_rnn",
    "functional",
    "get_include",
    "get_variable_scope",
    "initializers",
    "last_num_threads",
    "release_memory",
    "reset_default_scope",
    "reverse_sequence",
    "thread_statistics",
    "variable_scope",
]

#: The modules of names that are imported on first use: the interfaces of TensorFlow and C, which would take a quarter
#: of the import time.
_LAZY = {
    "AUTO_REUSE": "_tf1.scopes",
    "IndyGRUCell": "_tf1.cell",
    "WeightsError": "_files.arrays",
    "bidirectional_dynamic_rnn": "_tf1.dynamic_rnn",
    "dynamic_rnn": "_tf1.dynamic_rnn",
    "get_include": "c_api",
    "get_variable_scope": "_tf1.scopes",
    "initializers": "initializers",
    "reset_default_scope": "_tf1.scopes",
    "reverse_sequence": "_tf1.dynamic_rnn",
    "variable_scope": "_tf1.scopes",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        from indygru_cpu._engine.messages import shown

        raise AttributeError(f"module {__name__!r} has no attribute {shown(name)}")
    module = import_module(f"{__name__}.{_LAZY[name]}")
    globals()[name] = value = getattr(module, name, module)
    return value


def __dir__() -> list[str]:
    return sorted(globals().keys() | _LAZY)
