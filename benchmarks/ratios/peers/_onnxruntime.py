"""Shared by the peers in onnxruntime: a session with the number of threads of the case."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnxruntime
from cases import Case


def prepared(model: bytes, case: Case) -> Callable[[], Any]:
    """Function from x, bound once, to y, in a session with all optimisations."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = case.threads, 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feeds = {"x": case.x}
    return lambda: session.run(None, feeds)[0]
