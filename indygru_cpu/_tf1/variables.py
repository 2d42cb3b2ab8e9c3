"""The six variables of a cell: views, under TensorFlow's names, of the three fused weight arrays of the kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from indygru_cpu._engine.messages import shortened
from indygru_cpu._tf1 import checks as tf_checks
from indygru_cpu._typing import Array

#: In the order of `IndyGRUCell.variables`. As in TensorFlow, "candidate/kernel" has no suffix "_w".
VARIABLE_NAMES = (
    "gates/kernel_w",
    "gates/kernel_u",
    "gates/bias",
    "candidate/kernel",
    "candidate/kernel_u",
    "candidate/bias",
)


def named_views(kernel: Array, recurrent_kernel: Array, bias: Array) -> dict[str, Array]:
    """Return views of fused weights or gradients under TensorFlow's names. The first 2N columns are the gates."""
    n_gates = len(bias) // 3 * 2
    row = recurrent_kernel[np.newaxis]
    columns = (slice(None, n_gates), slice(n_gates, None))
    views = [array[..., part] for part in columns for array in (kernel, row, bias)]
    return dict(zip(VARIABLE_NAMES, views, strict=True))


def full_name(scope: str, name: str) -> str:
    """Return `name` inside `scope`. The default scope has the empty name."""
    return f"{scope}/{name}" if scope else name


class Variable:
    """A named view of a cell's weights.

    Attributes
    ----------
    name : str
        The full name in TensorFlow's spelling, such as "indy_gru_cell/gates/kernel_w:0".
    value : numpy.ndarray
        The weights, not a copy: ``variable.value[...] = array`` changes the cell.
    shape : tuple of int
    dtype : numpy.dtype

    Examples
    --------
    >>> from indygru_cpu import IndyGRUCell
    >>> cell = IndyGRUCell(2, name="doc_variable")
    >>> cell.build((None, 5))
    >>> bias = cell.variables[5]
    >>> bias.name, bias.shape
    ('doc_variable/candidate/bias:0', (2,))
    >>> bias.assign([0.5, -0.5])
    >>> cell.named_variables["candidate/bias"]
    array([ 0.5, -0.5], dtype=float32)
    """

    __slots__ = ("_name", "_value")

    def __init__(self, name: str, value: Array) -> None:
        self._name = name
        self._value = value

    @property
    def name(self) -> str:
        """Full name, with the suffix ":0"."""
        return self._name

    @property
    def value(self) -> Array:
        """The weights, not a copy."""
        return self._value

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weights."""
        return self._value.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the weights."""
        return self._value.dtype

    def assign(self, value: object) -> None:
        """Overwrite the values. An array must have the same shape and dtype; nested lists must have the same shape."""
        self._value[...] = tf_checks.variable_value(self._name, value, self._value)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.array(self._value, dtype=dtype) if copy else np.asarray(self._value, dtype=dtype)

    def __repr__(self) -> str:
        return f"<Variable {self._name!r} shape={self.shape} dtype={self.dtype}>"


class CellVariables:
    """The weights of one scope. All cells that share the scope hold the same object.

    Attributes
    ----------
    scope : str
    kernel, recurrent_kernel, bias : numpy.ndarray
        The fused arrays, of shapes (D, 3N), (3N,) and (3N,).
    named : dict of str to numpy.ndarray
        Views of the fused arrays under TensorFlow's short names.
    variables : tuple of Variable
        The same views under full names.
    """

    def __init__(self, scope: str, kernel: Array, recurrent_kernel: Array, bias: Array) -> None:
        self.scope = scope
        self.kernel, self.recurrent_kernel, self.bias = kernel, recurrent_kernel, bias
        self.named = named_views(kernel, recurrent_kernel, bias)
        self.variables = tuple(Variable(f"{full_name(scope, name)}:0", view) for name, view in self.named.items())

    @classmethod
    def empty(cls, scope: str, depth: int, num_units: int, dtype: np.dtype[Any]) -> CellVariables:
        """Allocate variables without initialising their values."""
        columns = 3 * num_units
        return cls(scope, np.empty((depth, columns), dtype), np.empty(columns, dtype), np.empty(columns, dtype))

    def __reduce__(self) -> tuple[Any, ...]:
        # Copies of the individual attributes would not be views of the copied fused arrays.
        return CellVariables, (self.scope, self.kernel, self.recurrent_kernel, self.bias)

    @property
    def fused(self) -> tuple[Array, Array, Array]:
        """The fused arrays, in the order of the arguments of `functional.forward`."""
        return self.kernel, self.recurrent_kernel, self.bias

    @property
    def depth(self) -> int:
        """D, the number of input features."""
        return self.kernel.shape[0]

    @property
    def num_units(self) -> int:
        """N, the number of units."""
        return self.kernel.shape[1] // 3

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the weights."""
        return self.kernel.dtype

    def check_compatible(self, depth: int, num_units: int, dtype: np.dtype[Any]) -> None:
        """Check that a cell of this size can share these variables."""
        first = self.variables[0]
        prefix = f"Trying to share variable {shortened(first.name.removesuffix(':0'))}, but specified"
        if first.shape != (depth, 2 * num_units):
            raise ValueError(f"{prefix} shape {(depth, 2 * num_units)} and found shape {first.shape}.")
        if self.dtype != dtype:
            raise ValueError(f"{prefix} dtype {dtype} and found dtype {self.dtype}_ref.")

    def assign(self, values: Sequence[object]) -> None:
        """Overwrite all six variables, or none if a value has a wrong shape or dtype."""
        pairs = list(zip(self.variables, values, strict=True))
        arrays = [tf_checks.variable_value(variable.name, value, variable.value) for variable, value in pairs]
        for (variable, _), array in zip(pairs, arrays, strict=True):
            variable.value[...] = array
