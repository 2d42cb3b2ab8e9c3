"""``tf.contrib.rnn.IndyGRUCell`` of TensorFlow 1.14 on NumPy arrays.

Names and errors are those of TensorFlow in graph mode. The arithmetic is that of `functional`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from indygru_cpu import initializers
from indygru_cpu._engine.messages import shortened
from indygru_cpu._tf1 import checks as tf_checks
from indygru_cpu._tf1.layer import Layer
from indygru_cpu._tf1.run import ONE_STEP, CellTape, DataFormat, run, select_backend
from indygru_cpu._tf1.scopes import Reuse, VariableScope
from indygru_cpu._tf1.variables import CellVariables
from indygru_cpu._typing import Array


class IndyGRUCell(Layer):
    """A GRU cell with independent units: each unit depends on its own past state only.

    The recurrent weights are vectors. With ``[a, b]`` for the concatenation of columns, one step is::

        [r, u] = sigmoid(inputs @ gates/kernel_w + [h, h] * gates/kernel_u + gates/bias)
        c      = activation(inputs @ candidate/kernel + (r * h) * candidate/kernel_u + candidate/bias)
        h_new  = u * h + (1 - u) * c

    Parameters
    ----------
    num_units : int
        N, the width of state and output. It is checked when the cell is built.
    activation : str or function or pair of functions, optional
        Activation of the candidate. None is tanh. A name (tanh, relu, sigmoid, identity, elu, softsign, mingru) or
        `numpy.tanh` runs in the kernels. Any other function maps an array to an array of the same shape and dtype and
        runs in NumPy, which is slow. Gradients require its derivative, a function of the activation's output: as the
        function's attribute `derivative`, or as the second element of a pair (function, derivative).
    reuse : bool or AUTO_REUSE, optional
        Whether to share the variables of the scope, see `variable_scope`.
    kernel_initializer : initialiser, optional
        Initialiser of gates/kernel_w and candidate/kernel, see `indygru_cpu.initializers.get`. None is the initialiser
        of the enclosing scope, else Glorot uniform. gates/kernel_u and candidate/kernel_u are always uniform on
        [-1, 1).
    bias_initializer : initialiser, optional
        Initialiser of both biases. None is 1 for the gates and 0 for the candidate.
    name : str, optional
        Name of the scope of the variables.
    dtype : float32 or float64, optional
        Dtype of the variables. None is the dtype of the first inputs.

    Raises
    ------
    TypeError, ValueError
        An invalid name, dtype, initialiser or `reuse`.

    References
    ----------
    TensorFlow 1.14, ``tf.contrib.rnn.IndyGRUCell``.

    Examples
    --------
    >>> import numpy as np
    >>> from indygru_cpu import IndyGRUCell, reset_default_scope
    >>> reset_default_scope(seed=7)
    >>> cell = IndyGRUCell(4)
    >>> x = np.random.default_rng(0).standard_normal((3, 5), np.float32)
    >>> output, state = cell(x, cell.zero_state(3, np.float32))
    >>> output.shape, cell.variables[0]
    ((3, 4), <Variable 'indy_gru_cell/gates/kernel_w:0' shape=(5, 8) dtype=float32>)
    """

    def __init__(
        self,
        num_units: Any,
        activation: object = None,
        reuse: bool | Reuse | None = None,
        kernel_initializer: object = None,
        bias_initializer: object = None,
        name: str | None = None,
        dtype: object = None,
    ) -> None:
        super().__init__(name, dtype, reuse)
        self._num_units = num_units
        self._activation = activation
        self._kernel_initializer, self._bias_initializer = (
            None if identifier is None else initializers.get(identifier)
            for identifier in (kernel_initializer, bias_initializer)
        )

    @classmethod
    def _from_variables(cls, variables: CellVariables, activation: object) -> IndyGRUCell:
        """Make a cell with existing variables that other cells of the same scope do not share."""
        cell = cls(variables.num_units, activation, name=variables.scope, dtype=variables.dtype)
        cell._variables = variables
        return cell

    def __repr__(self) -> str:
        arguments = f"num_units={self._num_units!r}, name={self.name!r}, dtype={self.dtype!r}"
        return f"{type(self).__name__}({arguments})"

    @property
    def state_size(self) -> Any:
        """`num_units`, unchanged."""
        return self._num_units

    @property
    def output_size(self) -> Any:
        """`num_units`, unchanged."""
        return self._num_units

    def zero_state(self, batch_size: Any, dtype: object) -> Array:
        """Initial state of zeros.

        Parameters
        ----------
        batch_size : int, or list, tuple or array of int
            The leading axes of the shape: 3 and [3] give (3, N), [2, 3] gives (2, 3, N).
        dtype : float32 or float64

        Returns
        -------
        array, (batch_size, N), or with several leading axes (..., N)

        Raises
        ------
        ValueError, TypeError
            An invalid batch size or dtype.

        Examples
        --------
        >>> from indygru_cpu import IndyGRUCell
        >>> IndyGRUCell(4).zero_state(3, "float32").shape
        (3, 4)
        """
        shape = (*tf_checks.batch_shape(batch_size), tf_checks.num_units(self._num_units))
        return np.zeros(shape, tf_checks.dtype("dtype", dtype))

    def get_initial_state(self, inputs: object = None, batch_size: Any = None, dtype: object = None) -> Array:
        """Initial state of zeros for inputs, or for a batch size and a dtype.

        Parameters
        ----------
        inputs : array or nested lists, (B, ...), optional
            Nested lists of Python floats are float32.
        batch_size : int, optional
            Required without `inputs`; otherwise it must equal B.
        dtype : float32 or float64, optional
            Required without `inputs`; otherwise it must be their dtype.

        Returns
        -------
        array, (B, N)

        Raises
        ------
        ValueError
            `batch_size` or `dtype` differs from that of `inputs`; without `inputs` one of both is missing; the errors
            of `zero_state`.
        TypeError
            Inputs of another dtype, such as nested lists of integers.
        """
        if inputs is not None:
            array = tf_checks.inputs(tf_checks.from_nested_lists("inputs", inputs), min_rank=1)
            tf_checks.matching_batch_size(len(array), batch_size)
            tf_checks.matching_dtype(array.dtype, dtype)
            batch_size, dtype = len(array), array.dtype
        if batch_size is None or dtype is None:
            raise ValueError(
                "batch_size and dtype cannot be None while constructing initial state: "
                f"batch_size={shortened(batch_size)}, dtype={shortened(dtype)}"
            )
        return self.zero_state(batch_size, dtype)

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Create the variables, in float32 unless the cell has a dtype.

        Parameters
        ----------
        input_shape : sequence of int
            Element 1 is D, the number of input features. The other elements are ignored.

        Raises
        ------
        ValueError, TypeError, IndexError
            An unknown, invalid or missing D; an invalid `num_units`; variables that exist, are missing or have another
            size, depending on `reuse`.
        """
        self._build(tf_checks.depth(input_shape), np.dtype(np.float32) if self._dtype is None else self._dtype)

    def _build(self, depth: int, dtype: np.dtype[Any], scope: str | VariableScope | None = None) -> CellVariables:
        return self._ensure_built((depth, tf_checks.num_units(self._num_units), dtype), scope)

    def _initialize(self, variables: CellVariables, scope_initializer: object) -> None:
        kernel = _first_not_none(self._kernel_initializer, scope_initializer, initializers.GlorotUniform)
        recurrent_kernel = initializers.RandomUniform(-1.0, 1.0)
        gates_bias = _first_not_none(self._bias_initializer, initializers.Ones)
        candidate_bias = _first_not_none(self._bias_initializer, initializers.Zeros)
        by_variable = (kernel, recurrent_kernel, gates_bias, kernel, recurrent_kernel, candidate_bias)
        for (name, variable), initializer in zip(variables.named.items(), by_variable, strict=True):
            initializers.initialize(variable, name, initializers.get(initializer))

    def __call__(self, inputs: object, state: object, scope: str | VariableScope | None = None) -> tuple[Array, Array]:
        """Run one step.

        Parameters
        ----------
        inputs : array, (B, D)
        state : array or nested lists, (B, N)
            If one of `inputs` and `state` has a single row, the row is broadcast to the batch of the other.
        scope : str or VariableScope, optional
            Scope of the variables, if this is the first use of the cell.

        Returns
        -------
        output, new_state : array, (B, N)
            The same array twice.

        Raises
        ------
        ValueError
            A wrong shape; boolean or complex inputs; the errors of `build`.
        TypeError
            Another dtype; `inputs`, `state` and cell of different dtypes; an activation that is not callable.
        """
        h_n, _ = self._step(inputs, state, scope, tape=False)
        return h_n, h_n

    def forward(
        self, inputs: object, state: object, scope: str | VariableScope | None = None
    ) -> tuple[Array, Array, CellTape]:
        """Run one step and return a tape for `backward` too.

        Returns
        -------
        output, new_state : array, (B, N)
        tape : CellTape

        Examples
        --------
        >>> import numpy as np
        >>> from indygru_cpu import IndyGRUCell
        >>> rng = np.random.default_rng(0)
        >>> cell = IndyGRUCell(4, activation="relu", name="doc_forward")
        >>> output, state, tape = cell.forward(rng.standard_normal((3, 5)), rng.standard_normal((3, 4)))
        >>> grads = cell.backward(tape, d_output=2 * output)  # of the sum of squares
        >>> list(grads)[:3], grads["inputs"].shape, grads["initial_state"].shape
        (['gates/kernel_w', 'gates/kernel_u', 'gates/bias'], (3, 5), (3, 4))
        """
        h_n, tape = self._step(inputs, state, scope, tape=True)
        return h_n, h_n, tape

    def backward(self, tape: CellTape, d_output: object = None, d_state: object = None) -> dict[str, Array]:
        """Gradients of ``sum(output * d_output) + sum(new_state * d_state)``.

        Parameters
        ----------
        tape : CellTape
            From `forward`.
        d_output, d_state : array, (B, N), optional
            None is zeros.

        Returns
        -------
        dict of str to numpy.ndarray
            See `CellTape.backward`.
        """
        if not isinstance(tape, CellTape):
            raise TypeError(f"tape: expected a tape from cell.forward, got {type(tape).__name__}")
        return tape.backward(d_output, d_state)

    def _step(self, inputs: object, state: object, scope: str | VariableScope | None, tape: bool) -> tuple[Array, Any]:
        x = self._checked_inputs(inputs, ONE_STEP)
        h = tf_checks.state("state", state, ("B", tf_checks.num_units(self._num_units)), x.dtype)
        tf_checks.broadcastable_batch(len(x), len(h))
        _, h_n, cell_tape = self._run(ONE_STEP, x, h, scope=scope, tape=tape)
        return h_n, cell_tape

    def _checked_inputs(self, value: object, data_format: DataFormat) -> Array:
        x = tf_checks.inputs(value, data_format.min_rank)
        tf_checks.step_rank(self.name, data_format.to_time_major(x).shape[1:])
        if self._dtype is not None:
            tf_checks.same_dtype("inputs", x.dtype, "cell", self._dtype)
        if self._variables is not None:
            tf_checks.same_depth(x.shape[-1], self._variables.depth)
        return x

    def _run(
        self,
        data_format: DataFormat,
        inputs: Array,
        state: Array,
        *,
        scope: str | VariableScope | None = None,
        lengths: Array | None = None,
        tape: bool = False,
    ) -> tuple[Array, Array, Any]:
        backend = select_backend(self._activation)  # before building: an invalid activation leaves the cell unbuilt
        variables = self._build(inputs.shape[-1], inputs.dtype, scope)
        return run(backend, data_format, variables, inputs, state, lengths, tape)


def _first_not_none(*values: object) -> object:
    return next(value for value in values if value is not None)
