"""Initialisers: distributions, seeds, dtypes, shapes, names, errors."""

from __future__ import annotations

import math

import numpy as np
import pytest

from indygru_cpu import initializers, reset_default_scope

RANDOM = [
    "random_uniform",
    "random_normal",
    "truncated_normal",
    "glorot_uniform",
    "glorot_normal",
    "he_uniform",
    "he_normal",
    "lecun_uniform",
    "lecun_normal",
    "orthogonal",
]
FIXED = ["zeros", "ones", "constant", "identity"]
SHAPE = (60, 330)


@pytest.fixture(autouse=True)
def _fresh_default_scope():
    reset_default_scope(seed=11)


def make(name, **kwargs):
    return getattr(initializers, name)(**kwargs)


# --- all of them -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", RANDOM + FIXED)
def test_shape_and_dtype(name, dtype):
    for values in (make(name, seed=3)((33, 7), dtype), make(name, seed=3, dtype=dtype)((33, 7))):
        assert (values.shape, values.dtype) == ((33, 7), np.dtype(dtype))
        assert values.flags.writeable
    assert make(name)((33, 7)).dtype == "float32"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", RANDOM)
def test_seeds(name, dtype):
    def draw(seed):
        return make(name, seed=seed)((33, 7), dtype)

    np.testing.assert_array_equal(draw(3), draw(3))
    assert not np.array_equal(draw(3), draw(4))
    assert not np.array_equal(draw(None), draw(None))
    generator = np.random.default_rng(3)
    np.testing.assert_array_equal(draw(generator), draw(3))
    assert not np.array_equal(draw(generator), draw(3))  # it has gone on
    unseeded = draw(None)
    reset_default_scope(seed=11)
    draw(None), draw(None)
    np.testing.assert_array_equal(draw(None), unseeded)


@pytest.mark.parametrize("name", RANDOM + FIXED)
def test_names_and_classes(name):
    cls = getattr(initializers, name)
    for identifier in (name, cls.__name__, cls, cls()):
        found = initializers.get(identifier)
        assert type(found) is cls
    assert cls.__name__.lower() == name.replace("_", "")


@pytest.mark.parametrize("name", RANDOM + FIXED)
def test_empty_shapes(name):
    assert make(name, seed=3)((0, 7)).shape == (0, 7)
    assert make(name, seed=3)((7, 0)).shape == (7, 0)


@pytest.mark.parametrize("name", sorted({*RANDOM, *FIXED} - {"orthogonal", "identity"}))
@pytest.mark.parametrize("shape", [(), (7,), (3, 5, 7), [3, 5]])
def test_shapes_of_any_rank(name, shape):
    assert make(name, seed=3)(shape).shape == tuple(shape)


@pytest.mark.parametrize("dtype", ["int32", "foo", np.float16])
def test_other_dtypes(dtype):
    with pytest.raises(TypeError, match="dtype: expected float32 or float64"):
        initializers.Ones(dtype=dtype)
    with pytest.raises(TypeError, match="dtype: expected float32 or float64"):
        initializers.Ones()((3, 5), dtype)


# --- values ------------------------------------------------------------------------------------------------


def test_fixed_values():
    assert not initializers.Zeros()(SHAPE).any()
    assert (initializers.Ones()(SHAPE) == 1).all()
    assert (initializers.Constant(-2.5)(SHAPE) == -2.5).all()
    pretrained = np.random.default_rng(3).normal(size=(5, 7)).astype("f4")
    np.testing.assert_array_equal(initializers.Constant(pretrained)((5, 7)), pretrained)
    with pytest.raises(ValueError, match=r"\(5,7\)"):
        initializers.Constant(pretrained)((5, 8))


def test_identity():
    np.testing.assert_array_equal(initializers.Identity(3)((5, 7)), 3 * np.eye(5, 7))
    with pytest.raises(ValueError, match="only be used for 2D matrices"):
        initializers.Identity()((7,))


@pytest.mark.parametrize("shape", [(7, 5), (5, 7), (3, 4, 9), (9, 4, 3)])
def test_orthogonal(shape):
    values = initializers.Orthogonal(2.0, seed=3)(shape, "float64").reshape(-1, shape[-1])
    gram = values.T @ values if len(values) >= shape[-1] else values @ values.T
    np.testing.assert_allclose(gram, 4 * np.eye(len(gram)), atol=1e-12)
    with pytest.raises(ValueError, match="at least two-dimensional"):
        initializers.Orthogonal()((7,))


