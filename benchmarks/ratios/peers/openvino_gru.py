"""OpenVINO's GRUSequence of the same size, with diagonal recurrent matrices, converted from ONNX's GRU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cases import Case

from ratios.peers import _onnx, _openvino


def forward(case: Case) -> Callable[[], Any]:
    run = _openvino.prepared(_onnx.gru(case), case)
    return lambda: run()[:, 0]
