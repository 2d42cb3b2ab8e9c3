"""Initialisers: distributions, seeds, dtypes, shapes, names, errors."""

from __future__ import annotations

import math

import numpy as np
import pytest

from indygru_cpu import IndyGRU, IndyGRUCell, initializers, reset_default_scope

RANDOM_NAMES = [
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
    "variance_scaling",
    "uniform_unit_scaling",
    "chrono",
]
FIXED_NAMES = ["zeros", "ones", "constant", "identity"]
#: Arguments without a default.
REQUIRED = {"chrono": {"max_steps": 400}}
MATRIX_SHAPE = (60, 330)


@pytest.fixture(autouse=True)
def _fresh_default_scope():
    reset_default_scope(seed=11)


def make_initializer(name, **kwargs):
    return getattr(initializers, name)(**REQUIRED.get(name, {}), **kwargs)


# --- all of them -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", RANDOM_NAMES + FIXED_NAMES)
def test_initializer_result_has_the_shape_and_dtype(name, dtype):
    for values in (
        make_initializer(name, seed=3)((33, 7), dtype),
        make_initializer(name, seed=3, dtype=dtype)((33, 7)),
    ):
        assert (values.shape, values.dtype) == ((33, 7), np.dtype(dtype))
        assert values.flags.writeable
    assert make_initializer(name)((33, 7)).dtype == "float32"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", RANDOM_NAMES)
def test_initializer_seed_determines_the_values(name, dtype):
    def draw(seed):
        return make_initializer(name, seed=seed)((33, 7), dtype)

    np.testing.assert_array_equal(draw(3), draw(3))
    assert not np.array_equal(draw(3), draw(4))
    assert not np.array_equal(draw(None), draw(None))
    generator = np.random.default_rng(3)
    np.testing.assert_array_equal(draw(generator), draw(3))
    assert not np.array_equal(draw(generator), draw(3))  # the generator has advanced
    unseeded = draw(None)
    reset_default_scope(seed=11)
    draw(None), draw(None)
    np.testing.assert_array_equal(draw(None), unseeded)


@pytest.mark.parametrize("name", RANDOM_NAMES + FIXED_NAMES)
def test_get_name_or_class_returns_the_class(name):
    cls = getattr(initializers, name)
    config = REQUIRED.get(name, {})
    by_name = [{"class_name": text, "config": config} for text in (name, cls.__name__)]
    for identifier in (cls(**config), *by_name, *([] if config else [name, cls.__name__, cls])):
        assert type(initializers.get(identifier)) is cls
    assert cls.__name__.lower() == name.replace("_", "")


@pytest.mark.parametrize("name", RANDOM_NAMES + FIXED_NAMES)
def test_initializer_empty_shape_is_accepted(name):
    assert make_initializer(name, seed=3)((0, 7)).shape == (0, 7)
    assert make_initializer(name, seed=3)((7, 0)).shape == (7, 0)


@pytest.mark.parametrize("name", sorted({*RANDOM_NAMES, *FIXED_NAMES} - {"orthogonal", "identity"}))
@pytest.mark.parametrize("shape", [(), (7,), (3, 5, 7), [3, 5]])
def test_initializer_any_rank_is_accepted(name, shape):
    assert make_initializer(name, seed=3)(shape).shape == tuple(shape)


@pytest.mark.parametrize("dtype", ["int32", "foo", np.float16])
def test_initializer_unsupported_dtype_raises_type_error(dtype):
    with pytest.raises(TypeError, match="dtype: expected float32 or float64"):
        initializers.Ones(dtype=dtype)
    with pytest.raises(TypeError, match="dtype: expected float32 or float64"):
        initializers.Ones()((3, 5), dtype)


# --- values ------------------------------------------------------------------------------------------------


def test_zeros_ones_constant_have_fixed_values():
    assert not initializers.Zeros()(MATRIX_SHAPE).any()
    assert (initializers.Ones()(MATRIX_SHAPE) == 1).all()
    assert (initializers.Constant(-2.5)(MATRIX_SHAPE) == -2.5).all()
    pretrained = np.random.default_rng(3).normal(size=(5, 7)).astype("f4")
    np.testing.assert_array_equal(initializers.Constant(pretrained)((5, 7)), pretrained)