def test_orthogonal_has_no_preferred_sign():
    values = np.stack([initializers.Orthogonal(seed=seed)((3, 3), "float64") for seed in range(400)])
    assert np.abs(values.mean(axis=0)).max() < 5 * math.sqrt(1 / 3 / 400)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_uniform(dtype):
    values = initializers.RandomUniform(-0.5, 2, seed=3)(SHAPE, dtype)
    assert (values >= -0.5).all()
    assert (values < 2).all()
    # Against the distribution function of a uniform distribution (Kolmogorov and Smirnov, at 1 in 10^4).
    steps = (np.arange(values.size) + 0.5) / values.size
    assert np.abs(np.sort(values.ravel().astype(float)) - (2.5 * steps - 0.5)).max() < 2.5 * 2.2 / math.sqrt(
        values.size
    )


def normal_distribution(x):
    return np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in x])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cut", [False, True])
def test_normal_and_truncated_normal(cut, dtype):
    cls = initializers.TruncatedNormal if cut else initializers.RandomNormal
    values = (cls(3, 0.5, seed=3)(SHAPE, dtype).astype(float).ravel() - 3) / 0.5
    expected = normal_distribution(np.sort(values))
    if cut:
        assert np.abs(values).max() <= 2 + 1e-6
        low = normal_distribution([-2])[0]
        expected = (expected - low) / (1 - 2 * low)
    else:
        assert np.abs(values).max() > 3
    steps = (np.arange(values.size) + 0.5) / values.size
    assert np.abs(expected - steps).max() < 2.2 / math.sqrt(values.size)


@pytest.mark.parametrize(("name", "scale", "fan"), [
    ("glorot", 1, (60 + 330) / 2), ("he", 2, 60), ("lecun", 1, 60),
])  # fmt: skip
@pytest.mark.parametrize("distribution", ["uniform", "normal"])
def test_variance_scaling(name, scale, fan, distribution):
    values = make(f"{name}_{distribution}", seed=3)(SHAPE, "float64")
    variance = scale / fan
    assert abs(values.mean()) < 5 * math.sqrt(variance / values.size)
    assert abs(values.var() / variance - 1) < 5 * math.sqrt(2 / values.size)
    limit = math.sqrt(3 * variance) if distribution == "uniform" else 2 * math.sqrt(variance) / 0.8796256610342398
    assert 0.99 * limit < np.abs(values).max() <= limit


@pytest.mark.parametrize(("shape", "fan_in", "fan_out"), [((), 1, 1), ((90,), 90, 90), ((3, 5, 8, 40), 120, 600)])
def test_fans_of_other_ranks(shape, fan_in, fan_out):
    def limit(name):
        values = [make(name, seed=seed)(shape, "float64") for seed in range(40)]
        return np.abs(values).max()

    assert limit("glorot_uniform") == pytest.approx(math.sqrt(6 / (fan_in + fan_out)), rel=0.05)
    assert limit("lecun_uniform") == pytest.approx(math.sqrt(3 / fan_in), rel=0.05)


def test_by_name_the_plain_ones_are_as_narrow_as_in_keras():
    assert np.abs(initializers.get("random_uniform")(SHAPE)).max() <= 0.05
    for name, stddev in (("random_normal", 0.05), ("truncated_normal", 0.05 * 0.8796)):
        assert initializers.get(name)(SHAPE).std() == pytest.approx(stddev, rel=0.03)
    assert initializers.get(initializers.RandomUniform)(SHAPE).max() > 0.9


# --- identifiers -------------------------------------------------------------------------------------------


def test_callables_stay_as_they_are():
    def function(shape, dtype):
        return np.full(shape, 0.5, dtype)

    assert initializers.get(function) is function


@pytest.mark.parametrize("identifier", [3, 0.5, None, np.full(3, 0.5), (), dict])
def test_what_is_no_initializer(identifier):
    with pytest.raises(ValueError, match="Could not interpret initializer identifier: "):
        initializers.get(identifier)


@pytest.mark.parametrize("name", ["foo", "", "Initializer", "_VarianceScaling", "get", "np"])
def test_unknown_names(name):
    with pytest.raises(ValueError, match=f"Unknown initializer: {name}"):
        initializers.get(name)
