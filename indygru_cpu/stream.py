"""One step after another, as a live application has them: `IndyGRU.stream`."""

from __future__ import annotations

from typing import Any

import numpy as np

from indygru_cpu._engine import _core, memory, threads
from indygru_cpu._engine import checks as check
from indygru_cpu._engine.arguments import Weights, work_of
from indygru_cpu._engine.messages import shortened
from indygru_cpu._engine.sequences import Sequences
from indygru_cpu._layers.progress import SILENCE
from indygru_cpu._layers.stack import Stack, infer
from indygru_cpu._layers.weighted import Weighted
from indygru_cpu._typing import Array


def _snapshot(layer: Weighted, num_threads: int | None) -> Stack:
    """The layer as it is now, with weights of its own."""
    stack: Stack = layer._stack.with_threads(check.num_threads(num_threads), layer.num_threads)
    return stack._replace(weights=[[Weights(*(array.copy() for array in own)) for own in k] for k in stack.weights])


class Stream(_core.StreamBase):
    """The state of a layer between steps, and a snapshot of its weights: made by `IndyGRU.stream`.

    All that a step needs is made beforehand: weights packed for the processor, and room for states and results, so that
    `push` allocates nothing. The weights are those of the moment when the stream was made, or of the last `refresh`. A
    stream can be pickled and copied, with its weights and its state. It is one thread's at a time.

    Examples
    --------
    >>> import numpy as np
    >>> from indygru_cpu import IndyGRU
    >>> layer = IndyGRU(3, 5, seed=0)
    >>> stream = layer.stream()
    >>> for x_t in np.random.default_rng(0).standard_normal((9, 3), dtype=np.float32):
    ...     y_t = stream.push(x_t)
    >>> y_t.shape, stream.state.shape
    ((5,), (1, 1, 5))
    """

    def __init__(
        self, layer: Weighted, batch_size: int = 1, num_threads: int | None = None, *, _stack: Stack | None = None
    ) -> None:
        if not isinstance(layer, Weighted):
            raise TypeError(f"layer: expected an IndyGRU, got {type(layer).__name__}")
        if layer.bidirectional:
            raise ValueError("stream: the reverse direction needs whole sequences; expected bidirectional=False")
        n_batch = check.size(batch_size, "batch_size")
        stack = _snapshot(layer, num_threads) if _stack is None else _stack
        check.countable("batch_size and the layer's sizes", (layer.num_layers, n_batch, 3 * layer.hidden_size))
        work = sum(work_of(n_batch, kernel) for ((kernel, _, _),) in stack.weights)
        asked = threads.asked(stack.num_threads)
        super().__init__(stack, n_batch, threads.count(asked, work), asked is None)
        self._layer = layer

    @property
    def batch_size(self) -> int:
        """Rows of each step."""
        return len(self._states[0])

    def _checked(self, name: str, value: object, before: tuple[str, ...]) -> Array:
        """(*before, B, D), or without B if that is 1 and the value has none."""
        found = check.as_array(name, value)
        rows = () if self.batch_size == 1 and found.ndim == 1 + len(before) else (self.batch_size,)
        n_inputs = self._stack.weights[0][0].kernel.shape[0] * self._stack.groups
        return check.array(name, found, (*before, *rows, n_inputs), ("the stream", self._states.dtype))

    def _checked_x(self, x_t: object) -> Array:
        return self._checked("x_t", x_t, ())

    def _serial_threads(self) -> int:
        threads.warn_of_fork()
        return 1

    def push_many(self, chunk: object) -> Array:
        """Take the steps of a chunk; faster than as many pushes.

        Parameters
        ----------
        chunk : array, (T, B, D), or (T, D) if the batch size is 1
            Inputs. The first axis is time, whatever `batch_first` of the layer says.

        Returns
        -------
        array, (T, B, N) or (T, N)
            All states of the last layer, in a new array.

        Raises
        ------
        TypeError, ValueError
            Another dtype or shape; the stream is then as it was.
        """
        x = self._checked("chunk", chunk, ("T",))
        y = memory.new((*x.shape[:-1], self._states.shape[2]), x.dtype)
        self._call_exclusively(self._run_chunk, *((x, y) if x.ndim == 3 else (x[:, None], y[:, None])))
        return y

    def _run_chunk(self, x: Array, y: Array) -> None:
        state = self._states.copy()  # so that an interrupted call leaves the stream as it was
        infer(self._stack, x, state, y, Sequences.padded(len(x), self.batch_size), SILENCE)
        self._states[...] = state

    @property
    def state(self) -> Array:
        """A copy of the states, (layers, B, N). Assigning sets them."""
        return self._call_exclusively(self._states.copy)

    @state.setter
    def state(self, value: object) -> None:
        states = self._states
        state = check.array("state", value, states.shape, ("the stream", states.dtype))
        self._call_exclusively(states.__setitem__, ..., state)

    def reset(self, rows: Any = None) -> None:
        """Set the states of some rows to 0: an index, indices, a mask or a slice of the batch; None is all.

        Raises
        ------
        IndexError
            There are no such rows.
        """
        if isinstance(rows, (bool, np.bool_)):
            raise IndexError(f"rows: expected an index, indices, a mask or a slice, got {rows}")
        try:
            self._call_exclusively(self._states.__setitem__, (slice(None), slice(None) if rows is None else rows), 0)
        except IndexError as error:
            raise IndexError(f"rows: {shortened(error)} (the batch size is {self.batch_size})") from None

    def refresh(self) -> None:
        """Take a new snapshot of the layer's weights; the state stays."""
        self._set_weights(_snapshot(self._layer, self._stack.num_threads))

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self._layer, self.batch_size, self._stack, self.state)


def _restore(cls: type[Stream], layer: Weighted, batch_size: int, stack: Stack, state: Array) -> Stream:
    stream = cls(layer, batch_size, _stack=stack)
    stream.state = state
    return stream
