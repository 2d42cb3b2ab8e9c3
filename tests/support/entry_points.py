"""Every entry point as a call without arguments, small and on one thread, for scripts about memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from indygru_cpu import IndyGRU, IndyGRUCell, dynamic_rnn, functional

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
    cell.build((B, D))
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
        "push_many": lambda: stream.push_many(x),
        "refresh": stream.refresh,
        "reset": stream.reset,
        "state": lambda: setattr(stream, "state", stream.state),
        "cell": lambda: cell(x[0], h0[0]),
        "dynamic_rnn": lambda: dynamic_rnn(cell, x, dtype=np.float32),
    }
    if folder is not None:
        path = Path(folder, "layer.npz")
        calls |= {"save": lambda: layer.save(path), "load": lambda: IndyGRU.load(path)}
        layer.save(path)
    return calls, [x, h0, *layer.parameters.values(), *both.parameters.values()]
