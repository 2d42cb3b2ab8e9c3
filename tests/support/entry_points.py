"""Every entry point as a call without arguments, small and on one thread, for scripts about memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from indygru_cpu import IndyGRU, IndyGRUCell, StreamPool, dynamic_rnn, functional

T, B, D, N = 5, 3, 4, 7


def make_calls(folder=None):
    """Calls by name, and the arrays that they must not change."""
    rng = np.random.default_rng(0)
    x, h0 = (rng.standard_normal(shape, np.float32) for shape in ((T, B, D), (2, B, N)))
    layer = IndyGRU(D, N, num_layers=2, seed=1, num_threads=1)
    both = IndyGRU(D, N, bidirectional=True, seed=2, num_threads=1)
    weights = tuple(layer.parameters.values())[:3]
    y, _, tape = both.forward(x)
    _, _, recomputing = layer.forward(x, recompute=True)
    plain = functional.forward(x, None, *weights, tape=True)[2]
    stream, cell, saved = layer.stream(B), IndyGRUCell(N), layer.state_dict()
    int8_stream, bfloat16_stream = layer.stream(B, weights="int8"), layer.stream(B, weights="bfloat16")
    pool, growing = StreamPool(layer, 2), StreamPool(layer, 1)
    cell.build((B, D))

    def grow():
        """Grow and shrink a pool. A client that an error has left behind is removed first."""
        for client in growing.clients:
            growing.remove(client)
        for client in range(3):
            growing.set_state(client, growing_state)

    growing_state = np.ones((2, N), np.float32)
    calls = {
        "call": lambda: layer(x, h0, lengths=[5, 0, 2]),
        "last": lambda: layer.last(np.flip(x, 0)),
        "ragged": lambda: layer.ragged(x.reshape(-1, D), [0, 4, 4, 14]),
        "forward": lambda: both.forward(x, h0, lengths=[5, 0, 2]),
        "backward": lambda: both.backward(tape, y, h0),
        "recomputing backward": lambda: layer.backward(recomputing, dh_n=h0),
        "functional.forward": lambda: functional.forward(x, h0[0], *weights, tape=True),
        "functional.backward": lambda: functional.backward(plain, dh_n=h0[0]),
        "functional.step": lambda: functional.step(x[0], h0[0], *weights),
        "IndyGRU": lambda: IndyGRU(D, N, seed=1),
        "load_state_dict": lambda: layer.load_state_dict(saved),
        "stream": lambda: layer.stream(B),
        "push": lambda: stream.push(x[0]),
        "push of a list": lambda: stream.push(np.asfortranarray(x[0])),
        "push of rows": lambda: stream.push(x[0, :2], [2, 0]),
        "push of a mask of rows": lambda: stream.push(x[0, :2], np.array([True, False, True])),
        "push_many": lambda: stream.push_many(x),
        "int8 stream": lambda: layer.stream(B, weights="int8"),
        "int8 push_many": lambda: int8_stream.push_many(x),
        "bfloat16 refresh": bfloat16_stream.refresh,
        "pool": lambda: pool.push({0: x[0, 0], 1: x[0, 1]}),
        "growing pool": grow,
        "refresh": stream.refresh,
        "reset": stream.reset,
        "reset of rows": lambda: stream.reset([2, 0]),
        "state": lambda: setattr(stream, "state", stream.state),
        "cell": lambda: cell(x[0], h0[0]),
        "dynamic_rnn": lambda: dynamic_rnn(cell, x, dtype=np.float32),
    }
    if folder is not None:
        path = Path(folder, "layer.npz")
        calls |= {"save": lambda: layer.save(path), "load": lambda: IndyGRU.load(path)}
        layer.save(path)
    return calls, [x, h0, *layer.parameters.values(), *both.parameters.values()]
