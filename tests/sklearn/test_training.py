"""The network of the estimators and its training: pooling, losses, gradients, Adam, epochs."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("scipy", reason="scipy, which comes with the extra sklearn, is not installed")

from indygru_cpu import IndyGRU
from indygru_cpu.sklearn._network import Network, cross_entropy, squared_error
from indygru_cpu.sklearn._pooling import Pooling
from indygru_cpu.sklearn._sequences import RaggedBatch
from indygru_cpu.sklearn._training import Adam, Examples, TrainingConfig, train_epochs

LENGTHS = (7, 1, 9, 3)
POOLINGS = ["mean", "last", "max", ("last", "max", "mean")]


def training_case(names, seed=0, **options):
    """A network of two outputs, sequences of different lengths, and targets."""
    rng = np.random.default_rng(seed)
    layer = IndyGRU(3, 8, dtype=np.float64, seed=rng, **options)
    pooling = Pooling.from_names(names, 8)
    n_features = 8 * (1 + layer.bidirectional) * len(pooling.methods)
    kernel, bias = rng.uniform(-1, 1, (n_features, 2)), rng.uniform(-1, 1, 2)
    network = Network(layer, pooling, rng.uniform(-1, 1, 3), rng.uniform(0.5, 2, 3), kernel, bias)
    data = RaggedBatch(rng.standard_normal((sum(LENGTHS), 3)), np.cumsum([0, *LENGTHS]))
    targets = rng.dirichlet([1, 1], len(LENGTHS))
    return network, Examples(data, targets, rng.uniform(0.5, 2, len(LENGTHS))), rng


def split_sequences(data):
    return [data.values[a:b] for a, b in zip(data.offsets[:-1], data.offsets[1:], strict=True)]


@pytest.mark.parametrize("pooling", POOLINGS, ids=str)
def test_outputs_of_a_batch_equal_those_of_each_sequence(pooling):
    network, (data, _, _), _ = training_case(pooling, bidirectional=True)
    poolings = {
        "mean": lambda y: y.mean(axis=0),
        "max": lambda y: y.max(axis=0),
        "last": lambda y: np.concatenate([y[-1, :8], y[0, 8:]]),
    }
    for x, outputs in zip(split_sequences(data), network.outputs(data), strict=True):
        y, h_n = network.layer((x - network.mean) / network.scale)
        np.testing.assert_array_equal(poolings["last"](y), h_n.ravel())
        names = [pooling] if isinstance(pooling, str) else pooling
        expected = np.concatenate([poolings[name](y) for name in names]) @ network.kernel + network.bias
        np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("loss", [cross_entropy, squared_error], ids=lambda loss: loss.__name__)
@pytest.mark.parametrize("pooling", POOLINGS, ids=str)
def test_gradients_equal_finite_differences(pooling, loss):
    network, examples, rng = training_case(pooling, bidirectional=True, num_layers=2)
    feature_scale = rng.uniform(0.5, 2, (len(LENGTHS), len(network.kernel)))
    _, gradients = network.loss_and_gradients(*examples, loss, feature_scale)
    for name, array in network.parameters.items():
        direction, before, step, values = rng.standard_normal(array.shape), array.copy(), 1e-6, []
        for sign in (1, -1):
            array[...] = before + sign * step * direction
            values.append(network.loss_and_gradients(*examples, loss, feature_scale)[0])
        array[...] = before
        slope = (values[0] - values[1]) / (2 * step)
        np.testing.assert_allclose(np.vdot(gradients[name], direction), slope, rtol=1e-6, atol=1e-8, err_msg=name)


def test_equal_maxima_share_the_gradient():
    y = RaggedBatch(np.array([[0.3, -2.0], [0.7, -3.0], [0.7, -2.0], [0.1, 0.2]]), np.array([0, 3, 4]))
    pooling = Pooling.from_names("max", 2)
    np.testing.assert_array_equal(pooling.pool(y), [[0.7, -2.0], [0.1, 0.2]])
    expected = [[0, 4], [3, 0], [3, 4], [5, 7]]
    np.testing.assert_array_equal(pooling.gradient(np.array([[6.0, 8.0], [5.0, 7.0]]), y), expected)


def test_losses_equal_their_formulas(dtype):
    rng = np.random.default_rng(1)
    outputs, targets = rng.standard_normal((7, 3)).astype(dtype), rng.dirichlet([1, 1, 1], 7).astype(dtype)
    weights = rng.uniform(0.5, 2, 7).astype(dtype)
    p = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)
    value, gradient = cross_entropy(outputs, targets, weights)
    assert value == pytest.approx(-(weights[:, None] * targets * np.log(p)).sum() / 7, rel=1e-6)
    assert gradient.dtype == dtype
    value, gradient = squared_error(outputs, targets, weights)
    assert value == pytest.approx((weights[:, None] * (outputs - targets) ** 2).mean() / 2, rel=1e-6)
    assert gradient.dtype == dtype
    assert cross_entropy(np.array([[1e4, 0.0]]), np.array([[0.0, 1.0]]), np.ones(1))[0] == 1e4


def test_adam_equals_the_algorithm_of_the_paper():
    rng = np.random.default_rng(2)
    theta, gradients = rng.standard_normal(5), rng.standard_normal((9, 5))
    parameters = {"w": theta.copy()}
    adam, m, v = Adam(parameters), 0, 0
    for t, g in enumerate(gradients, 1):
        adam.step({"w": g}, 0.1 / t)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        theta = theta - 0.1 / t * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    np.testing.assert_allclose(parameters["w"], theta, rtol=1e-12)


def test_select_copies_sequences_in_any_order():
    _, (data, _, _), _ = training_case("mean")
    selected, rows = data.select(np.array([2, 0, 2])), split_sequences(data)
    np.testing.assert_array_equal(selected.values, np.concatenate([rows[2], rows[0], rows[2]]))
    np.testing.assert_array_equal(selected.lengths, [9, 7, 9])


@pytest.mark.parametrize("n_batches", [1, 2])
def test_loss_of_an_epoch_is_the_mean_plus_the_penalty(n_batches):
    """With a learning rate too small to change any weight."""
    network, examples, rng = training_case("mean")
    config = TrainingConfig(squared_error, 0.3, 0.0, 0.0, 4 // n_batches, 1e-300, 1)
    (epoch_loss,) = train_epochs(network, examples, config, rng)
    weights = [array for name, array in network.parameters.items() if "bias" not in name]
    assert len(weights) == 3
    loss, _ = network.loss_and_gradients(*examples, squared_error)
    assert epoch_loss == pytest.approx(loss + 0.15 * sum((array**2).sum() for array in weights), rel=1e-12)


def test_training_of_float32_gives_float32():
    rng = np.random.default_rng(3)
    layer = IndyGRU(3, 5, num_layers=2, dropout=0.2, seed=rng)
    kernel = rng.standard_normal((15, 2), np.float32)
    network = Network(
        layer, Pooling.from_names(("mean", "last", "max"), 5), None, None, kernel, np.zeros(2, np.float32)
    )
    data = RaggedBatch(rng.standard_normal((sum(LENGTHS), 3), np.float32), np.cumsum([0, *LENGTHS]))
    examples = Examples(data, rng.standard_normal((4, 2), np.float32), np.ones(4, np.float32))
    config = TrainingConfig(squared_error, 1e-3, 0.2, 0.1, 3, 0.01, 2)
    before = kernel.copy()
    assert len(list(train_epochs(network, examples, config, rng))) == 2
    assert (kernel != before).all()
    assert network.outputs(data).dtype == np.float32
    _, gradients = network.loss_and_gradients(*examples, squared_error)
    assert {array.dtype for array in gradients.values()} == {np.dtype(np.float32)}
