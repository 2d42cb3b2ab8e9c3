"""What tests of streams share: inputs, streams in the middle of a sequence, and the results to expect."""

from __future__ import annotations

import sys
import tracemalloc

import helpers
import numpy as np
import oracles

from indygru_cpu import stream as stream_module

WEIGHTS = ("kernel", "recurrent_kernel", "bias")


def sized_layer(n_inputs, n_units, dtype=np.float32, **options):
    return oracles.make_layer(dtype, (n_inputs, n_units), **options)


def random_array(shape, dtype, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def initial_state(layer, n_batch):
    return random_array((layer.num_layers, n_batch, layer.hidden_size), layer.dtype, seed=1)


def started_stream(layer, n_batch, **options):
    """A stream whose state is not zeros."""
    stream = layer.stream(n_batch, **options)
    stream.state = initial_state(layer, n_batch)
    return stream


def push_steps(stream, x):
    """y and the state of a stream after pushes of the steps of x."""
    return {"y": np.stack([stream.push(x_t).copy() for x_t in x]), "h_n": stream.state}


def push_chunk(stream, x):
    """y and the state of a stream after one chunk x."""
    return {"y": stream.push_many(x), "h_n": stream.state}


def run_whole_sequence(layer, x, **options):
    """The layer's results for x (T, B, D), for any `batch_first`."""

    def time_major(array):
        return array.swapaxes(0, 1) if layer.batch_first else array

    y, h_n = layer(time_major(x), initial_state(layer, x.shape[1]), **options)
    return {"y": time_major(y), "h_n": h_n}


def results_by_reference(layer, x, h0=None):
    """The reference's results for x, in float64."""
    y, last, lengths = x, [], np.full(x.shape[1], len(x))
    for k, h in enumerate(initial_state(layer, x.shape[1]) if h0 is None else h0):
        zeros = np.zeros(3 * layer.hidden_size)
        weights = [layer.parameters.get(f"{name}_l{k}", zeros) for name in WEIGHTS]
        y, h_n = oracles.Direction(weights, layer.activation, lengths, groups=layer.groups).forward(y, h)
        last.append(h_n)
    return {"y": y, "h_n": np.stack(last)}


def assert_matches_layer(results, layer, x):
    """The results are close to the reference, and have the bits of the layer, which must be reproducible."""
    assert layer.reproducible
    helpers.assert_close(results, results_by_reference(layer, x), layer.dtype)
    helpers.assert_same_bits(results, run_whole_sequence(layer, x, num_threads=1))


def allocates_nothing(push):
    """Whether calls of a function allocate neither objects nor memory.

    The best of ten measurements counts, because threads of other tests may allocate meanwhile."""

    def allocated():
        """New blocks, new bytes, and the peak of bytes."""
        before = sys.getallocatedblocks()
        push()
        blocks = sys.getallocatedblocks() - before
        tracemalloc.start()
        try:
            push()
            return blocks, *tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    push()
    return any(blocks < 10 and now < 200 and peak < 900 for blocks, now, peak in (allocated() for _ in range(10)))


class InterruptError(Exception):
    """Raised in place of KeyboardInterrupt."""


def runs_at(n, action, call):
    """Run the call, and an action before the n-th instruction of `stream.py`; whether it was run."""
    remaining = n

    def trace(frame, event, _):
        nonlocal remaining
        if frame.f_code.co_filename != stream_module.__file__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            remaining -= 1
            if remaining == -1:
                action()
        return trace

    before = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # required by Python 3.12 for events of instructions
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return remaining < 0


def is_interrupted_at(n, call):
    """Run the call, with an exception before the n-th instruction of `stream.py`; whether it was raised."""

    def interrupt():
        raise InterruptError

    try:
        runs_at(n, interrupt, call)
    except InterruptError:
        return True
    return False
