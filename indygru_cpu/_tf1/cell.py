"""The cell of TensorFlow 1, ``tf.contrib.rnn.IndyGRUCell``, on NumPy arrays.

Names and errors are the original's (those of graph mode); the arithmetic is that of `functional`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from indygru_cpu import initializers
from indygru_cpu._tf1 import checks as check
from indygru_cpu._tf1.registry import Reuse
from indygru_cpu._tf1.rnn_cell import RNNCell
from indygru_cpu._tf1.run import ONE_STEP, CellTape, Layout, engine_for, run
from indygru_cpu._tf1.scopes import VariableScope
from indygru_cpu._tf1.variables import CellVariables
from indygru_cpu._typing import Array


class IndyGRUCell(RNNCell):
    """A GRU cell whose units see only their own past: the recurrent weights are vectors.

    With ``[a, b]`` for columns side by side, one step is::

        [r, u] = sigmoid(inputs @ gates/kernel_w + [h, h] * gates/kernel_u + gates/bias)
        c      = activation(inputs @ candidate/kernel + (r * h) * candidate/kernel_u + candidate/bias)
        h_new  = u * h + (1 - u) * c

    Parameters
    ----------
    num_units : int
        N, width of state and output. Checked when the cell is built.
    activation : str or function or pair of functions, optional
        Of the candidate. None is tanh. A name (tanh, relu, sigmoid, identity, elu, softsign) or `numpy.tanh`
        runs the fast kernels. Any other function from an array to one of the same shape and dtype runs in
        NumPy, slowly; there are gradients if it has an attribute `derivative` or comes in a pair (function,
        derivative), where `derivative` is a function of the activation's output.
    reuse : bool or AUTO_REUSE, optional
        Whether to share the variables of the scope, see `variable_scope`.
    kernel_initializer : initialiser, optional
        Of gates/kernel_w and candidate/kernel, see `indygru_cpu.initializers`. None is that of the enclosing
        scope, else Glorot uniform. gates/kernel_u and candidate/kernel_u are always uniform on [-1, 1).
    bias_initializer : initialiser, optional
        Of both biases. None is 1 for the gates and 0 for the candidate.
    name : str, optional
        The scope of the variables.
    dtype : float32 or float64, optional
        Of the variables. None is that of the first inputs.

    Raises
    ------
    TypeError, ValueError
        A name, dtype, initialiser or `reuse` that cannot be one.

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
        super().__init__(num_units, name, dtype, reuse)
        self._activation = activation
        given = (kernel_initializer, bias_initializer)
        self._kernel_initializer, self._bias_initializer = (
            None if identifier is None else initializers.get(identifier) for identifier in given
        )

    @classmethod
    def _of_variables(cls, variables: CellVariables, activation: object) -> IndyGRUCell:
        """Make a cell that has its variables already, outside of all sharing by scopes."""
        cell = cls(variables.num_units, activation, name=variables.scope, dtype=variables.dtype)
        cell._variables = variables
        return cell

    def __repr__(self) -> str:
        arguments = f"num_units={self._num_units!r}, name={self.name!r}, dtype={self.dtype!r}"
        return f"{type(self).__name__}({arguments})"

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Make the variables, in float32 unless the cell has a dtype.

        Parameters
        ----------
        input_shape : sequence of int
            Element 1 is D, the number of input features; the others do not matter.

        Raises
        ------
        ValueError, TypeError, IndexError
            An unknown, impossible or missing D; a `num_units` that is no size; variables that are there
            already, are missing or do not fit, as `reuse` has it.
        """
        self._build(check.depth(input_shape), np.dtype(np.float32) if self._dtype is None else self._dtype)

    def _build(self, depth: int, dtype: np.dtype[Any], scope: str | VariableScope | None = None) -> CellVariables:
        return self._ensure_built((depth, check.num_units(self._num_units), dtype), scope)

    def _initialize(self, variables: CellVariables, scope_initializer: object) -> None:
        kernel = _first_given(self._kernel_initializer, scope_initializer, initializers.GlorotUniform)
        state = initializers.RandomUniform(-1.0, 1.0)
        gate_bias = _first_given(self._bias_initializer, initializers.Ones)
        candidate_bias = _first_given(self._bias_initializer, initializers.Zeros)
        makers = (kernel, state, gate_bias, kernel, state, candidate_bias)
        for (name, variable), maker in zip(variables.named.items(), makers, strict=True):
            initializers.initialize(variable, name, initializers.get(maker))

    def __call__(self, inputs: object, state: object, scope: str | VariableScope | None = None) -> tuple[Array, Array]:
        """Run one step.

        Parameters
        ----------
        inputs : array, (B, D)
        state : array or nested lists, (B, N)
            A batch of 1, of `inputs` or of `state`, counts for all rows of the other.
        scope : str or VariableScope, optional
            Where to put the variables, if this is the first use.

        Returns
        -------
        output, new_state : array, (B, N)
            One and the same array, twice.

        Raises
        ------
        ValueError
            A shape that does not fit; boolean or complex inputs; what `build` raises.
        TypeError
            Another dtype; a mixture; an activation that is no function.
        """
        h_n, _ = self._step(inputs, state, scope, tape=False)
        return h_n, h_n

    def forward(
        self, inputs: object, state: object, scope: str | VariableScope | None = None
    ) -> tuple[Array, Array, CellTape]:
        """Run one step and keep what `backward` needs.

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
            As of `CellTape.backward`.
        """
        if not isinstance(tape, CellTape):
            raise TypeError(f"tape: expected what cell.forward returned, got {type(tape).__name__}")
        return tape.backward(d_output, d_state)

    def _step(self, inputs: object, state: object, scope: str | VariableScope | None, tape: bool) -> tuple[Array, Any]:
        x = self._checked_inputs(inputs, ONE_STEP)
        h = check.state("state", state, ("B", check.num_units(self._num_units)), x.dtype)
        check.same_batch(len(x), len(h))
        _, h_n, kept = self._run(ONE_STEP, x, h, scope=scope, tape=tape)
        return h_n, kept

    def _checked_inputs(self, value: object, layout: Layout) -> Array:
        x = check.inputs(value, layout.least_rank)
        check.rank(self.name, layout.to_steps(x).shape[1:])
        if self._dtype is not None:
            check.same_dtype("inputs", x.dtype, "cell", self._dtype)
        if self._variables is not None:
            check.same_depth(x.shape[-1], self._variables.depth)
        return x

    def _run(
        self,
        layout: Layout,
        inputs: Array,
        state: Array,
        *,
        scope: str | VariableScope | None = None,
        lengths: Array | None = None,
        tape: bool = False,
    ) -> tuple[Array, Array, Any]:
        engine = engine_for(self._activation)  # checked first: nothing is built for a call that must fail
        variables = self._build(inputs.shape[-1], inputs.dtype, scope)
        return run(engine, layout, variables, inputs, state, lengths, tape)


def _first_given(*options: object) -> object:
    return next(option for option in options if option is not None)