@pytest.mark.parametrize(("value", "expected"), [
    ([1, 2, 3], [[1, 2, 3], [3, 3, 3]]),
    ((0, 1, 2, 3, 4, 5), [[0, 1, 2], [3, 4, 5]]),
    ([[1, 2], [3, 4], [5, 6]], [[1, 2, 3], [4, 5, 6]]),
    (np.arange(6.0).reshape(2, 3).T, [[0, 3, 1], [4, 2, 5]]),
    ([True, False], [[1, 0, 0], [0, 0, 0]]),
    (np.array(5.0), [[5, 5, 5], [5, 5, 5]]),
    ([], [[0, 0, 0], [0, 0, 0]]),
    (2**70, [[2**70] * 3] * 2),
])  # fmt: skip
def test_constant_list_fills_in_row_major_order_and_repeats_the_last_value(value, expected):
    values = initializers.constant(value)((2, 3))
    np.testing.assert_array_equal(values, np.array(expected, "f4"))
    assert values.dtype == "float32"


def test_constant_too_many_numbers_raise_value_error():
    with pytest.raises(ValueError, match=r"value: .*at most 6 for shape \(2, 3\), but received 7"):
        initializers.constant(list(range(7)))((2, 3))
    with pytest.raises(ValueError, match=r"at most 1 .*received 3"):
        initializers.constant([1, 2, 3])(())
    assert initializers.constant([1, 2, 3])((0,)).shape == (0,)


def test_constant_verify_shape_other_shape_raises_type_error():
    values = [[1, 2, 3], [4, 5, 6]]
    np.testing.assert_array_equal(initializers.constant(values, "float64", True)((2, 3)), values)
    with pytest.raises(TypeError, match=r"value: expected an array of shape \(2, 3\), got \(3,\)"):
        initializers.constant([1, 2, 3], verify_shape=True)((2, 3))


@pytest.mark.parametrize("value", [None, {1}, range(3), "a", b"a", 1j, [None], ["a"], np.array(["a"]), [1j]])
def test_constant_not_a_number_raises_type_error(value):
    with pytest.raises(TypeError, match="value: expected a number, or a list or array of numbers"):
        initializers.constant(value)


def test_constant_lists_of_unequal_lengths_raise_value_error():
    with pytest.raises(ValueError, match="value: expected a number, or a list or array of numbers"):
        initializers.constant([1, [2]])


def test_identity_has_gain_on_the_diagonal():
    np.testing.assert_array_equal(initializers.Identity(3)((5, 7)), 3 * np.eye(5, 7))
    with pytest.raises(ValueError, match="only be used for 2D matrices"):
        initializers.Identity()((7,))


@pytest.mark.parametrize("shape", [(7, 5), (5, 7), (3, 4, 9), (9, 4, 3)])
def test_orthogonal_rows_or_columns_are_orthonormal(shape):
    values = initializers.Orthogonal(2.0, seed=3)(shape, "float64").reshape(-1, shape[-1])
    gram = values.T @ values if len(values) >= shape[-1] else values @ values.T
    np.testing.assert_allclose(gram, 4 * np.eye(len(gram)), atol=1e-12)
    with pytest.raises(ValueError, match="at least two-dimensional"):
        initializers.Orthogonal()((7,))


def test_orthogonal_has_no_preferred_sign():
    values = np.stack([initializers.Orthogonal(seed=seed)((3, 3), "float64") for seed in range(400)])
    assert np.abs(values.mean(axis=0)).max() < 5 * math.sqrt(1 / 3 / 400)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_random_uniform_has_the_distribution(dtype):
    values = initializers.RandomUniform(-0.5, 2, seed=3)(MATRIX_SHAPE, dtype)
    assert (values >= -0.5).all()
    assert (values < 2).all()
    # Kolmogorov-Smirnov test against the uniform distribution, at a significance level of 1e-4.
    steps = (np.arange(values.size) + 0.5) / values.size
    assert np.abs(np.sort(values.ravel().astype(float)) - (2.5 * steps - 0.5)).max() < 2.5 * 2.2 / math.sqrt(
        values.size
    )


