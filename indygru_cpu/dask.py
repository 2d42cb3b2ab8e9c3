"""Inference on Dask arrays and bags: one call of the layer per block or partition, on the worker that holds it.

This module requires the extra `dask`: ``pip install "indygru_cpu[dask]"``. See ``docs/dask.md``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np

try:
    import dask
    import dask.array
    import dask.bag
    from dask.delayed import delayed
except ImportError as error:
    raise ImportError(f'needs Dask and its arrays ({error}): pip install "indygru_cpu[dask]"') from error

from indygru_cpu._engine import checks as check
from indygru_cpu._typing import Array
from indygru_cpu.layer import IndyGRU, checked_layer

__all__ = ["predict"]


def predict(layer: IndyGRU, x: Any, *, lengths: Any = None, last: bool = False, num_threads: int = 1) -> Any:
    """Run a layer lazily over a Dask array or bag of sequences, and return y or h_n.

    Parameters
    ----------
    layer : IndyGRU
        The layer. Later changes of its weights have no effect.
    x : dask array, (T, B, D), or (B, T, D) with ``batch_first``; or dask bag of arrays (T_i, D)
        Inputs in the layer's dtype. An array may have several blocks along the batch axis only.
    lengths : integers, (B,), NumPy or Dask array, optional
        Number of valid steps of each row of an array.
    last : bool
        Return h_n instead of y. For an array, y is then not stored.
    num_threads : int
        Threads of each task. Dask runs one task per worker thread, so worker threads times `num_threads` should be the
        number of CPUs.

    Returns
    -------
    dask array or bag
        For an array: y in the layout and with the blocks of x, or h_n (layers * directions, B, N). For a bag: of each
        sequence y, (T_i, N), or (T_i, 2N) if bidirectional; or h_n (layers * directions, N).

    Raises
    ------
    TypeError
        `layer`, `x` or `lengths` has a wrong type or dtype.
    ValueError
        Shapes do not fit, an array has several blocks along steps or inputs, or `num_threads` is less than 1. Values of
        `lengths`, and the sequences of a bag, are checked when Dask computes them.

    Notes
    -----
    Layers with equal weights and configuration, on equal inputs, give collections of equal names in every process.

    With ``reproducible=True``, the bits of a row do not depend on how the batch is split into blocks.

    Blocks of an array are not copied. A partition of a bag is copied once, into one array.

    Examples
    --------
    >>> import dask.array, dask.bag
    >>> import numpy as np
    >>> from indygru_cpu import IndyGRU
    >>> from indygru_cpu.dask import predict
    >>> layer = IndyGRU(3, 5, seed=0, reproducible=True)
    >>> x = np.random.default_rng(0).standard_normal((9, 4, 3), dtype=np.float32)  # (T, B, D)
    >>> y = predict(layer, dask.array.from_array(x, chunks=(9, 2, 3)))
    >>> y.shape, bool((y.compute(scheduler="sync") == layer(x)[0]).all())
    ((9, 4, 5), True)
    >>> states = predict(layer, dask.bag.from_sequence([x[:7, 0], x[:2, 1]]), last=True)
    >>> [h.shape for h in states.compute(scheduler="sync")]
    [(1, 5), (1, 5)]
    """
    checked_layer(layer)
    options = {"last": bool(last), "num_threads": check.integer(num_threads, "num_threads", 1)}
    if isinstance(x, dask.array.Array):
        return _predict_array(layer, x, lengths, options)
    if not isinstance(x, dask.bag.Bag):
        raise TypeError(f"x: expected a dask array or bag, got {type(x).__name__}")
    if lengths is not None:
        raise ValueError("lengths: expected None with a bag, whose sequences have their own lengths")
    return x.map_partitions(_run_partition, layer=_delayed_copy(layer), **options)


def _delayed_copy(layer: IndyGRU) -> Any:
    """Return a copy of the layer as a node of the graph, so that Dask sends it to each worker once."""
    name = f"indygru-layer-{dask.base.tokenize(layer)}"
    return delayed(copy.deepcopy(layer), name=name, traverse=False)


def _predict_array(layer: IndyGRU, x: Any, lengths: Any, options: dict[str, Any]) -> Any:
    names = ("B", "T", "D") if layer.batch_first else ("T", "B", "D")
    check.check_shape("x", x.shape, (*names[:2], layer.input_size))
    for axis, name in enumerate(names):
        if name != "B" and x.numblocks[axis] > 1:
            raise ValueError(
                f"x: expected one block along {name}, because each step depends on the previous one and on all inputs, "
                f"got {x.numblocks[axis]}: x.rechunk({{{axis}: -1}})"
            )
    # A call without rows gives the widths of the results, and checks the dtype.
    y, h_n = layer(np.empty([0 if name == "B" else 1 for name in names[:2]] + [layer.input_size], x.dtype))
    arguments = [x, names]
    if lengths is not None:
        arguments += [_rechunk_lengths(lengths, x.chunks[names.index("B")]), "B"]
    # In h_n, the axis T has layers * directions and the axis D has units; each of these axes has one block.
    axes, widths = (("T", "B", "D"), {"T": len(h_n)}) if options["last"] else (names, {})
    widths["D"] = h_n.shape[2] if options["last"] else y.shape[2]
    return dask.array.blockwise(
        _run_block, axes, *arguments, adjust_chunks=widths, layer=_delayed_copy(layer), **options,
        dtype=y.dtype, meta=np.empty((0, 0, 0), y.dtype),
    )  # fmt: skip


def _rechunk_lengths(lengths: Any, chunks: tuple[int, ...]) -> Any:
    """Return lengths (B,) with the blocks of the batch."""
    if not isinstance(lengths, dask.array.Array):
        lengths = dask.array.from_array(check.as_array("lengths", lengths))
    check.check_shape("lengths", lengths.shape, (sum(chunks),))
    return lengths.rechunk((chunks,))


def _run_block(x: Array, lengths: Array | None = None, *, layer: IndyGRU, last: bool, num_threads: int) -> Array:
    if last:
        return layer.last(x, lengths=lengths, num_threads=num_threads)
    return layer(x, lengths=lengths, num_threads=num_threads)[0]


def _run_partition(sequences: Iterable[Any], *, layer: IndyGRU, last: bool, num_threads: int) -> list[Array]:
    arrays = [
        check.array(f"x, sequence {i} of its partition", x, ("T", layer.input_size), "the layer", layer.dtype)
        for i, x in enumerate(sequences)
    ]
    if not arrays:
        return []
    offsets = np.cumsum([0, *map(len, arrays)])
    y, h_n = layer.ragged(np.concatenate(arrays), offsets, num_threads=num_threads)[:2]
    return list(h_n.swapaxes(0, 1)) if last else np.split(y, offsets[1:-1])
