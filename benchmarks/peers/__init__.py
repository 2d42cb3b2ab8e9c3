"""Who else computes the layer.

A peer is a module here. Its `forward(case)` and, if it can train, `training(case)` prepare the work and return the
function that is timed: it gives y, or the gradients of x, h0, kernel, recurrent_kernel and bias.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from cases import Case

from indygru_cpu import reference

#: Scaled error of y, which rational and vectorised functions keep easily, and of the gradients, sums of thousands.
TOLERANCE = {"forward": 1e-4, "training": 1e-3}


def not_installed(packages: Iterable[str]) -> str | None:
    """Tell which of them are missing, if any."""
    missing = [name for name in packages if find_spec(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else None


class Peer(NamedTuple):
    """How it is called in the tables, its module, what must be installed, and its process's environment.

    Peers with `in_place` are also timed in each place.
    """

    title: str
    module: str
    needs: tuple[str, ...]
    trains: bool = True
    more_work: bool = False
    in_place: bool = False
    environment: Mapping[str, str] = MappingProxyType({})


PEERS = [
    Peer("NumPy reference", "numpy_reference", ()),
    # An OpenMP pool would spin against the threads of NumPy's BLAS.
    Peer("Numba by hand", "numba_tiles", ("numba",), in_place=True, environment={"NUMBA_THREADING_LAYER": "workqueue"}),
    Peer("JAX `lax.scan`", "jax_scan", ("jax",)),
    # Compiling in processes of their own, which nobody would stop, gains nothing with one kernel at a time.
    Peer(
        "torch.compile, 20 steps",
        "torch_compile",
        ("torch",),
        in_place=True,
        environment={"TORCHINDUCTOR_COMPILE_THREADS": "1"},
    ),
    Peer("torch, eager loop", "torch_eager", ("torch",)),
    Peer("onnxruntime, Scan", "onnxruntime_scan", ("onnx", "onnxruntime"), trains=False, in_place=True),
    Peer("OpenVINO, Scan", "openvino_scan", ("onnx", "openvino"), trains=False),
    Peer("torch.nn.GRU", "torch_gru", ("torch",), more_work=True, in_place=True),
    Peer("onnxruntime GRU", "onnxruntime_gru", ("onnx", "onnxruntime"), trains=False, more_work=True, in_place=True),
]


def scaled_error(found: Any, wanted: Any) -> float:
    """Largest difference, relative to the largest number wanted if that is above 1."""
    found = np.asarray(found)
    if found.shape != wanted.shape:
        raise ValueError(f"expected shape {wanted.shape}, got {found.shape}")
    return float(np.abs(found - wanted).max() / max(1, np.abs(wanted).max()))


def check(work: str, result: Any, case: Case) -> None:
    """Compare a result with the reference; an error tells which part differs, and how far."""
    y, _, tape = reference.forward(case.x, case.h0, *case.weights)
    wanted = {"y": y}
    if work == "training":
        wanted = reference.backward(tape, case.dy, np.zeros_like(case.h0))._asdict()
    results = result if work == "training" else (result,)
    for (name, array), found in zip(wanted.items(), results, strict=True):
        error = scaled_error(found, array)
        if not error <= TOLERANCE[work]:
            raise ValueError(f"{name} differs from the reference by {error:.2g}, tolerance {TOLERANCE[work]:g}")
