"""Weight conversion between IndyGRU and PyTorch, Keras, ONNX, ParaRNN, XMA and minGRU.

``docs/interop.md`` lists the gate order of each library and what cannot be converted. Converters copy weights, check
all of them before they make a layer, and keep the dtype. Only `to_torch` needs PyTorch; only `to_onnx` and `from_onnx`
need the package onnx: ``pip install "indygru_cpu[interop]"``.
"""

from indygru_cpu.interop._keras import from_keras, to_keras
from indygru_cpu.interop._mingru import from_mingru, to_mingru
from indygru_cpu.interop._onnx_read import from_onnx
from indygru_cpu.interop._onnx_write import to_onnx
from indygru_cpu.interop._pararnn import from_pararnn, to_pararnn
from indygru_cpu.interop._torch import from_torch, to_torch
from indygru_cpu.interop._xma import from_xma, to_xma

__all__ = [
    "from_keras",
    "from_mingru",
    "from_onnx",
    "from_pararnn",
    "from_torch",
    "from_xma",
    "to_keras",
    "to_mingru",
    "to_onnx",
    "to_pararnn",
    "to_torch",
    "to_xma",
]
