"""Streams: single steps of a real-time application, made by `IndyGRU.stream`, and pools of the streams of clients."""

from __future__ import annotations

import copyreg
from collections.abc import Hashable, Iterable, Mapping
from contextlib import suppress
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


def _index_rows(n_batch: int, rows: Any) -> Array:
    """The numbers of the rows that an index names."""
    problem: object
    if rows is Ellipsis:
        problem = "give None for all rows"
    elif check.is_masked(rows):
        problem = "fill the masked array, or give its compressed() rows"
    else:
        try:
            if isinstance(rows, slice):
                return np.arange(n_batch, dtype=np.intp)[rows]
            index = np.asarray(rows, np.intp if isinstance(rows, (list, tuple)) and not rows else None)
            if index.dtype == bool:
                if index.shape != (n_batch,):
                    raise ValueError(f"a mask has {n_batch} values")
                return np.flatnonzero(index)
            if index.dtype.kind not in "iu":
                raise TypeError("an index has integers or Booleans")
            # Python's integers: the conversion to intp could make a row of the batch of an integer outside it. Without
            # memory, NumPy's reductions and its indexing with arrays may raise SystemError in place of MemoryError.
            for row in index.reshape(-1).tolist():
                if not -n_batch <= row < n_batch:
                    raise IndexError(f"row {row} is out of bounds")
            return np.asarray(index.astype(np.intp) % n_batch)
        except (IndexError, OverflowError, TypeError, ValueError) as error:
            problem = shortened(error)
    raise IndexError(
        f"rows: expected integers, a mask or a slice, got {shown(rows)}: {problem} (the batch size is {n_batch})"
    )


def _check_one_direction(layer: StreamableLayer, owner: str) -> None:
    """Refuse what is no layer, and a bidirectional layer."""
    if not isinstance(layer, StreamableLayer):
        raise TypeError(f"layer: expected an IndyGRU, got {type(layer).__name__}")
    if layer._options["bidirectional"]:
        raise ValueError(f"{owner}: the reverse direction needs whole sequences; expected bidirectional=False")


class _Source(NamedTuple):
    """What a stream keeps of its arguments: what a refresh, a pickle or a larger pool needs."""

    layer: StreamableLayer
    num_threads: int | None
    weights: str


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
        _check_one_direction(layer, "stream")
        n_batch = check.size(batch_size, "batch_size")
        n_threads = layer.num_threads if num_threads is None else check.num_threads(num_threads)
        weights = checked_format(weights, layer._options["dtype"].name)
        bound = _snapshot(layer, weights) if _bound is None else _bound
        n_layers, n_columns = len(bound.weights), bound.weights[0][0][0].shape[1]
        check.check_size_overflow("batch_size and the layer's sizes", (n_layers, n_batch, n_columns))
        source = _Source(layer, n_threads, weights)
        super().__init__(bound, n_batch, n_threads, _compact_kernels(bound, weights), source)

    @property
    def batch_size(self) -> int:
        """Rows of each step."""
        return len(self._states[0])

    @property
    def weights(self) -> str:
        """The format of the kernels: float32, float64, bfloat16 or int8."""
        source: _Source = self._source
        return source.weights

    @property
    def _n_inputs(self) -> int:
        return self._bound.weights[0][0][0].shape[0] * self._bound.groups

    def _checked(self, name: str, value: object, leading: tuple[str, ...]) -> Array:
        """An array (*leading, B, D). The axis B may be missing if the batch size is 1."""
        array = check.as_float_array(name, value, "the stream", self._states.dtype)
        rows = () if self.batch_size == 1 and array.ndim == 1 + len(leading) else (self.batch_size,)
        return check.array(name, array, (*leading, *rows, self._n_inputs), "the stream", self._states.dtype)

    def _checked_x(self, x_t: object, n_rows: int | None) -> Array:
        """The inputs of a step of all rows (None) or of n_rows rows."""
        if n_rows is None:
            return self._checked("x_t", x_t, ())
        return check.array("x_t", x_t, (n_rows, self._n_inputs), "the stream", self._states.dtype)

    def _checked_rows(self, rows: Any) -> Array:
        """The rows of a step that compiled code cannot read, as an array of intp."""
        named = _index_rows(self.batch_size, rows)
        if named.ndim != 1:
            raise IndexError(f"rows: expected integers, a mask or a slice, got {shown(rows)}: one axis is needed")
        if len(set(named.tolist())) != len(named):
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
            Another thread is using the stream, or a call of this thread that has not returned.
        """
        results = self._call_exclusively(self._run_chunk, chunk, False)
        if results is None:
            x = self._checked("chunk", chunk, ("T",))
            results = self._call_exclusively(self._run_chunk, x, True)
        y: Array = results[0]
        return y

    def _run_chunk(self, chunk: Any, is_checked: bool) -> Any:
        """The results of a chunk; None if compiled code cannot read it. An interrupted call changes no state."""
        if self.weights == "int8":  # the layer's call has no int8 kernels
            y = self._run_steps(chunk)
            return None if y is None else (y,)
        states = self._states
        if self.batch_size == 1 and getattr(chunk, "ndim", None) == 2:
            states = states[:, 0]
        return self._bound.infer(
            chunk, states, None, None, None, states, False, True, self._source.num_threads, None, is_checked
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
            self._clear_rows(np.ascontiguousarray(_index_rows(self.batch_size, rows).reshape(-1)))

    def refresh(self) -> None:
        """Take a new snapshot of the layer's weights. The state does not change."""
        layer, _, weights = self._source
        bound = _snapshot(layer, weights)
        self._set_weights(bound, _compact_kernels(bound, weights))

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self._source, self._bound, self.state), _attributes(self)


