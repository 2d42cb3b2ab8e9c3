"""One call of a cell, of a step or of a sequence: which engine runs it, how its arrays lie, and its tape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from indygru_cpu import functional
from indygru_cpu._engine import checks, memory
from indygru_cpu._engine.messages import shown
from indygru_cpu._tf1 import custom_activation
from indygru_cpu._tf1.variables import CellVariables, named_views
from indygru_cpu._typing import Array, Gradients


class Engine(NamedTuple):
    """Forward and backward on time-major arrays, and the activation as they take it."""

    forward: Callable[..., tuple[Any, ...]]
    backward: Callable[..., Gradients]
    activation: object


def engine_for(activation: object) -> Engine:
    """Return the fast engine for a name and for numpy.tanh, the slow one for other functions."""
    if not activation or activation is np.tanh:
        activation = "tanh"
    if isinstance(activation, str) and activation in checks.ACTIVATIONS:
        return Engine(functional.forward, functional.backward, activation)
    custom = custom_activation.Activation.of(activation)
    if custom is None:
        raise TypeError(
            f"{shown(type(activation).__name__)} object is not callable (activation: expected one of "
            f"{', '.join(checks.ACTIVATIONS)}, a function, or a pair of functions, got {shown(activation)})"
        )
    return Engine(custom_activation.forward, custom_activation.backward, custom)


class Layout(NamedTuple):
    """How a call's arrays lie, seen from the engines' time-major ones, and what its results are called."""

    to_steps: Callable[[Array], Array]
    from_steps: Callable[[Array], Array]
    least_rank: int
    output: str
    state: str


ONE_STEP = Layout(lambda a: a[np.newaxis], lambda a: a[0], 0, "output", "state")
TIME_MAJOR = Layout(lambda a: a, lambda a: a, 3, "outputs", "final_state")
BATCH_MAJOR = Layout(lambda a: a.swapaxes(0, 1), lambda a: a.swapaxes(0, 1), 3, "outputs", "final_state")


@dataclass(frozen=True, eq=False)
class CellTape:
    """What backward needs of a call. It refers to the call's inputs and weights: leave them until then."""

    engine: Engine
    layout: Layout
    tape: Any
    outputs: Array
    inputs_shape: tuple[int, ...]
    state_shape: tuple[int, ...]

    def backward(self, d_outputs: object = None, d_final_state: object = None) -> dict[str, Array]:
        """Gradients of ``sum(outputs * d_outputs) + sum(final_state * d_final_state)``.

        Parameters
        ----------
        d_outputs : array, shaped like the call's outputs, optional
            None is zeros.
        d_final_state : array, (B, N), optional
            None is zeros.

        Returns
        -------
        dict of str to numpy.ndarray
            Under the six short names of the variables, "inputs" and "initial_state": each shaped like these.

        Raises
        ------
        ValueError, TypeError
            A gradient of another shape or dtype; an activation whose derivative is not known.

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
        dy = self._upstream(f"d_{self.layout.output}", d_outputs, self.outputs.shape)
        dh = self._upstream(f"d_{self.layout.state}", d_final_state, self.layout.to_steps(self.outputs).shape[1:])
        grads = self.engine.backward(self.tape, None if dy is None else self.layout.to_steps(dy), dh)
        return {
            **named_views(grads.kernel, grads.recurrent_kernel, grads.bias),
            "inputs": _summed(self.layout.from_steps(grads.x), self.inputs_shape),
            "initial_state": _summed(grads.h0, self.state_shape),
        }

    def _upstream(self, name: str, value: object, shape: tuple[int, ...]) -> Array | None:
        if value is None:
            return None
        return checks.array(name, value, shape, self.layout.output, self.outputs.dtype)


def _summed(gradient: Array, shape: tuple[int, ...]) -> Array:
    """Return the gradient of what was repeated along the batch."""
    return gradient if gradient.shape == shape else gradient.sum(axis=0, keepdims=True)


def run(
    engine: Engine,
    layout: Layout,
    variables: CellVariables,
    inputs: Array,
    state: Array,
    lengths: Array | None = None,
    tape: bool = False,
) -> tuple[Array, Array, CellTape | None]:
    """Return outputs, final state and tape, of checked arguments."""
    shapes = inputs.shape, state.shape
    if layout is ONE_STEP and len(inputs) != len(state):
        inputs, state = _of_one_batch(inputs, state)
    outputs = memory.new((*inputs.shape[:-1], variables.num_units), variables.dtype)
    _, h_n, *tapes = engine.forward(
        layout.to_steps(inputs),
        state,
        *variables.fused,
        activation=engine.activation,
        lengths=lengths,
        out=layout.to_steps(outputs),
        tape=tape,
    )
    if not tapes:
        return outputs, h_n, None
    outputs.flags.writeable = False  # they are on the tape
    return outputs, h_n, CellTape(engine, layout, tapes[0], outputs, *shapes)


def _of_one_batch(inputs: Array, state: Array) -> list[Array]:
    """Return both, with a batch of 1 repeated."""
    (n_batch,) = np.broadcast_shapes(inputs.shape[:1], state.shape[:1])
    return [np.ascontiguousarray(np.broadcast_to(a, (n_batch, a.shape[1]))) for a in (inputs, state)]
