"""Peers: other implementations of the layer.

A peer is a module of this package. Its `forward(case)` and, if it can train, `training(case)` prepare the work and
return the function that is timed, which returns y, or the gradients of x, h0, kernel, recurrent_kernel and bias.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from cases import Case

from indygru_cpu import reference

#: Bounds on the scaled error of y and of the gradients, which are sums of thousands of terms.
TOLERANCE = {"forward": 1e-4, "training": 1e-3}


def not_installed(packages: Iterable[str]) -> str | None:
    """Return a text that names the missing packages, or None."""
    missing = [name for name in packages if find_spec(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else None


class Peer(NamedTuple):
    """Title in the tables, module, required packages, and environment of the process.

    Peers with `more_work` have full recurrent matrices. Peers with `in_place` are also timed in each place.
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
    # The threads of an OpenMP pool would spin while those of NumPy's BLAS work.
    Peer("Numba by hand", "numba_tiles", ("numba",), in_place=True, environment={"NUMBA_THREADING_LAYER": "workqueue"}),
    Peer("JAX `lax.scan`", "jax_scan", ("jax",)),
    # Compile workers would not be stopped with the runner, and one kernel at a time gains nothing from them.
    Peer(
        "torch.compile, 20 steps",
        "torch_compile",
        ("torch",),
        in_place=True,
        environment={"TORCHINDUCTOR_COMPILE_THREADS": "1"},
    ),
    Peer("torch, eager loop", "torch_eager", ("torch",)),
    Peer("ParaGRU of pararnn-torch", "pararnn_sequential", ("torch", "pararnn", "triton")),
    Peer("onnxruntime, Scan", "onnxruntime_scan", ("onnx", "onnxruntime"), trains=False, in_place=True),
    Peer("OpenVINO, Scan", "openvino_scan", ("onnx", "openvino"), trains=False),
    Peer("tract, Scan", "tract_scan", ("onnx", "tract"), trains=False),
    Peer("torch.nn.GRU", "torch_gru", ("torch",), more_work=True, in_place=True),
    Peer("onnxruntime GRU", "onnxruntime_gru", ("onnx", "onnxruntime"), trains=False, more_work=True, in_place=True),
    Peer("OpenVINO GRUSequence", "openvino_gru", ("onnx", "openvino"), trains=False, more_work=True),
]


def scaled_error(actual: Any, expected: Any) -> float:
    """Largest difference, divided by the largest expected magnitude if that is above 1."""
    actual = np.asarray(actual)
    if actual.shape != expected.shape:
        raise ValueError(f"expected shape {expected.shape}, got {actual.shape}")
    return float(np.abs(actual - expected).max() / max(1, np.abs(expected).max()))


def check(work: str, result: Any, case: Case) -> None:
    """Compare a result with the reference. The error names the array and its difference."""
    y, _, tape = reference.forward(case.x, case.h0, *case.weights)
    expected = {"y": y}
    if work == "training":
        expected = reference.backward(tape, case.dy, np.zeros_like(case.h0))._asdict()
    results = result if work == "training" else (result,)
    for (name, array), actual in zip(expected.items(), results, strict=True):
        error = scaled_error(actual, array)
        if not error <= TOLERANCE[work]:
            raise ValueError(f"{name} differs from the reference by {error:.2g}, tolerance {TOLERANCE[work]:g}")
