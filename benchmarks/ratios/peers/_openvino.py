"""Shared by the peers in OpenVINO: a compiled model with the number of threads of the case."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openvino
from cases import Case


def prepared(model: bytes, case: Case) -> Callable[[], Any]:
    """Function from x, which is not copied, to y."""
    options = {
        "INFERENCE_NUM_THREADS": case.threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",  # on some machines it would take bfloat16
    }
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model), "CPU", options)
    return lambda: compiled([case.x], share_inputs=True, share_outputs=True)[0]
