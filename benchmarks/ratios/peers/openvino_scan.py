"""OpenVINO on the Scan of `_onnx`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openvino
from cases import Case

from ratios.peers import _onnx


def forward(case: Case) -> Callable[[], Any]:
    options = {
        "INFERENCE_NUM_THREADS": case.threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",  # on some machines it would take bfloat16
    }
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(_onnx.scan(case)), "CPU", options)
    return lambda: compiled([case.x], share_inputs=True, share_outputs=True)[0]
