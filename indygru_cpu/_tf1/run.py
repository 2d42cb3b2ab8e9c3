"""Execution of one step or of whole sequences, and the tape for the gradients.

Activations with a kernel run in `functional`. An activation that is a Python function runs in NumPy by `reference`,
which computes only the valid rows of each step: values in the padding reach neither the function nor a result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from indygru_cpu import functional, reference
from indygru_cpu._engine import checks, memory
from indygru_cpu._engine.messages import shortened, shown
from indygru_cpu._tf1.variables import CellVariables, named_views
from indygru_cpu._typing import Array, Gradients

ArrayFunction = Callable[[Array], Any]


class Backend(NamedTuple):
    """Forward and backward pass on time-major arrays, and the activation in the form that they accept."""

    forward: Callable[..., tuple[Any, ...]]
    backward: Callable[..., Gradients]
    activation: object


def select_backend(activation: object) -> Backend:
    """Return the kernels for an activation's name and for numpy.tanh, and NumPy for any other function."""
    if not activation or activation is np.tanh:
        activation = "tanh"
    if isinstance(activation, str) and activation in checks.ACTIVATIONS:
        return Backend(functional.forward, functional.backward, activation)
    custom = CustomActivation.from_argument(activation)
    if custom is None:
        raise TypeError(
            f"{shown(type(activation).__name__)} object is not callable (activation: expected one of "
            f"{', '.join(checks.ACTIVATIONS)}, a function, or a pair of functions, got {shown(activation)})"
        )
    return Backend(_custom_forward, _custom_backward, custom)


class CustomActivation(NamedTuple):
    """An activation function and, if known, its derivative as a function of the activation's output."""

    function: ArrayFunction
    derivative: ArrayFunction | None

    @classmethod
    def from_argument(cls, activation: object) -> CustomActivation | None:
        """Accept a function, with or without an attribute `derivative`, or a pair. Return None for anything else."""
        if isinstance(activation, tuple) and len(activation) == 2 and all(map(callable, activation)):
            return cls(*activation)
        return cls(activation, getattr(activation, "derivative", None)) if callable(activation) else None


def _with_result_check(name: str, function: ArrayFunction) -> Callable[[Array], Array]:
    """Wrap a function in a check that its result has the shape and dtype of its argument."""

    def checked_function(x: Array) -> Array:
        y = np.asarray(function(x))
        if y.shape != x.shape:
            raise ValueError(f"{name}: expected a result of shape {x.shape}, got {y.shape}")
        if y.dtype != x.dtype:
            raise TypeError(f"{name}: expected a result of {x.dtype}, got {shortened(y.dtype)}")
        return y

    return checked_function


def _missing_derivative(_: Array) -> Array:
    raise ValueError(
        "activation: expected a derivative for backward, got a function without one: give it an attribute "
        "`derivative`, or pass a pair (function, derivative), where derivative is a function of the activation's output"
    )


def _custom_forward(
    x: Array,
    h0: Array,
    kernel: Array,
    recurrent_kernel: Array,
    bias: Array,
    *,
    activation: CustomActivation,
    lengths: Array | None,
    out: Array,
    tape: bool,
) -> tuple[Any, ...]:
    """Write all states to `out` and return (out, h_n) or (out, h_n, tape), as `functional.forward` does."""
    derivative = activation.derivative
    pair = (
        _with_result_check("activation", activation.function),
        _missing_derivative if derivative is None else _with_result_check("derivative of activation", derivative),
    )
    if tape:
        h0 = h0.copy()  # the caller may overwrite its states before backward
    out[...], h_n, reference_tape = reference.forward(x, h0, kernel, recurrent_kernel, bias, pair, lengths)
    return (out, h_n, reference_tape) if tape else (out, h_n)


def _custom_backward(tape: reference.ReferenceTape, dy: Array | None = None, dh_n: Array | None = None) -> Gradients:
    """Return the gradients, as `functional.backward` does."""
    dy = np.zeros_like(tape.y) if dy is None else dy
    return reference.backward(tape, dy, np.zeros_like(tape.h0) if dh_n is None else dh_n)


class DataFormat(NamedTuple):
    """The order of axes in the arrays of a call, conversions to and from time-major order, and names of the results."""

    to_time_major: Callable[[Array], Array]
    from_time_major: Callable[[Array], Array]
    min_rank: int
    output_name: str
    state_name: str


