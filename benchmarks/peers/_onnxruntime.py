"""What the peers in onnxruntime share: a session with so many threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnxruntime
from cases import Case


def prepared(model: bytes, case: Case) -> Callable[[], Any]:
    """From x, bound once, to y, in a session that optimises all it can."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = case.threads, 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feeds = {"x": case.x}
    return lambda: session.run(None, feeds)[0]
