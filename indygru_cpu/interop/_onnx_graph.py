"""A graph of ONNX while it is being built: each call adds a node and gives the names of what comes out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from indygru_cpu._typing import Array
from indygru_cpu.interop._weights import library

Shape = Sequence["int | str"]


class Graph:
    """Nodes and weights. All names begin with `prefix`: those of an inner graph may not be those of the outer one."""

    def __init__(self, prefix: str = "") -> None:
        self._onnx = library("onnx")
        self._prefix = prefix
        self._nodes: list[Any] = []
        self._weights: list[Any] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []

    def _declared(self, name: str, dtype: Any, shape: Shape) -> Any:
        return self._onnx.helper.make_tensor_value_info(self._prefix + name, self.kind(dtype), shape)

    def kind(self, dtype: Any) -> int:
        """The number that a dtype has in ONNX."""
        return int(self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def input(self, name: str, dtype: Any, shape: Shape) -> str:
        """Declare an input; a str in its shape is a free size."""
        self._inputs.append(self._declared(name, dtype, shape))
        return self._prefix + name

    def output(self, name: str, value: str, dtype: Any, shape: Shape) -> None:
        """Make a value an output."""
        self._nodes.append(self._onnx.helper.make_node("Identity", [value], [self._prefix + name]))
        self._outputs.append(self._declared(name, dtype, shape))

    def weight(self, name: str, array: Array) -> str:
        """Store an array."""
        tensor = self._onnx.numpy_helper.from_array(np.array(array, order="C"), self._prefix + name)
        self._weights.append(tensor)
        return self._prefix + name

    def call(self, operator: str, *inputs: str | Array | None, n_outputs: int, **attributes: Any) -> list[str]:
        """Add a node. Inputs are names, small constants, or None for one that is left out."""
        node = f"{operator}_{len(self._nodes)}"
        names = [
            self.weight(f"{node}_constant_{place}", value) if isinstance(value, np.ndarray) else value or ""
            for place, value in enumerate(inputs)
        ]
        outputs = [f"{self._prefix}{node}_{place}" for place in range(n_outputs)]
        self._nodes.append(self._onnx.helper.make_node(operator, names, outputs, self._prefix + node, **attributes))
        return outputs

    def __call__(self, operator: str, *inputs: str | Array | None, **attributes: Any) -> str:
        """Add a node with one output."""
        return self.call(operator, *inputs, n_outputs=1, **attributes)[0]

    def finished(self) -> Any:
        """The GraphProto."""
        name = f"{self._prefix}IndyGRU"
        return self._onnx.helper.make_graph(self._nodes, name, self._inputs, self._outputs, self._weights)
