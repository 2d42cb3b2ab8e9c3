"""Streams: single steps of a real-time application, made by `IndyGRU.stream`."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np

from indygru_cpu._engine import _core, threads
from indygru_cpu._engine import checks as check
from indygru_cpu._engine.arguments import choose_threads
from indygru_cpu._engine.messages import shortened
from indygru_cpu._typing import Array


@runtime_checkable
class StreamableLayer(Protocol):
    """The attributes of IndyGRU that a stream reads. `layer` imports this module, so it cannot import IndyGRU."""

    _options: dict[str, Any]
    _bound: _core.BoundLayer
    num_threads: int | None


def _snapshot(layer: StreamableLayer) -> _core.BoundLayer:
    """The layer's options with copies of its weights."""
    bound = layer._bound
    weights = [[[array.copy() for array in each] for each in directions] for directions in bound.weights]
    return _core.BoundLayer(weights, bound.groups, bound.activation, bound.reproducible, choose_threads)


class Stream(_core.StreamBase):
    """The states of a layer between steps, and a snapshot of its weights. `IndyGRU.stream` makes it.

    Weights are packed in advance, and the buffers of states and results are allocated in advance, so `push` allocates
    nothing. The weights are those of the layer at the time when the stream was made or last refreshed. A stream can be
    pickled and copied, with its weights and its state. Only one thread can use a stream at a time.

    Parameters
    ----------
    layer : IndyGRU
        A layer that is not bidirectional.
    batch_size : int
        Rows of each step.
    num_threads : int, optional
        Threads of a step with enough work for more than one; None is the layer's number.

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
        self,
        layer: StreamableLayer,
        batch_size: int = 1,
        num_threads: int | None = None,
        *,
        _bound: _core.BoundLayer | None = None,
    ) -> None:
        if not isinstance(layer, StreamableLayer):
            raise TypeError(f"layer: expected an IndyGRU, got {type(layer).__name__}")
        if layer._options["bidirectional"]:
            raise ValueError("stream: the reverse direction needs whole sequences; expected bidirectional=False")
        n_batch = check.size(batch_size, "batch_size")
        self._num_threads = layer.num_threads if num_threads is None else check.num_threads(num_threads)
        bound = _snapshot(layer) if _bound is None else _bound
        n_layers, n_columns = len(bound.weights), bound.weights[0][0][0].shape[1]
        check.check_size_overflow("batch_size and the layer's sizes", (n_layers, n_batch, n_columns))
        super().__init__(bound, n_batch, self._num_threads)
        self._layer = layer

    @property
    def batch_size(self) -> int:
        """Rows of each step."""
        return len(self._states[0])

    def _checked(self, name: str, value: object, leading: tuple[str, ...]) -> Array:
        """An array (*leading, B, D). The axis B may be missing if the batch size is 1."""
        array = check.as_array(name, value)
        rows = () if self.batch_size == 1 and array.ndim == 1 + len(leading) else (self.batch_size,)
        n_inputs = self._bound.weights[0][0][0].shape[0] * self._bound.groups
        return check.array(name, array, (*leading, *rows, n_inputs), "the stream", self._states.dtype)

    def _checked_x(self, x_t: object) -> Array:
        return self._checked("x_t", x_t, ())

    def _serial_threads(self) -> int:
        threads.warn_of_fork()
        return 1

    def push_many(self, chunk: object) -> Array:
        """Run the steps of a chunk. This is faster than one `push` for each step.

        Parameters
        ----------
        chunk : array, (T, B, D), or (T, D) if the batch size is 1
            Inputs. The first axis is time, regardless of the layer's `batch_first`.

        Returns
        -------
        array, (T, B, N) or (T, N)
            All states of the last layer, in a new array.

        Raises
        ------
        TypeError, ValueError
            Another dtype or shape. The state does not change.
        RuntimeError
            Another thread is using the stream.
        """
        results = self._call_exclusively(self._run_chunk, chunk, False)
        if results is None:
            x = self._checked("chunk", chunk, ("T",))
            results = self._call_exclusively(self._run_chunk, x, True)
        y: Array = results[0]
        return y

    def _run_chunk(self, chunk: Any, is_checked: bool) -> Any:
        """The results of a chunk; None if compiled code cannot read it. An interrupted call changes no state."""
        states = self._states
        if self.batch_size == 1 and getattr(chunk, "ndim", None) == 2:
            states = states[:, 0]
        return self._bound.infer(
            chunk, states, None, None, None, states, False, True, self._num_threads, None, is_checked
        )

    @property
    def state(self) -> Array:
        """A copy of the states, (layers, B, N). Assigning a value copies it into them."""
        return self._call_exclusively(self._states.copy)

    @state.setter
    def state(self, value: object) -> None:
        states = self._states
        state = check.array("state", value, states.shape, "the stream", states.dtype)
        self._call_exclusively(states.__setitem__, ..., state)

    def reset(self, rows: Any = None) -> None:
        """Set the states of some rows to 0.

        Parameters
        ----------
        rows : int, integers, mask, slice or None
            An index of rows of the batch; None is all rows.

        Raises
        ------
        IndexError
            Rows outside the batch, or something else than an index.
        """
        if isinstance(rows, (bool, np.bool_)):
            raise IndexError(f"rows: expected an index, indices, a mask or a slice, got {rows}")
        try:
            self._call_exclusively(self._states.__setitem__, (slice(None), slice(None) if rows is None else rows), 0)
        except IndexError as error:
            raise IndexError(f"rows: {shortened(error)} (the batch size is {self.batch_size})") from None

    def refresh(self) -> None:
        """Take a new snapshot of the layer's weights. The state does not change."""
        self._set_weights(_snapshot(self._layer))

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self._layer, self.batch_size, self._bound, self._num_threads, self.state)


def _restore(
    cls: type[Stream], layer: StreamableLayer, batch_size: int, bound: _core.BoundLayer, num_threads: int | None,
    state: Array,
) -> Stream:  # fmt: skip
    stream = cls(layer, batch_size, num_threads, _bound=bound)
    stream.state = state
    return stream
