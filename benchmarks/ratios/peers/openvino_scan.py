"""OpenVINO on the Scan of `_onnx`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cases import Case

from ratios.peers import _onnx, _openvino


def forward(case: Case) -> Callable[[], Any]:
    return _openvino.prepared(_onnx.scan(case), case)