def _attributes(instance: Any) -> Any:
    """The attributes of an instance of a subclass, as `pickle` restores them: `__dict__` and `__slots__`."""
    if hasattr(instance, "__getstate__"):  # in Python 3.10, a subclass's only
        return instance.__getstate__()
    names = copyreg._slotnames(type(instance))  # type: ignore[attr-defined]
    slots = {name: getattr(instance, name) for name in names if hasattr(instance, name)}
    return (vars(instance) or None, slots) if slots else vars(instance) or None


def _restore(cls: type[Stream], source: _Source, bound: _core.BoundLayer, state: Array) -> Stream:
    """A stream of these weights and states. A subclass's constructor, which may take other arguments, is not called."""
    stream = cls.__new__(cls)
    layer, num_threads, weights = source
    Stream.__init__(stream, layer, state.shape[1], num_threads, weights=weights, _bound=bound)
    stream.state = state
    return stream


def _check_client(client: object) -> None:
    """Refuse a client that cannot be a key of a dict."""
    try:
        hash(client)
    except TypeError as error:
        raise TypeError(
            f"client: expected a hashable object, such as a str or an int, got {shown(client)}: {shortened(error)}"
        ) from error


class _Table(NamedTuple):
    """The stream of a pool, the rows of its clients, rows that are free, and the number of rows that are always there.

    Rows that are neither a client's nor among the free ones are free too.
    """

    stream: Stream
    rows: dict[Hashable, int]
    free: list[int]
    min_rows: int


