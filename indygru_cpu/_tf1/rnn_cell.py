"""What the cell inherits in TensorFlow from `tf.nn.rnn_cell.RNNCell`: its sizes and its zero state."""

from __future__ import annotations

from typing import Any

import numpy as np

from indygru_cpu._engine.messages import shortened
from indygru_cpu._tf1 import checks as check
from indygru_cpu._tf1.layer import Layer
from indygru_cpu._tf1.registry import Reuse
from indygru_cpu._typing import Array


class RNNCell(Layer):
    """A layer whose one state is as wide as its output."""

    def __init__(self, num_units: Any, name: str | None, dtype: object, reuse: bool | Reuse | None) -> None:
        super().__init__(name, dtype, reuse)
        self._num_units = num_units

    @property
    def state_size(self) -> Any:
        """`num_units`, as given."""
        return self._num_units

    @property
    def output_size(self) -> Any:
        """`num_units`, as given."""
        return self._num_units

    def zero_state(self, batch_size: Any, dtype: object) -> Array:
        """Zeros to start from.

        Parameters
        ----------
        batch_size : int, or list, tuple or array of int
            What comes before N in the shape: 3 and [3] stand for (3, N), [2, 3] for (2, 3, N).
        dtype : float32 or float64

        Returns
        -------
        array, (batch_size, N) or (*batch_size, N)

        Raises
        ------
        ValueError, TypeError
            A batch size that is no size; another dtype.

        Examples
        --------
        >>> from indygru_cpu import IndyGRUCell
        >>> IndyGRUCell(4).zero_state(3, "float32").shape
        (3, 4)
        """
        shape = (*check.batch_shape(batch_size), check.num_units(self._num_units))
        return np.zeros(shape, check.dtype("dtype", dtype))

    def get_initial_state(self, inputs: object = None, batch_size: Any = None, dtype: object = None) -> Array:
        """Zeros to start from, for inputs or for a batch size and dtype.

        Parameters
        ----------
        inputs : array or nested lists, (B, ...), optional
            Nested lists are float32.
        batch_size : int, optional
            If there are inputs, then theirs.
        dtype : float32 or float64, optional
            If there are inputs, then theirs.

        Returns
        -------
        array, (B, N)

        Raises
        ------
        ValueError
            Inputs that the others contradict; no inputs and not both of the others; what `zero_state` raises.
        TypeError
            Inputs of another dtype, nested lists of integers among them.
        """
        if inputs is not None:
            array = check.inputs(check.nested_lists("inputs", inputs), least_rank=1)
            check.agreed_batch_size(len(array), batch_size)
            check.agreed_dtype(array.dtype, dtype)
            batch_size, dtype = len(array), array.dtype
        if batch_size is None or dtype is None:
            raise ValueError(
                "batch_size and dtype cannot be None while constructing initial state: "
                f"batch_size={shortened(batch_size)}, dtype={shortened(dtype)}"
            )
        return self.zero_state(batch_size, dtype)
