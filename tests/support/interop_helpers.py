"""Shared by the tests of the converters: random layers and calls, comparisons, and ONNX runtimes."""

from __future__ import annotations

import importlib.util

import helpers
import numpy as np
import pytest

from indygru_cpu import IndyGRU

#: T, B, D, N; D and N are even, so that they can be split into groups.
T, B, D, N = 9, 7, 6, 10
OPTIONS = ("input_size", "hidden_size", "num_layers", "bias", "bidirectional", "activation", "dtype", "groups")
STACKS = [(1, False), (1, True), (3, False), (2, True)]  # num_layers, bidirectional


def require_packages(*packages):
    """Skip the test unless all packages are installed, without importing them."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


def random_layer(seed=0, **options):
    """A layer with random values in every parameter, of float64 by default."""
    rng = np.random.default_rng([seed, 77])
    layer = IndyGRU(D, N, **{"dtype": np.float64, **options}, seed=rng)
    for array in layer.parameters.values():
        array[...] = rng.uniform(-0.9, 0.9, array.shape)
    return layer


def random_call(layer, seed=0, lengths=False):
    """Keyword arguments of a call."""
    rng = np.random.default_rng([seed, 78])
    steps_and_batch = (B, T) if layer.batch_first else (T, B)
    state_shape = (layer.num_layers * (1 + layer.bidirectional), B, N)
    call = {"x": rng.standard_normal((*steps_and_batch, D)), "h0": rng.uniform(-1, 1, state_shape)}
    call = {name: array.astype(layer.dtype) for name, array in call.items()}
    return call | ({"lengths": helpers.random_lengths(rng, T, B)} if lengths else {})


def layer_results(layer, call):
    return dict(zip(("y", "h_n"), layer(**call), strict=True))


def assert_same_layer(actual, expected, but=()):
    """Assert equal configurations, apart from the options in `but`, and equal bits of parameters in separate memory."""
    for name in OPTIONS:
        if name not in but:
            assert getattr(actual, name) == getattr(expected, name), name
    helpers.assert_same_bits(dict(actual.parameters), dict(expected.parameters))
    for name, array in actual.parameters.items():
        assert not np.shares_memory(array, expected.parameters[name])


def expanded_kernel(kernel, groups):
    """Expand a grouped kernel by loops: group g has inputs g*D/G..(g+1)*D/G and units g*N/G..(g+1)*N/G."""
    d, n = kernel.shape[0], kernel.shape[1] // (3 * groups)
    full = np.zeros((groups * d, 3, groups * n), kernel.dtype)
    for group in range(groups):
        units = slice(group * n, (group + 1) * n)
        full[group * d : (group + 1) * d, :, units] = kernel.reshape(d, 3, groups * n)[:, :, units]
    return full.reshape(groups * d, -1)


def without_groups(layer):
    """The equivalent layer of one group, as a round trip through a dense format returns it."""
    options = {name: getattr(layer, name) for name in OPTIONS}
    plain = IndyGRU(**{**options, "groups": 1})
    plain.load_state_dict({
        name: expanded_kernel(array, layer.groups) if name.startswith("kernel") else array
        for name, array in layer.parameters.items()
    })  # fmt: skip
    return plain


def run_onnx_evaluator(model, call, names=("y", "h_n")):
    """Outputs of a model by the reference evaluator of onnx."""
    from onnx.reference import ReferenceEvaluator

    return dict(zip(names, ReferenceEvaluator(model).run(list(names), _onnx_inputs(call)), strict=True))


def run_onnxruntime(model, call, names=("y", "h_n")):
    """Outputs of a model by onnxruntime on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(list(names), _onnx_inputs(call)), strict=True))


def _onnx_inputs(call):
    return call | ({"lengths": call["lengths"].astype(np.int32)} if "lengths" in call else {})
