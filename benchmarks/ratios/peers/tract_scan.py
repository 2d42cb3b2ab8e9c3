"""tract on the Scan of `_onnx`; it runs a model on one thread."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tract
from cases import Case

from ratios.peers import _onnx


def forward(case: Case) -> Callable[[], Any]:
    with tempfile.TemporaryDirectory() as folder:  # it reads models from files
        path = Path(folder) / "model.onnx"
        path.write_bytes(_onnx.scan(case))
        runnable = tract.onnx().load(path).into_model().into_runnable()
    return lambda: runnable.run([case.x])[0].to_numpy()
