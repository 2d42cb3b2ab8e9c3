"""Streams: single steps of a real-time application, made by `IndyGRU.stream`, and pools of the streams of clients."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from indygru_cpu._engine import _core, threads
from indygru_cpu._engine import checks as check
from indygru_cpu._engine.arguments import choose_threads
from indygru_cpu._engine.messages import shortened, shown
from indygru_cpu._engine.quantization import checked_format, quantize_int8, round_to_bfloat16, widen_bfloat16
from indygru_cpu._typing import Array


@runtime_checkable
class StreamableLayer(Protocol):
    """The attributes of IndyGRU that a stream reads. `layer` imports this module, so it cannot import IndyGRU."""

    _options: dict[str, Any]
    _bound: _core.BoundLayer
    num_threads: int | None


def _snapshot(layer: StreamableLayer, weights: str) -> _core.BoundLayer:
    """The layer's options with copies of its weights; kernels that bfloat16 represents, if that is the format."""
    bound = layer._bound
    arrays = [[[array.copy() for array in each] for each in directions] for directions in bound.weights]
    if weights == "bfloat16":
        for k, [layer_arrays] in enumerate(arrays):
            layer_arrays[0] = widen_bfloat16(round_to_bfloat16(layer_arrays[0], f"kernel of layer {k}"))
    return _core.BoundLayer(
        arrays, bound.groups, bound.activation, bound.reproducible, choose_threads, has_reset_gate=bound.has_reset_gate
    )


def _compact_kernels(bound: _core.BoundLayer, weights: str) -> list[tuple[Array, Array | None]] | None:
    """The kernel of each layer in a compact format, and its scales; None for another format."""
    kernels = {f"kernel of layer {k}": arrays[0] for k, [arrays] in enumerate(bound.weights)}
    if weights == "bfloat16":
        return [(round_to_bfloat16(kernel, name), None) for name, kernel in kernels.items()]
    if weights == "int8":
        return [quantize_int8(kernel, name) for name, kernel in kernels.items()]
    return None


def _index_rows(numbers: Array, rows: Any) -> Array:
    """The numbers of the rows that an index names."""
    if isinstance(rows, (bool, np.bool_)):
        raise IndexError(f"rows: expected an index, indices, a mask or a slice, got {rows}")
    try:
        return np.asarray(numbers[None][:, rows][0])  # a tuple is a sequence of rows
    except IndexError as error:
        raise IndexError(f"rows: {shortened(error)} (the batch size is {len(numbers)})") from None


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
    weights : {"bfloat16", "int8"}, optional
        The format of the kernels, as in `IndyGRU.stream`; None is the layer's dtype.

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
    >>> clients = layer.stream(batch_size=8)
    >>> y = clients.push(np.ones((2, 3), np.float32), rows=[6, 1])
    >>> y.shape, np.flatnonzero(clients.state[0].any(axis=1)).tolist()
    ((2, 5), [1, 6])
    """

    def __init__(
        self,
        layer: StreamableLayer,
        batch_size: int = 1,
        num_threads: int | None = None,
        *,
        weights: str | None = None,
        _bound: _core.BoundLayer | None = None,
    ) -> None:
        if not isinstance(layer, StreamableLayer):
            raise TypeError(f"layer: expected an IndyGRU, got {type(layer).__name__}")
        if layer._options["bidirectional"]:
            raise ValueError("stream: the reverse direction needs whole sequences; expected bidirectional=False")
        n_batch = check.size(batch_size, "batch_size")
        self._num_threads = layer.num_threads if num_threads is None else check.num_threads(num_threads)
        self._weights = checked_format(weights, layer._options["dtype"].name)
        bound = _snapshot(layer, self._weights) if _bound is None else _bound
        n_layers, n_columns = len(bound.weights), bound.weights[0][0][0].shape[1]
        check.check_size_overflow("batch_size and the layer's sizes", (n_layers, n_batch, n_columns))
        super().__init__(bound, n_batch, self._num_threads, _compact_kernels(bound, self._weights))
        self._layer = layer

    @property
    def batch_size(self) -> int:
        """Rows of each step."""
        return len(self._states[0])

    @property
    def weights(self) -> str:
        """The format of the kernels: float32, float64, bfloat16 or int8."""
        return self._weights

    @property
    def _n_inputs(self) -> int:
        return self._bound.weights[0][0][0].shape[0] * self._bound.groups

    def _checked(self, name: str, value: object, leading: tuple[str, ...]) -> Array:
        """An array (*leading, B, D). The axis B may be missing if the batch size is 1."""
        array = check.as_array(name, value)
        rows = () if self.batch_size == 1 and array.ndim == 1 + len(leading) else (self.batch_size,)
        return check.array(name, array, (*leading, *rows, self._n_inputs), "the stream", self._states.dtype)

    def _checked_x(self, x_t: object, n_rows: int | None) -> Array:
        """The inputs of a step of all rows (None) or of n_rows rows."""
        if n_rows is None:
            return self._checked("x_t", x_t, ())
        return check.array("x_t", x_t, (n_rows, self._n_inputs), "the stream", self._states.dtype)

    def _checked_rows(self, rows: Any) -> Array:
        """The rows of a step that compiled code cannot read, as an array of intp."""
        named = _index_rows(np.arange(self.batch_size), rows)
        if named.ndim != 1:
            raise IndexError(f"rows: expected integers, a mask or a slice, got {shown(rows)}")
        if len(np.unique(named)) != len(named):
            raise ValueError(
                f"rows: expected each row once, got {shown(rows)}: give each step of a row a push of its own"
            )
        return np.ascontiguousarray(named)

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
        if self._weights == "int8":  # the layer's call has no int8 kernels
            y = self._run_steps(chunk)
            return None if y is None else (y,)
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
        if rows is None:
            self._call_exclusively(self._states.__setitem__, ..., 0)
        else:
            self._clear_rows(np.ascontiguousarray(_index_rows(np.arange(self.batch_size), rows).reshape(-1)))

    def refresh(self) -> None:
        """Take a new snapshot of the layer's weights. The state does not change."""
        bound = _snapshot(self._layer, self._weights)
        self._set_weights(bound, _compact_kernels(bound, self._weights))

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (
            type(self), self._layer, self.batch_size, self._bound, self._num_threads, self.state, self._weights,
        )  # fmt: skip