def test_chrono_time_constants_have_the_distribution():
    times = np.sort(1 + np.exp(initializers.Chrono(400, seed=3)(MATRIX_SHAPE, "float64")), axis=None)
    assert times[0] >= 2
    assert times[-1] < 400
    # Kolmogorov-Smirnov test against the uniform distribution, at a significance level of 1e-4.
    steps = (np.arange(times.size) + 0.5) / times.size
    assert np.abs((times - 2) / 398 - steps).max() < 2.2 / math.sqrt(times.size)


def test_chrono_unit_without_input_forgets_in_the_time_of_its_bias():
    layer = IndyGRU(1, 3, dtype="float64", seed=0)
    for name in ("kernel_l0", "recurrent_kernel_l0"):
        layer.parameters[name][...] = 0
    layer.parameters["bias_l0"][3:6] = bias = initializers.Chrono(50, seed=3)((3,), "float64")
    y, _ = layer(np.zeros((20, 1, 1)), np.ones((1, 1, 3)))
    np.testing.assert_allclose(y[-1, 0], (1 - 1 / (1 + np.exp(bias))) ** 20, rtol=1e-12)


def test_chrono_smallest_number_of_steps_gives_zeros():
    assert not initializers.Chrono(2, seed=3)((5,)).any()


@pytest.mark.parametrize("max_steps", [None, "400", True, 4j, [400]])
def test_chrono_not_a_number_raises_type_error(max_steps):
    with pytest.raises(TypeError, match="max_steps: expected a number of steps, got"):
        initializers.Chrono(max_steps)


@pytest.mark.parametrize("max_steps", [1.9, -400, math.inf, math.nan])
def test_chrono_invalid_number_raises_value_error(max_steps):
    with pytest.raises(ValueError, match="max_steps: expected a finite number of steps, at least 2, got"):
        initializers.Chrono(max_steps)


def test_chrono_name_without_arguments_raises_type_error():
    with pytest.raises(TypeError, match="max_steps"):
        initializers.get("chrono")


def normal_distribution(x):
    return np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in x])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cut", [False, True])
def test_random_and_truncated_normal_have_the_distribution(cut, dtype):
    cls = initializers.TruncatedNormal if cut else initializers.RandomNormal
    values = (cls(3, 0.5, seed=3)(MATRIX_SHAPE, dtype).astype(float).ravel() - 3) / 0.5
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
def test_named_scaling_has_variance_and_limits(name, scale, fan, distribution):
    values = make_initializer(f"{name}_{distribution}", seed=3)(MATRIX_SHAPE, "float64")
    variance = scale / fan
    assert abs(values.mean()) < 5 * math.sqrt(variance / values.size)
    assert abs(values.var() / variance - 1) < 5 * math.sqrt(2 / values.size)
    limit = math.sqrt(3 * variance) if distribution == "uniform" else 2 * math.sqrt(variance) / 0.8796256610342398
    assert 0.99 * limit < np.abs(values).max() <= limit


@pytest.mark.parametrize(("mode", "fan"), [("fan_in", 60), ("fan_out", 330), ("fan_avg", 195)])
@pytest.mark.parametrize(("distribution", "max_deviation"), [
    ("uniform", math.sqrt(3)), ("truncated_normal", 2 / 0.8796256610342398), ("normal", 2 / 0.8796256610342398),
    ("untruncated_normal", None), ("UNIFORM", math.sqrt(3)),
])  # fmt: skip
def test_variance_scaling_mode_and_distribution_have_variance_and_limits(mode, fan, distribution, max_deviation):
    values = initializers.variance_scaling(3.0, mode, distribution, 3, "float64")(MATRIX_SHAPE) / math.sqrt(3 / fan)
    assert abs(values.mean()) < 5 / math.sqrt(values.size)
    assert abs(values.var() - 1) < 5 * math.sqrt(2 / values.size)
    if max_deviation is None:
        assert np.abs(values).max() > 3
    else:
        assert 0.99 * max_deviation < np.abs(values).max() <= max_deviation


