"""One step after another, as a live application has them: `IndyGRU.stream`."""

from __future__ import annotations

from typing import Any

import numpy as np

from indygru_cpu import _core, _threads
from indygru_cpu import _validation as check
from indygru_cpu._progress import Progress
from indygru_cpu._stack import Rows, Stack, infer
from indygru_cpu._weighted import Weighted

Array = np.ndarray[Any, Any]


def _snapshot(layer: Weighted) -> list[tuple[Array, Array, Array]]:
    """Copies of each layer's kernel, recurrent kernel and bias."""
    none = np.zeros(3 * layer.hidden_size, layer.dtype)
    return [
        (kernel.copy(order="C"), recurrent_kernel.copy(), none if bias is None else bias.copy())
        for ((kernel, recurrent_kernel, bias),) in Stack.of(layer, None).weights
    ]


class Stream(_core.Steps):
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

    def __init__(self, layer: Weighted, batch_size: int = 1, num_threads: int | None = None) -> None:
        if layer.bidirectional:
            raise ValueError("stream: the reverse direction needs whole sequences; expected bidirectional=False")
        self.layer = layer
        self.batch_size = check.integer(batch_size, "batch_size", 1)
        self._num_threads = check.num_threads(layer.num_threads if num_threads is None else num_threads)
        self._weights = _snapshot(layer)
        self._state = np.zeros((layer.num_layers, self.batch_size, layer.hidden_size), layer.dtype)
        y = np.empty(self._state.shape[1:], layer.dtype)
        work = self.batch_size * sum(kernel.size for kernel, _, _ in self._weights)
        threads = _threads.count(self._num_threads, work)
        activation = check.activation_index(layer.activation)
        super().__init__(self._state, y, self._weights, layer.groups, activation, threads)

    def _checked_x(self, x_t: object) -> Array:
        sizes = (self.batch_size,) if self.batch_size > 1 or np.ndim(x_t) != 1 else ()  # type: ignore[arg-type]
        return check.array("x_t", x_t, (*sizes, self.layer.input_size), ("the stream", self.layer.dtype))

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
        sizes = (self.batch_size,) if self.batch_size > 1 or np.ndim(chunk) != 2 else ()  # type: ignore[arg-type]
        x = check.array("chunk", chunk, ("T", *sizes, self.layer.input_size), ("the stream", self.layer.dtype))
        y = np.empty((*x.shape[:-1], self.layer.hidden_size), x.dtype)
        options = Stack.of(self.layer, self._num_threads).options
        stack = Stack([[weights] for weights in self._weights], options)
        state = self.state  # a copy, so that an interrupted call leaves the stream as it was
        inputs, outputs = (x, y) if x.ndim == 3 else (x[:, None], y[:, None])
        infer(stack, inputs, state, outputs, Rows(), Progress(None, 0))
        self._state[...] = state
        return y

    @property
    def state(self) -> Array:
        """A copy of the states, (layers, B, N). Assigning sets them."""
        copy: Array = self._state.copy()
        return copy

    @state.setter
    def state(self, value: object) -> None:
        self._state[...] = check.array("state", value, self._state.shape, ("the stream", self.layer.dtype))

    def reset(self, rows: Any = None) -> None:
        """Set the states of some rows to 0: an index, indices, a mask or a slice of the batch; None is all."""
        self._state[:, slice(None) if rows is None else rows] = 0

    def refresh(self) -> None:
        """Take a new snapshot of the layer's weights; the state stays."""
        weights = _snapshot(self.layer)
        self.take(weights)
        self._weights = weights

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.layer, self.batch_size, self._num_threads, self._weights, self._state)


def _restore(
    cls: type[Stream], layer: Weighted, batch_size: int, num_threads: int | None, weights: Any, state: Array
) -> Stream:
    stream = cls(layer, batch_size, num_threads)
    stream.take(weights)
    stream._weights = weights
    stream.state = state
    return stream