def _restore(
    cls: type[Stream], layer: StreamableLayer, batch_size: int, bound: _core.BoundLayer, num_threads: int | None,
    state: Array, weights: str | None = None,
) -> Stream:  # fmt: skip
    stream = cls(layer, batch_size, num_threads, weights=weights, _bound=bound)
    stream.state = state
    return stream


class _Table(NamedTuple):
    """The stream of a pool, the rows of its clients, and rows that are free; rows in neither are free too."""

    stream: Stream
    rows: dict[Hashable, int]
    free: list[int]


class StreamPool:
    """The streams of clients that come and go. Their steps run together, as rows of one stream.

    The step of a client is that of a stream of its own: it does not depend on the other clients, to the last bit. Each
    client has a row. When all rows are taken, the pool doubles their number; when a quarter is taken, it halves it.
    Both pack the weights again and copy the states. Any thread can use a pool; calls wait for each other.

    Parameters
    ----------
    layer : IndyGRU
        A layer that is not bidirectional. The pool has a snapshot of its weights.
    capacity : int
        The number of clients for which there are rows from the beginning, and always.
    num_threads : int, optional
        Threads of a step with enough work for more than one; None is the layer's number.
    weights : {"bfloat16", "int8"}, optional
        The format of the kernels, as in `IndyGRU.stream`; None is the layer's dtype.

    Examples
    --------
    >>> import numpy as np
    >>> from indygru_cpu import IndyGRU, StreamPool
    >>> pool = StreamPool(IndyGRU(3, 5, seed=0), capacity=64)
    >>> y = pool.push({"ann": np.ones(3, np.float32), "bob": np.zeros(3, np.float32)})
    >>> y["bob"].shape
    (5,)
    >>> state = pool.get_state("ann")  # to continue in another process: other.set_state("ann", state)
    >>> pool.remove("ann")
    >>> pool.clients
    ('bob',)
    """

    def __init__(
        self,
        layer: StreamableLayer,
        capacity: int = 16,
        num_threads: int | None = None,
        *,
        weights: str | None = None,
    ) -> None:
        self._capacity = check.size(capacity, "capacity")
        self._lock = _core.CallLock("pool")
        self._table = _Table(Stream(layer, self._capacity, num_threads, weights=weights), {}, [])

    @property
    def capacity(self) -> int:
        """The number of clients for which there are rows now."""
        return self._table.stream.batch_size

    @property
    def clients(self) -> tuple[Hashable, ...]:
        """The clients that have a row, in the order in which they came."""
        return tuple(self._table.rows)

    def __len__(self) -> int:
        return len(self._table.rows)

    def __contains__(self, client: Hashable) -> bool:
        return client in self._table.rows

    def push(self, frames: Mapping[Any, Array]) -> dict[Any, Array]:
        """Take one step of each client that is named.

        Parameters
        ----------
        frames : mapping of client to array (D,)
            The inputs of the step, of the layer's dtype. A client can be any key of a dict. An unknown one gets a row,
            with a state of zeros.

        Returns
        -------
        dict of client to array (N,)
            The new states of the last layer, in new memory that the arrays share.

        Raises
        ------
        TypeError, ValueError
            `frames` is no mapping, or a frame has another dtype or shape. The pool is unchanged.
        RuntimeError
            A signal handler calls the pool during a call of the same thread.
        """
        if not isinstance(frames, Mapping):
            raise TypeError(f"frames: expected a mapping of clients to arrays, got {type(frames).__name__}")
        items = list(frames.items())  # at once, because another thread may change the mapping between two readings
        clients, values = [client for client, _ in items], [frame for _, frame in items]
        if type(frames) is not dict and len(set(clients)) < len(clients):
            raise ValueError("frames: expected each client once, got one twice: push its frames one after the other")
        y = self._lock.call(self._push, clients, values)
        return dict(zip(clients, y, strict=True))

    def _push(self, clients: list[Any], frames: list[Any]) -> Array:
        x = self._table.stream._stack(frames)
        if x is None:
            x = self._checked_frames(clients, frames)
        new = self._add(clients)
        stream, rows, _ = self._table
        try:
            y = np.empty((len(clients), stream._states.shape[-1]), x.dtype)  # before the step: memory may be missing
            y[...] = stream.push(x, [rows[client] for client in clients])
            return y
        except BaseException:
            for client in new:
                rows.pop(client, None)
            raise

    def _checked_frames(self, clients: list[Any], frames: list[Any]) -> Array:
        """An array (clients, D) of frames that compiled code cannot read."""
        stream = self._table.stream
        shape, dtype = (stream._n_inputs,), stream._states.dtype
        named = zip(clients, frames, strict=True)
        return np.stack([check.array(f"frame of {shown(each)}", x, shape, "the pool", dtype) for each, x in named])

    def _add(self, clients: Iterable[Hashable]) -> list[Hashable]:
        """Give a row with a state of zeros to each unknown client, and return these clients."""
        stream, rows, free = self._table
        new = [client for client in clients if client not in rows]
        if len(rows) + len(new) > stream.batch_size:
            self._resize(max(len(rows) + len(new), 2 * stream.batch_size))
            stream, rows, free = self._table
        if len(free) < len(new):
            taken = set(rows.values())
            free[:] = [row for row in range(stream.batch_size - 1, -1, -1) if row not in taken]
        if new:
            given = [free.pop() for _ in new]
            stream.reset(given)
            rows.update(zip(new, given, strict=True))
        return new

    def _resize(self, n_rows: int) -> None:
        """Move all clients to a stream of n_rows rows."""
        old, rows, _ = self._table
        stream = Stream(old._layer, n_rows, old._num_threads, weights=old.weights, _bound=old._bound)
        stream._states[:, : len(rows)] = old._states[:, list(rows.values())]
        # One assignment: an exception of a signal handler leaves the old stream with its rows, or the new one.
        self._table = _Table(stream, {client: row for row, client in enumerate(rows)}, [])

    def _row(self, client: Hashable) -> int:
        rows = self._table.rows
        if client not in rows:
            raise KeyError(f"client: expected one of the {len(rows)} clients of the pool, got {shown(client)}")
        return rows[client]

    def remove(self, client: Hashable) -> None:
        """Forget a client and its state.

        Raises
        ------
        KeyError
            The client has no row.
        """
        self._lock.call(self._remove, client)

    def _remove(self, client: Hashable) -> None:
        stream, rows, free = self._table
        row = self._row(client)
        del rows[client]
        free.append(row)
        if self._capacity < stream.batch_size and 4 * len(rows) <= stream.batch_size:
            self._resize(max(self._capacity, stream.batch_size // 2))

    def get_state(self, client: Hashable) -> Array:
        """Return a copy of the state of a client, (layers, N), for `set_state` of any pool with this layer's weights.

        Raises
        ------
        KeyError
            The client has no row.
        """
        state: Array = self._lock.call(lambda: self._table.stream._states[:, self._row(client)].copy())
        return state

    def set_state(self, client: Hashable, state: object) -> None:
        """Set the state of a client, (layers, N), and give it a row if it has none.

        Raises
        ------
        TypeError, ValueError
            Another dtype or shape. The pool is unchanged.
        """
        n_layers, _, n_units = self._table.stream._states.shape
        checked = check.array("state", state, (n_layers, n_units), "the pool", self._table.stream._states.dtype)
        self._lock.call(self._set_state, client, checked)

    def _set_state(self, client: Hashable, state: Array) -> None:
        self._add([client])
        self._table.stream._states[:, self._row(client)] = state

    def refresh(self) -> None:
        """Take a new snapshot of the layer's weights. The states do not change."""
        self._lock.call(lambda: self._table.stream.refresh())

    def __reduce__(self) -> tuple[Any, ...]:
        reduced: tuple[Any, ...] = self._lock.call(self._reduce)
        return reduced

    def _reduce(self) -> tuple[Any, ...]:
        stream, rows, _ = self._table
        states = {client: stream._states[:, row].copy() for client, row in rows.items()}
        return _restore_pool, (
            type(self), stream._layer, self._capacity, stream._num_threads, stream._bound, states, stream.weights,
        )  # fmt: skip


def _restore_pool(
    cls: type[StreamPool], layer: StreamableLayer, capacity: int, num_threads: int | None, bound: _core.BoundLayer,
    states: dict[Hashable, Array], weights: str,
) -> StreamPool:  # fmt: skip
    pool = cls(layer, capacity, num_threads, weights=weights)
    stream = Stream(layer, max(capacity, len(states)), num_threads, weights=weights, _bound=bound)
    pool._table = _Table(stream, {}, [])
    for client, state in states.items():
        pool.set_state(client, state)
    return pool
