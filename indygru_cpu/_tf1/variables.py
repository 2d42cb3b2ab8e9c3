"""The six variables of a cell: under TensorFlow's names, views of the three fused arrays of the kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from indygru_cpu._engine.messages import shortened
from indygru_cpu._tf1 import checks as check
from indygru_cpu._typing import Array

#: Everywhere in this order. "candidate/kernel" has no "_w".
VARIABLE_NAMES = (
    "gates/kernel_w",
    "gates/kernel_u",
    "gates/bias",
    "candidate/kernel",
    "candidate/kernel_u",
    "candidate/bias",
)


def named_views(kernel: Array, recurrent_kernel: Array, bias: Array) -> dict[str, Array]:
    """Return views of fused weights or gradients, by TensorFlow names: the first 2N columns are the gates."""
    n_gates = len(bias) // 3 * 2
    row = recurrent_kernel[np.newaxis]
    columns = (slice(None, n_gates), slice(n_gates, None))
    views = [array[..., part] for part in columns for array in (kernel, row, bias)]
    return dict(zip(VARIABLE_NAMES, views, strict=True))


def full_name(scope: str, name: str) -> str:
    """Join the names of a scope and of something in it; the outermost scope is the empty one."""
    return f"{scope}/{name}" if scope else name


class Variable:
    """A named array that lives in a cell.

    Attributes
    ----------
    name : str
        The full name as TensorFlow writes it, such as "indy_gru_cell/gates/kernel_w:0".
    value : numpy.ndarray
        The weights themselves, not a copy: ``variable.value[...] = array`` changes the cell.
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
        return self._name

    @property
    def value(self) -> Array:
        return self._value

    @property
    def shape(self) -> tuple[int, ...]:
        return self._value.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._value.dtype

    def assign(self, value: object) -> None:
        """Overwrite the values with an array of the same shape and dtype, or with nested lists."""
        self._value[...] = check.weight(self._name, value, self._value)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.array(self._value, dtype=dtype) if copy else np.asarray(self._value, dtype=dtype)

    def __repr__(self) -> str:
        return f"<Variable {self._name!r} shape={self.shape} dtype={self.dtype}>"


class CellVariables:
    """The weights of one scope, owned by one object that all cells of that scope share.

    Attributes
    ----------
    scope : str
    kernel, recurrent_kernel, bias : numpy.ndarray
        (D, 3N), (3N,), (3N,): the fused arrays.
    named : dict of str to numpy.ndarray
        Views of them under TensorFlow's short names.
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
        """Make arrays whose values are still to be written."""
        columns = 3 * num_units
        return cls(scope, np.empty((depth, columns), dtype), np.empty(columns, dtype), np.empty(columns, dtype))

    def __reduce__(self) -> tuple[Any, ...]:
        # Copied one by one, the views would no longer be views of the copied arrays.
        return CellVariables, (self.scope, self.kernel, self.recurrent_kernel, self.bias)

    @property
    def fused(self) -> tuple[Array, Array, Array]:
        return self.kernel, self.recurrent_kernel, self.bias

    @property
    def depth(self) -> int:
        return self.kernel.shape[0]

    @property
    def num_units(self) -> int:
        return self.kernel.shape[1] // 3

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.kernel.dtype

    def check_shared(self, depth: int, num_units: int, dtype: np.dtype[Any]) -> None:
        """Check that a cell of this size may use them."""
        first = self.variables[0]
        sharing = f"Trying to share variable {shortened(first.name.removesuffix(':0'))}, but specified"
        if first.shape != (depth, 2 * num_units):
            raise ValueError(f"{sharing} shape {(depth, 2 * num_units)} and found shape {first.shape}.")
        if self.dtype != dtype:
            raise ValueError(f"{sharing} dtype {dtype} and found dtype {self.dtype}_ref.")

    def assign(self, values: Sequence[object]) -> None:
        """Overwrite all six, or none if one does not fit."""
        pairs = list(zip(self.variables, values, strict=True))
        arrays = [check.weight(variable.name, value, variable.value) for variable, value in pairs]
        for (variable, _), array in zip(pairs, arrays, strict=True):
            variable.value[...] = array
