"""Inference on Dask's arrays and bags: each block, or partition, is one call of the layer on the worker that has it.

Needs the extra `dask`: ``pip install "indygru_cpu[dask]"``. ``docs/dask.md`` is its page.
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
from indygru_cpu.layer import IndyGRU

__all__ = ["predict"]


def predict(layer: IndyGRU, x: Any, *, lengths: Any = None, last: bool = False, num_threads: int = 1) -> Any:
    """Run a layer over a Dask array or bag of sequences, lazily: y, or h_n alone.

    Parameters
    ----------
    layer : IndyGRU
        Its weights are taken as they are now.
    x : dask array, (T, B, D), or (B, T, D) with ``batch_first``; or dask bag of arrays (T_i, D)
        Inputs of the layer's dtype. An array is cut along the batch only.
    lengths : integers, (B,), NumPy or Dask array, optional
        Valid steps of each row of an array.
    last : bool
        Ask for h_n instead of y, which is then, of an array, never stored.
    num_threads : int
        Threads of each task. Dask runs as many tasks at once as its workers have threads, so this times those should
        be the number of processors.

    Returns
    -------
    dask array or bag
        Of an array: y, laid out and cut like x, or h_n (layers * directions, B, N). Of a bag: for each sequence its y
        (T_i, N), or (T_i, 2N) with two directions, or its h_n (layers * directions, N).

    Raises
    ------
    TypeError, ValueError
        What the layer refuses, and an array that is cut along steps or inputs. Values of `lengths`, and what is in a
        bag, are checked when they are computed.

    Notes
    -----
    Equal layers, by weights and configuration, on equal inputs give collections of equal names, in any process.

    A row has the same bits however the batch is cut if the layer has ``reproducible=True``.

    A partition of a bag is copied once, into one array; blocks of an array are not copied.

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
    if not isinstance(layer, IndyGRU):
        raise TypeError(f"layer: expected an IndyGRU, got {type(layer).__name__}")
    options = {"last": bool(last), "num_threads": check.integer(num_threads, "num_threads", 1)}
    if isinstance(x, dask.array.Array):
        return _predict_array(layer, x, lengths, options)
    if not isinstance(x, dask.bag.Bag):
        raise TypeError(f"x: expected a dask array or bag, got {type(x).__name__}")
    if lengths is not None:
        raise ValueError("lengths: expected None with a bag, whose sequences have their own lengths")
    return x.map_partitions(_run_partition, layer=_sent(layer), **options)


def _sent(layer: IndyGRU) -> Any:
    """A copy, which the caller's later changes do not reach, as a node of the graph: it goes to each worker once."""
    name = f"indygru-layer-{dask.base.tokenize(layer)}"
    return delayed(copy.deepcopy(layer), name=name, traverse=False)


def _predict_array(layer: IndyGRU, x: Any, lengths: Any, options: dict[str, Any]) -> Any:
    names = ("B", "T", "D") if layer.batch_first else ("T", "B", "D")
    check.check_shape("x", x.shape, (*names[:2], layer.input_size))
    for axis, name in enumerate(names):
        if name != "B" and x.numblocks[axis] > 1:
            raise ValueError(
                f"x: expected one block along {name}, because a step needs the one before and all its inputs, got "
                f"{x.numblocks[axis]}: x.rechunk({{{axis}: -1}})"
            )
    # What the layer makes of no rows tells the widths of the results, or refuses the dtype.
    y, h_n = layer(np.empty([0 if name == "B" else 1 for name in names[:2]] + [layer.input_size], x.dtype))
    arguments = [x, names]
    if lengths is not None:
        arguments += [_blocks_of_lengths(lengths, x.chunks[names.index("B")]), "B"]
    # Steps become layers and directions, inputs become units: each is one block before and after.
    results, widths = (("T", "B", "D"), {"T": len(h_n)}) if options["last"] else (names, {})
    widths["D"] = h_n.shape[2] if options["last"] else y.shape[2]
    return dask.array.blockwise(
        _run_block, results, *arguments, adjust_chunks=widths, layer=_sent(layer), **options,
        dtype=y.dtype, meta=np.empty((0, 0, 0), y.dtype),
    )  # fmt: skip


def _blocks_of_lengths(lengths: Any, chunks: tuple[int, ...]) -> Any:
    """(B,), cut like the batch."""
    if not isinstance(lengths, dask.array.Array):
        lengths = dask.array.from_array(check.as_array("lengths", lengths))
    check.check_shape("lengths", lengths.shape, (sum(chunks),))
    return lengths.rechunk((chunks,))


def _run_block(x: Array, lengths: Array | None = None, *, layer: IndyGRU, last: bool, num_threads: int) -> Array:
    if last:
        return layer.last(x, lengths=lengths, num_threads=num_threads)
    return layer(x, lengths=lengths, num_threads=num_threads)[0]


def _run_partition(sequences: Iterable[Any], *, layer: IndyGRU, last: bool, num_threads: int) -> list[Array]:
    like = "the layer", layer.dtype
    parts = [
        check.array(f"x, sequence {i} of its partition", part, ("T", layer.input_size), *like)
        for i, part in enumerate(sequences)
    ]
    if not parts:
        return []
    offsets = np.cumsum([0, *map(len, parts)])
    y, h_n = layer.ragged(np.concatenate(parts), offsets, num_threads=num_threads)[:2]
    return list(h_n.swapaxes(0, 1)) if last else np.split(y, offsets[1:-1])