@pytest.mark.parametrize(("arguments", "message"), [
    ((0,), "`scale` must be positive float, got 0"),
    ((-1.0,), "`scale` must be positive float"),
    ((math.nan,), "`scale` must be positive float"),
    (("a",), "`scale` must be positive float"),
    ((1, "foo"), "Invalid `mode` argument: .*fan_avg, got 'foo'"),
    ((1, "fan_in", "foo"), "Invalid `distribution` argument: .*got 'foo'"),
    ((1, "fan_in", 3), "Invalid `distribution` argument: .*got 3"),
])  # fmt: skip
def test_variance_scaling_invalid_arguments_raise_value_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        initializers.variance_scaling(*arguments)


@pytest.mark.parametrize(("shape", "inputs"), [((60, 330), 60), ((3000,), 1), ((3, 4, 500), 12), ((), 1), ((0, 3), 1)])
def test_uniform_unit_scaling_has_the_limits(shape, inputs):
    values = initializers.uniform_unit_scaling(2.0, seed=3)(shape, "float64")
    assert values.shape == shape
    limit = 2 * math.sqrt(3 / inputs)
    assert (np.abs(values) <= limit).all()
    if values.size > 1:
        assert np.abs(values).max() > 0.99 * limit


@pytest.mark.parametrize(("shape", "fan_in", "fan_out"), [((), 1, 1), ((90,), 90, 90), ((3, 5, 8, 40), 120, 600)])
def test_variance_scaling_fans_of_other_ranks_are_those_of_tensorflow(shape, fan_in, fan_out):
    def limit(name):
        values = [make_initializer(name, seed=seed)(shape, "float64") for seed in range(40)]
        return np.abs(values).max()

    assert limit("glorot_uniform") == pytest.approx(math.sqrt(6 / (fan_in + fan_out)), rel=0.05)
    assert limit("lecun_uniform") == pytest.approx(math.sqrt(3 / fan_in), rel=0.05)


def test_get_name_has_the_defaults_of_keras():
    assert np.abs(initializers.get("random_uniform")(MATRIX_SHAPE)).max() <= 0.05
    for name, stddev in (("random_normal", 0.05), ("truncated_normal", 0.05 * 0.8796)):
        assert initializers.get(name)(MATRIX_SHAPE).std() == pytest.approx(stddev, rel=0.03)
    assert initializers.get(initializers.RandomUniform)(MATRIX_SHAPE).max() > 0.9


# --- arguments -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "before"), [
    ("random_uniform", (-0.5, 0.5)), ("random_normal", (0.0, 2.0)), ("truncated_normal", (0.0, 2.0)),
    ("orthogonal", (2.0,)), ("variance_scaling", (2.0, "fan_out", "uniform")), ("uniform_unit_scaling", (2.0,)),
    ("glorot_uniform", ()), ("glorot_normal", ()), ("he_uniform", ()), ("lecun_normal", ()),
    ("chrono", (400,)),
])  # fmt: skip
def test_random_initializer_seed_and_dtype_are_last_positional_arguments(name, before):
    cls = getattr(initializers, name)
    initializer = cls(*before, 3, "float64")
    assert (initializer.seed, initializer.dtype) == (3, "float64")
    assert initializer((5, 7)).dtype == "float64"
    np.testing.assert_array_equal(initializer((5, 7)), cls(*before, seed=3, dtype="float64")((5, 7)))


@pytest.mark.parametrize(("name", "before"), [("zeros", ()), ("ones", ()), ("constant", (2,)), ("identity", (2,))])
def test_fixed_initializer_dtype_is_the_last_positional_argument(name, before):
    assert getattr(initializers, name)(*before, "float64")((5, 7)).dtype == "float64"


