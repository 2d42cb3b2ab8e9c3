"""Layers from and to other libraries: PyTorch, Keras, ONNX, ParaRNN.

``docs/interop.md`` has the order of the gates of each, and what does not fit. Weights are copied, checked as a whole
before a layer is made of them, and keep their dtype. PyTorch is needed for `to_torch` only, the package onnx for
`to_onnx` and `from_onnx`: ``pip install "indygru_cpu[interop]"``.
"""

from indygru_cpu.interop._keras import from_keras, to_keras
from indygru_cpu.interop._onnx_read import from_onnx
from indygru_cpu.interop._onnx_write import to_onnx
from indygru_cpu.interop._pararnn import from_pararnn, to_pararnn
from indygru_cpu.interop._torch import from_torch, to_torch

__all__ = [
    "from_keras",
    "from_onnx",
    "from_pararnn",
    "from_torch",
    "to_keras",
    "to_onnx",
    "to_pararnn",
    "to_torch",
]