ONE_STEP = DataFormat(lambda a: a[np.newaxis], lambda a: a[0], 0, "output", "state")
TIME_MAJOR = DataFormat(lambda a: a, lambda a: a, 3, "outputs", "final_state")
BATCH_MAJOR = DataFormat(lambda a: a.swapaxes(0, 1), lambda a: a.swapaxes(0, 1), 3, "outputs", "final_state")


@dataclass(frozen=True, eq=False)
class CellTape:
    """The saved values of a call that its backward pass needs.

    The tape refers to the call's inputs and weights, which must not be changed before `backward`.
    """

    backend: Backend
    data_format: DataFormat
    tape: Any
    outputs: Array
    inputs_shape: tuple[int, ...]
    state_shape: tuple[int, ...]

    def backward(self, d_outputs: object = None, d_final_state: object = None) -> dict[str, Array]:
        """Gradients of ``sum(outputs * d_outputs) + sum(final_state * d_final_state)``.

        Parameters
        ----------
        d_outputs : array, shape of the call's outputs, optional
            None is zeros.
        d_final_state : array, (B, N), optional
            None is zeros.

        Returns
        -------
        dict of str to numpy.ndarray
            Keys are the six short names of the variables, "inputs" and "initial_state". Each gradient has the shape of
            its array.

        Raises
        ------
        ValueError, TypeError
            A gradient of another shape or dtype; an activation without a known derivative.

        Examples
        --------
        >>> import numpy as np
        >>> from indygru_cpu import IndyGRUCell, dynamic_rnn
        >>> x = np.random.default_rng(0).standard_normal((3, 7, 5))
        >>> cell = IndyGRUCell(4, name="doc_tape")
        >>> outputs, final_state, tape = dynamic_rnn(cell, x, dtype=x.dtype, tape=True)
        >>> grads = tape.backward(2 * outputs)  # of the sum of squares
        >>> grads["inputs"].shape, grads["initial_state"].shape, grads["gates/kernel_w"].shape
        ((3, 7, 5), (3, 4), (5, 8))
        """
        to_time_major = self.data_format.to_time_major
        dy = self._checked_gradient(f"d_{self.data_format.output_name}", d_outputs, self.outputs.shape)
        dh_n = self._checked_gradient(
            f"d_{self.data_format.state_name}", d_final_state, to_time_major(self.outputs).shape[1:]
        )
        grads = self.backend.backward(self.tape, None if dy is None else to_time_major(dy), dh_n)
        return {
            **named_views(grads.kernel, grads.recurrent_kernel, grads.bias),
            "inputs": _sum_over_broadcast_batch(self.data_format.from_time_major(grads.x), self.inputs_shape),
            "initial_state": _sum_over_broadcast_batch(grads.h0, self.state_shape),
        }

    def _checked_gradient(self, name: str, value: object, shape: tuple[int, ...]) -> Array | None:
        if value is None:
            return None
        return checks.array(name, value, shape, self.data_format.output_name, self.outputs.dtype)


def _sum_over_broadcast_batch(gradient: Array, shape: tuple[int, ...]) -> Array:
    """Return the gradient of an array of this shape, which was broadcast along the batch if the shapes differ."""
    return gradient if gradient.shape == shape else gradient.sum(axis=0, keepdims=True)


def run(
    backend: Backend,
    data_format: DataFormat,
    variables: CellVariables,
    inputs: Array,
    state: Array,
    lengths: Array | None = None,
    tape: bool = False,
) -> tuple[Array, Array, CellTape | None]:
    """Return outputs, final state and, if requested, the tape of a call whose arguments have been checked."""
    shapes = inputs.shape, state.shape
    if data_format is ONE_STEP and len(inputs) != len(state):
        inputs, state = _broadcast_batch(inputs, state)
    outputs = memory.new((*inputs.shape[:-1], variables.num_units), variables.dtype)
    _, h_n, *tapes = backend.forward(
        data_format.to_time_major(inputs),
        state,
        *variables.fused,
        activation=backend.activation,
        lengths=lengths,
        out=data_format.to_time_major(outputs),
        tape=tape,
    )
    if not tapes:
        return outputs, h_n, None
    outputs.flags.writeable = False  # the tape refers to them
    return outputs, h_n, CellTape(backend, data_format, tapes[0], outputs, *shapes)


def _broadcast_batch(inputs: Array, state: Array) -> list[Array]:
    """Return inputs and state of one step with the same number of rows: a single row is repeated."""
    (n_batch,) = np.broadcast_shapes(inputs.shape[:1], state.shape[:1])
    return [np.ascontiguousarray(np.broadcast_to(a, (n_batch, a.shape[1]))) for a in (inputs, state)]