@pytest.mark.parametrize(("name", "config"), [
    ("zeros", {"dtype": "float32"}),
    ("ones", {"dtype": "float32"}),
    ("constant", {"value": 0.0, "dtype": "float32"}),
    ("identity", {"gain": 1.0, "dtype": "float32"}),
    ("random_uniform", {"minval": 0.0, "maxval": None, "seed": None, "dtype": "float32"}),
    ("random_normal", {"mean": 0.0, "stddev": 1.0, "seed": None, "dtype": "float32"}),
    ("truncated_normal", {"mean": 0.0, "stddev": 1.0, "seed": None, "dtype": "float32"}),
    ("orthogonal", {"gain": 1.0, "seed": None, "dtype": "float32"}),
    ("uniform_unit_scaling", {"factor": 1.0, "seed": None, "dtype": "float32"}),
    ("variance_scaling", {
        "scale": 1.0, "mode": "fan_in", "distribution": "truncated_normal", "seed": None, "dtype": "float32",
    }),
    ("glorot_uniform", {"seed": None, "dtype": "float32"}),
])  # fmt: skip
def test_get_config_equals_tensorflow(name, config):
    cls = getattr(initializers, name)
    assert cls().get_config() == config
    assert cls.from_config(config) == cls()
    changed = {**config, "dtype": "float64"}
    assert cls.from_config(changed).get_config() == changed


# --- identifiers -------------------------------------------------------------------------------------------


def test_get_callable_returns_it():
    def function(shape, dtype):
        return np.full(shape, 0.5, dtype)

    assert initializers.get(function) is function


@pytest.mark.parametrize(
    ("name", "cls", "config"),
    [
        ("uniform", "RandomUniform", {"minval": -0.05, "maxval": 0.05}),
        ("normal", "RandomNormal", {"stddev": 0.05}),
        ("zero", "Zeros", {}),
        ("one", "Ones", {}),
        ("VarianceScaling", "VarianceScaling", {}),
    ],
)
def test_get_alias_returns_the_initializer(name, cls, config):
    assert initializers.get(name) == getattr(initializers, cls)(**config)
    cell = IndyGRUCell(7, kernel_initializer=name, bias_initializer="one")
    cell.build((None, 5))
    assert (cell.named_variables["gates/bias"] == 1).all()


@pytest.mark.parametrize(("identifier", "expected"), [
    ({"class_name": "Constant", "config": {"value": 0.5}}, initializers.Constant(0.5)),
    ({"class_name": "constant", "config": {}, "more": 1}, initializers.Constant(0.0)),
    ({"class_name": "he_normal", "config": {"seed": 1}}, initializers.HeNormal(1)),
    ({"class_name": "RandomUniform", "config": {}}, initializers.RandomUniform(-0.05, 0.05)),
    ({"class_name": "uniform", "config": {"maxval": 2}}, initializers.RandomUniform(-0.05, 2)),
    ({"class_name": "VarianceScaling", "config": {"scale": 2.0, "mode": "fan_out"}},
     initializers.VarianceScaling(2.0, "fan_out")),
])  # fmt: skip
def test_get_configuration_makes_the_initializer(identifier, expected):
    assert initializers.get(identifier) == expected


@pytest.mark.parametrize(("identifier", "error", "message"), [
    ({}, ValueError, "Improper config format: .*'class_name' and 'config', got {}"),
    ({"class_name": "Constant"}, ValueError, "Improper config format"),
    ({"class_name": "Foo", "config": {}}, ValueError, "Unknown initializer: Foo"),
    ({"class_name": 3, "config": {}}, ValueError, "Unknown initializer: 3"),
    ({"class_name": ["a"], "config": {}}, ValueError, "Unknown initializer"),
    ({"class_name": "Constant", "config": {"foo": 1}}, TypeError, "foo"),
    ({"class_name": "Constant", "config": None}, TypeError, "config: expected a dict of arguments of Constant, got N"),
])  # fmt: skip
def test_get_invalid_configuration_raises(identifier, error, message):
    with pytest.raises(error, match=message):
        initializers.get(identifier)


@pytest.mark.parametrize("identifier", [3, 0.5, None, np.full(3, 0.5), (), dict])
def test_get_invalid_object_raises_value_error(identifier):
    with pytest.raises(ValueError, match="Could not interpret initializer identifier: "):
        initializers.get(identifier)


@pytest.mark.parametrize("name", ["foo", "", "Initializer", "_NamedScaling", "get", "np"])
def test_get_unknown_name_raises_value_error(name):
    with pytest.raises(ValueError, match=f"Unknown initializer: {name}"):
        initializers.get(name)