class StreamPool(_core.PoolBase):
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
        _check_one_direction(layer, "pool")
        min_rows = check.size(capacity, "capacity")
        super().__init__(_Table(Stream(layer, min_rows, num_threads, weights=weights), {}, [], min_rows))

    @property
    def capacity(self) -> int:
        """The number of clients for which there are rows now."""
        return self._table.stream.batch_size

    @property
    def clients(self) -> tuple[Hashable, ...]:
        """The clients that have a row, in the order in which they came."""
        return tuple(self._table.rows.copy())  # a copy is made at once, while another thread may remove a client

    def __len__(self) -> int:
        return len(self._table.rows)

    def __contains__(self, client: Hashable) -> bool:
        _check_client(client)
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
            `frames` is no mapping, or a frame has another dtype or shape.
        RuntimeError
            A call of this thread that has not returned is using the pool: a signal handler or a finaliser makes another
            one. `remove` is accepted there.

        Notes
        -----
        A push takes the steps of all its clients or of none: after an exception, also one of a signal handler or of a
        method of a client or a frame, the clients and their states are those before the push, or those after it.
        """
        if not isinstance(frames, Mapping):
            raise TypeError(f"frames: expected a mapping of clients to arrays, got {type(frames).__name__}")
        items: Iterable[tuple[Any, Any]] = frames.items()
        if type(frames) is not dict:
            items = list(items)  # methods of the mapping run before the call, so they can use the pool
            clients = [client for client, _ in items]
            for client in clients:
                _check_client(client)
            if len(set(clients)) < len(clients):
                raise ValueError(
                    "frames: expected each client once, got one twice: push its frames one after the other"
                )
        results: dict[Any, Array] = self._call(self._push, items)
        return results

    def _push(self, items: Iterable[tuple[Any, Any]]) -> dict[Any, Array]:
        # At once, because another thread may change the mapping between two readings. A dict is read within the call:
        # a finaliser that the allocation starts may remove one of its clients, which is recorded then.
        items = list(items)
        clients, frames = [client for client, _ in items], [frame for _, frame in items]
        x = self._table.stream._stack(frames)
        if x is None:
            x = self._checked_frames(clients, frames)
        # All that may raise comes before the step: allocations, and methods of clients (__hash__, __eq__).
        table = stream, rows, *_ = self._with_rows(clients)
        y = np.empty((len(clients), stream._states.shape[-1]), x.dtype)
        results = dict(zip(clients, y, strict=True))
        self._take_step(table, stream, x, [rows[client] for client in clients], y)
        return results

    def _checked_frames(self, clients: list[Any], frames: list[Any]) -> Array:
        """An array (clients, D) of frames that compiled code cannot read."""
        stream = self._table.stream
        shape, dtype = (stream._n_inputs,), stream._states.dtype
        named = zip(clients, frames, strict=True)
        return np.stack([check.array(f"frame of {shown(each)}", x, shape, "the pool", dtype) for each, x in named])

    def _with_rows(self, clients: list[Any]) -> _Table:
        """A table of fitting size in which each of these clients has a row. States of new clients are zeros.

        The pool has its own table until that one replaces it, so an exception adds no client.
        """
        table: _Table = self._table
        new = [client for client in clients if client not in table.rows]
        n_clients, n_rows = len(table.rows) + len(new), table.stream.batch_size
        if n_clients > n_rows:
            table = self._resized(max(n_clients, 2 * n_rows))
        elif table.min_rows < n_rows and 4 * n_clients <= n_rows:
            with suppress(MemoryError):  # then the pool keeps its rows
                table = self._resized(max(table.min_rows, n_rows // 2))
        if not new:
            return table
        stream, rows, free, min_rows = table
        if len(free) < len(new):
            taken = set(rows.values())
            free[:] = [row for row in range(stream.batch_size - 1, -1, -1) if row not in taken]
        given = [free.pop() for _ in new]
        stream._clear_rows(np.array(given, np.intp))
        return _Table(stream, rows | dict(zip(new, given, strict=True)), free, min_rows)

    def _resized(self, n_rows: int) -> _Table:
        """A table with a stream of n_rows rows and all clients."""
        old, rows, _, min_rows = self._table
        layer, num_threads, weights = old._source
        stream = Stream(layer, n_rows, num_threads, weights=weights, _bound=old._bound)
        stream._states[:, : len(rows)] = old._states_of(list(rows.values()))
        return _Table(stream, {client: row for row, client in enumerate(rows)}, [], min_rows)

    def _row(self, client: Hashable) -> int:
        rows: dict[Hashable, int] = self._table.rows
        if client not in rows:
            raise KeyError(f"client: expected one of the {len(rows)} clients of the pool, got {shown(client)}")
        return rows[client]

    def remove(self, client: Hashable) -> None:
        """Forget a client and its state.

        A finaliser (`__del__`, `weakref.finalize`) or a signal handler can remove a client at any time. If a call of
        the same thread is running, the client is removed when that call ends, after the step of a push, and a client
        that has no row then is ignored.

        Raises
        ------
        KeyError
            The client has no row.

        Examples
        --------
        >>> import weakref
        >>> import numpy as np
        >>> from indygru_cpu import IndyGRU, StreamPool
        >>> pool = StreamPool(IndyGRU(3, 5, seed=0))
        >>> class Connection:
        ...     pass
        >>> connection = Connection()
        >>> y = pool.push({"ann": np.ones(3, np.float32)})
        >>> finalizer = weakref.finalize(connection, pool.remove, "ann")
        >>> del connection
        >>> len(pool)
        0
        """
        _check_client(client)
        if not self._defer_removal(client):
            self._call(self._remove, client)

    def _remove(self, client: Hashable) -> None:
        self._row(client)  # raises if there is none
        with suppress(MemoryError):  # then the pool keeps its rows
            self._discard(client)
            self._table = self._with_rows([])

    def get_state(self, client: Hashable) -> Array:
        """Return a copy of the state of a client, (layers, N), for `set_state` of any pool with this layer's weights.

        Raises
        ------
        KeyError
            The client has no row.
        """
        _check_client(client)
        state: Array = self._call(lambda: self._table.stream._states[:, self._row(client)].copy())
        return state

    def set_state(self, client: Hashable, state: object) -> None:
        """Set the state of a client, (layers, N), and give it a row if it has none.

        Raises
        ------
        TypeError, ValueError
            Another dtype or shape. The pool is unchanged.
        """
        _check_client(client)
        n_layers, _, n_units = self._table.stream._states.shape
        checked = check.array("state", state, (n_layers, n_units), "the pool", self._table.stream._states.dtype)
        self._call(self._set_state, client, checked)

    def _set_state(self, client: Hashable, state: Array) -> None:
        table = self._with_rows([client])
        table.stream._states[:, table.rows[client]] = state
        self._table = table

    def refresh(self) -> None:
        """Take a new snapshot of the layer's weights. The states do not change."""
        self._call(lambda: self._table.stream.refresh())

    def __reduce__(self) -> tuple[Any, ...]:
        reduced: tuple[Any, ...] = self._call(self._reduce)
        return reduced

    def _reduce(self) -> tuple[Any, ...]:
        stream, rows, _, min_rows = self._table
        states = stream._states_of(list(rows.values()))
        arguments = type(self), stream._source, stream._bound, min_rows, tuple(rows), states
        return _restore_pool, arguments, _attributes(self)


def _restore_pool(
    cls: type[StreamPool], source: _Source, bound: _core.BoundLayer, min_rows: int, clients: tuple[Any, ...],
    states: Array,
) -> StreamPool:  # fmt: skip
    """A pool of these weights, clients and states, (layers, clients, N). A subclass's constructor is not called."""
    pool = cls.__new__(cls)
    layer, num_threads, weights = source
    stream = Stream(layer, max(min_rows, len(clients)), num_threads, weights=weights, _bound=bound)
    stream._states[:, : len(clients)] = states
    rows = {client: row for row, client in enumerate(clients)}
    _core.PoolBase.__init__(pool, _Table(stream, rows, [], min_rows))
    return pool
