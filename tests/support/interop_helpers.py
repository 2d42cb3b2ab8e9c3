"""What the tests of the converters share: layers with nothing that is 0 or 1, calls of them, comparisons."""

from __future__ import annotations

import helpers
import numpy as np

from indygru_cpu import IndyGRU

#: T, B, D, N; D and N are even, for groups.
T, B, D, N = 9, 7, 6, 10
OPTIONS = ("input_size", "hidden_size", "num_layers", "bias", "bidirectional", "activation", "dtype", "groups")
STACKS = [(1, False), (1, True), (3, False), (2, True)]  # num_layers, bidirectional


def random_layer(seed=0, **options):
    """A layer whose every parameter is drawn, float64 unless told otherwise."""
    rng = np.random.default_rng([seed, 77])
    layer = IndyGRU(D, N, **{"dtype": np.float64, **options}, seed=rng)
    for array in layer.parameters.values():
        array[...] = rng.uniform(-0.9, 0.9, array.shape)
    return layer


def random_call(layer, seed=0, lengths=False):
    """Arguments of a call, as keywords."""
    rng = np.random.default_rng([seed, 78])
    steps = (B, T) if layer.batch_first else (T, B)
    states = (layer.num_layers * (1 + layer.bidirectional), B, N)
    call = {"x": rng.standard_normal((*steps, D)), "h0": rng.uniform(-1, 1, states)}
    call = {name: array.astype(layer.dtype) for name, array in call.items()}
    return call | ({"lengths": helpers.random_lengths(rng, T, B)} if lengths else {})


def results(layer, call):
    return dict(zip(("y", "h_n"), layer(**call), strict=True))


def assert_same_layer(actual, expected, but=()):
    """The same configuration, apart from the options in `but`, and bits of parameters, in memory of their own."""
    for name in OPTIONS:
        if name not in but:
            assert getattr(actual, name) == getattr(expected, name), name
    helpers.assert_same_bits(dict(actual.parameters), dict(expected.parameters))
    for name, array in actual.parameters.items():
        assert not np.shares_memory(array, expected.parameters[name])


def dense_kernel(kernel, groups):
    """Blocks as one matrix, the slow way: group g has inputs g*D/G..(g+1)*D/G and units g*N/G..(g+1)*N/G."""
    d, n = kernel.shape[0], kernel.shape[1] // (3 * groups)
    full = np.zeros((groups * d, 3, groups * n), kernel.dtype)
    for group in range(groups):
        units = slice(group * n, (group + 1) * n)
        full[group * d : (group + 1) * d, :, units] = kernel.reshape(d, 3, groups * n)[:, :, units]
    return full.reshape(groups * d, -1)


def without_groups(layer):
    """The same layer with one group: what dense formats bring back."""
    options = {name: getattr(layer, name) for name in OPTIONS}
    plain = IndyGRU(**{**options, "groups": 1})
    plain.load_state_dict({
        name: dense_kernel(array, layer.groups) if name.startswith("kernel") else array
        for name, array in layer.parameters.items()
    })  # fmt: skip
    return plain


def by_onnx(model, call, names=("y", "h_n")):
    """What the evaluator of onnx says."""
    from onnx.reference import ReferenceEvaluator

    return dict(zip(names, ReferenceEvaluator(model).run(list(names), _feed(call)), strict=True))


def by_onnxruntime(model, call, names=("y", "h_n")):
    """What onnxruntime says, on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(list(names), _feed(call)), strict=True))


def _feed(call):
    return call | ({"lengths": call["lengths"].astype(np.int32)} if "lengths" in call else {})
