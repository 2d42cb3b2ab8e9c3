"""Initialisers with the class names, arguments and argument order of TensorFlow 1, and the names of `tf.initializers`.

TensorFlow does not have `Chrono`. `get` lists what a cell accepts as an initialiser. Random values
come from ``numpy.random.default_rng(seed)``: they are reproducible, but differ from those of TensorFlow.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

import numpy as np

from indygru_cpu._engine import checks
from indygru_cpu._engine.messages import shortened, shown
from indygru_cpu._tf1 import checks as tf_checks
from indygru_cpu._tf1.scopes import random_generator
from indygru_cpu._typing import Array

Shape = tuple[int, ...]
InitializerType = TypeVar("InitializerType", bound="Initializer")

# Standard deviation of the standard normal distribution truncated at +-2: sqrt(1 - 4 phi(2) / (2 Phi(2) - 1)).
_TRUNCATED_STDDEV = 0.87962566103423978


class Initializer:
    """Base class of all initialisers.

    Attributes
    ----------
    seed : int, numpy.random.SeedSequence or numpy.random.Generator, optional
        With an integer every call returns the same values. With None the values depend on the seed of
        `reset_default_scope`. Initialisers without random values accept it by keyword only.
    dtype : float32 or float64
        Dtype of the values if the call does not set it.

    Examples
    --------
    >>> from indygru_cpu.initializers import RandomUniform
    >>> initializer = RandomUniform(-0.1, 0.1, 3)
    >>> values = initializer((3, 5), "float64")
    >>> values.shape, values.dtype, bool((abs(values) <= 0.1).all())
    ((3, 5), dtype('float64'), True)
    """

    seed: Any
    dtype: Any

    def __post_init__(self) -> None:
        tf_checks.dtype("dtype", self.dtype)

    def __call__(self, shape: Shape, dtype: object = None) -> Array:
        """Return a new array of initial values."""
        generator = random_generator() if self.seed is None else checks.generator(self.seed)
        values_dtype = tf_checks.dtype("dtype", self.dtype if dtype is None else dtype)
        return self._values(generator, tuple(shape), values_dtype).astype(values_dtype, copy=False)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments, as in TensorFlow.

        Examples
        --------
        >>> from indygru_cpu import initializers
        >>> initializers.orthogonal(0.5).get_config()
        {'gain': 0.5, 'seed': None, 'dtype': 'float32'}
        """
        arguments = {item.name: getattr(self, item.name) for item in fields(self) if not item.kw_only}  # type: ignore[arg-type]
        return {**arguments, "dtype": tf_checks.dtype("dtype", self.dtype).name}

    @classmethod
    def from_config(cls: type[InitializerType], config: Mapping[str, Any]) -> InitializerType:
        """Make an initialiser from the constructor's arguments."""
        try:
            return cls(**config)
        except TypeError as error:
            raise TypeError(shortened(error, 500)) from None

    def _values(self, generator: np.random.Generator, shape: Shape, dtype: np.dtype[Any]) -> Array:
        raise NotImplementedError


@dataclass(frozen=True)
class Constant(Initializer):
    """A constant `value`: a number, or a list or array whose numbers fill the result in row-major order.

    If the list has fewer numbers than the result, the last number is repeated.

    Raises
    ------
    TypeError
        `value` is not a number, or a list or array of numbers. In the call with `verify_shape`: `value` has another
        shape.
    ValueError
        Nested lists of unequal lengths. In the call: `value` has more numbers than the result.

    Examples
    --------
    >>> from indygru_cpu import initializers
    >>> initializers.constant([1, 2, 3])((2, 3))
    array([[1., 2., 3.],
           [3., 3., 3.]], dtype=float32)
    """

    value: Any = 0.0
    dtype: Any = "float32"
    verify_shape: bool = False
    seed: Any = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        _as_real_array(self.value)

    def get_config(self) -> dict[str, Any]:
        """Return value and dtype: the keys that TensorFlow returns."""
        config = super().get_config()
        del config["verify_shape"]
        return config

    def _values(self, generator: np.random.Generator, shape: Shape, dtype: np.dtype[Any]) -> Array:
        value = _as_real_array(self.value)
        if self.verify_shape and value.shape != shape:
            raise TypeError(f"value: expected an array of shape {shape}, got {value.shape}")
        result = np.zeros(shape, dtype)
        if value.size > result.size > 0:
            raise ValueError(
                f"value: Too many elements provided. Needed at most {result.size} for shape {shape}, "
                f"but received {value.size}"
            )
        if value.size and result.size:
            result.fill(value.flat[-1])
            result.flat[: value.size] = value.flat[:]
        return result


def _as_real_array(value: object) -> Array:
    """Return the value of a constant as an array of real numbers."""
    if not isinstance(value, numbers.Real | np.generic | list | tuple | np.ndarray):
        raise TypeError(f"value: expected a number, or a list or array of numbers, got {shown(value)}")
    try:
        array = np.asarray(value)
    except ValueError as error:  # nested lists of unequal lengths
        raise ValueError(f"value: expected a number, or a list or array of numbers: {shortened(error)}") from None
    if array.dtype == object and all(isinstance(item, numbers.Real) for item in array.flat):
        array = array.astype(np.float64)  # integers beyond 64 bits
    if array.size and array.dtype.kind not in "biuf":
        raise TypeError(f"value: expected a number, or a list or array of numbers, got {shown(value)}")
    return array


@dataclass(frozen=True)
class Zeros(Initializer):
    """All values 0."""

    dtype: Any = "float32"
    seed: Any = field(default=None, kw_only=True)

    def _values(self, generator: np.random.Generator, shape: Shape, dtype: np.dtype[Any]) -> Array:
        return np.zeros(shape, dtype)


@dataclass(frozen=True)
class Ones(Initializer):
    """All values 1."""

    dtype: Any = "float32"
    seed: Any = field(default=None, kw_only=True)

    def _values(self, generator: np.random.Generator, shape: Shape, dtype: np.dtype[Any]) -> Array:
        return np.ones(shape, dtype)


@dataclass(frozen=True)
class Identity(Initializer):
    """A matrix with `gain` on the diagonal and 0 elsewhere."""

    gain: float = 1.0
    dtype: Any = "float32"
    seed: Any = field(default=None, kw_only=True)

    def _values(self, generator: np.random.Generator, shape: Shape, dtype: np.dtype[Any]) -> Array:
        if len(shape) != 2:
            raise ValueError(
                f"Identity matrix initializer can only be used for 2D matrices, not for shape {shortened(shape)}."
            )
        return self.gain * np.eye(*shape, dtype=dtype)


@dataclass(frozen=True)
class RandomUniform(Initializer):
    """Uniform distribution on [`minval`, `maxval`). A `maxval` of None is 1."""

    minval: float = 0.0
    maxval: float | None = None
    seed: Any = None
    dtype: Any = "float32"

    def _values(self, generator: np.random.Generator, shape: Shape, dtype: np.dtype[Any]) -> Array:
        maxval = 1.0 if self.maxval is None else self.maxval
        return generator.random(shape, dtype) * (maxval - self.minval) + self.minval


@dataclass(frozen=True)
class RandomNormal(Initializer):
    """Normal distribution."""

    mean: float = 0.0
    stddev: float = 1.0
    seed: Any = None
    dtype: Any = "float32"

    def _values(self, generator: np.random.Generator, shape: Shape, dtype: np.dtype[Any]) -> Array:
        return generator.standard_normal(shape, dtype) * self.stddev + self.mean


@dataclass(frozen=True)
class TruncatedNormal(Initializer):
    """Normal distribution truncated at two standard deviations: values further from the mean are drawn again."""

    mean: float = 0.0
    stddev: float = 1.0
    seed: Any = None
    dtype: Any = "float32"

    def _values(self, generator: np.random.Generator, shape: Shape, dtype: np.dtype[Any]) -> Array:
        return _truncated_normal(generator, shape, dtype) * self.stddev + self.mean


@dataclass(frozen=True)
class Orthogonal(Initializer):
    """`gain` times a matrix with orthonormal rows or, if it has fewer columns than rows, orthonormal columns.

    The last axis is the columns; the other axes together are the rows.
    """

    gain: float = 1.0
    seed: Any = None
    dtype: Any = "float32"

    def _values(self, generator: np.random.Generator, shape: Shape, dtype: np.dtype[Any]) -> Array:
        if len(shape) < 2:
            raise ValueError(
                f"The tensor to initialize must be at least two-dimensional, not of shape {shortened(shape)}"
            )
        sizes = math.prod(shape[:-1]), shape[-1]
        q, r = np.linalg.qr(generator.standard_normal((max(sizes), min(sizes))))
        q *= np.sign(np.diag(r))  # makes the distribution uniform, see F. Mezzadri, arXiv:math-ph/0609050
        return self.gain * (q if sizes[0] >= sizes[1] else q.T).reshape(shape)


@dataclass(frozen=True)
class UniformUnitScaling(Initializer):
    """Uniform distribution with limits +-`factor` * sqrt(3 / inputs). All axes except the last are inputs."""

    factor: float = 1.0
    seed: Any = None
    dtype: Any = "float32"

    def _values(self, generator: np.random.Generator, shape: Shape, dtype: np.dtype[Any]) -> Array:
        limit = self.factor * math.sqrt(3 / max(1, math.prod(shape[:-1])))
        return generator.random(shape, dtype) * (2 * limit) - limit


@dataclass(frozen=True)
class Chrono(Initializer):
    """Biases of a gate that keeps the state: the logarithm of a uniform distribution on [1, `max_steps` - 1) [1]_.

    A unit whose update gate z has the bias b and no other input keeps its state for about ``1 + exp(b)`` steps: these
    times are spread evenly from 2 to `max_steps` steps. ``RandomUniform(0, log(max_steps))`` spreads their logarithms
    evenly instead, and gives more units a short memory.

    Parameters
    ----------
    max_steps : float
        The longest distance in time that the layer must bridge, at least 2.
    seed, dtype
        See `Initializer`.

    Raises
    ------
    TypeError
        `max_steps` is not a number.
    ValueError
        `max_steps` is less than 2 or not finite.

    References
    ----------
    .. [1] C. Tallec, Y. Ollivier, "Can recurrent neural networks warp time?", ICLR 2018, section 2.

    Examples
    --------
    The biases of the update gate are the second third of a layer's biases:

    >>> from indygru_cpu import IndyGRU, initializers
    >>> layer, chrono = IndyGRU(2, 64, seed=0), initializers.Chrono(400, seed=0)
    >>> layer.parameters["bias_l0"][64:128] = chrono((64,))
    """

    max_steps: float
    seed: Any = None
    dtype: Any = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.max_steps, bool | np.bool_) or not isinstance(self.max_steps, numbers.Real):
            raise TypeError(f"max_steps: expected a number of steps, got {shown(self.max_steps)}")
        if not 2 <= self.max_steps < math.inf:
            raise ValueError(f"max_steps: expected a finite number of steps, at least 2, got {shown(self.max_steps)}")

    def _values(self, generator: np.random.Generator, shape: Shape, dtype: np.dtype[Any]) -> Array:
        return np.log(1 + generator.random(shape, dtype) * (self.max_steps - 2))


_MODES = ("fan_in", "fan_out", "fan_avg")
_DISTRIBUTIONS = ("normal", "uniform", "truncated_normal", "untruncated_normal")


@dataclass(frozen=True)
class VarianceScaling(Initializer):
    """Distribution of variance `scale` / fan, as in Glorot & Bengio (2010), He et al. (2015), LeCun et al. (1998).

    Parameters
    ----------
    scale : float
        Positive.
    mode : {"fan_in", "fan_out", "fan_avg"}
        Fan is the number of inputs, the number of outputs, or the mean of both.
    distribution : {"truncated_normal", "untruncated_normal", "uniform"}
        "normal" is an alias of "truncated_normal".
    seed, dtype
        See `Initializer`.

    Raises
    ------
    ValueError
        An invalid scale, mode or distribution.

    Examples
    --------
    >>> from indygru_cpu import initializers
    >>> values = initializers.variance_scaling(2.0, "fan_out", "uniform", 3)((300, 6))
    >>> bool(abs(values).max() <= 1)
    True
    """

    scale: float = 1.0
    mode: str = "fan_in"
    distribution: str = "truncated_normal"
    seed: Any = None
    dtype: Any = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.scale, numbers.Real) or not self.scale > 0:
            raise ValueError(f"`scale` must be positive float, got {shown(self.scale)}")
        if self.mode not in _MODES:
            raise ValueError(f"Invalid `mode` argument: expected one of {', '.join(_MODES)}, got {shown(self.mode)}")
        if not isinstance(self.distribution, str) or self.distribution.lower() not in _DISTRIBUTIONS:
            raise ValueError(
                f"Invalid `distribution` argument: expected one of {', '.join(_DISTRIBUTIONS)}, "
                f"got {shown(self.distribution)}"
            )
        object.__setattr__(self, "distribution", self.distribution.lower())

    def _values(self, generator: np.random.Generator, shape: Shape, dtype: np.dtype[Any]) -> Array:
        # The last two axes are inputs and outputs; both are multiplied by the axes before. A vector is both.
        fan_in, fan_out = (math.prod(shape[:-2]) * size for size in (shape * 2)[-2:]) if shape else (1, 1)
        fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[self.mode]
        variance = self.scale / max(1.0, fan)
        if self.distribution == "uniform":
            limit = math.sqrt(3 * variance)
            return generator.random(shape, dtype) * (2 * limit) - limit
        if self.distribution == "untruncated_normal":
            return generator.standard_normal(shape, dtype) * math.sqrt(variance)
        return _truncated_normal(generator, shape, dtype) * (math.sqrt(variance) / _TRUNCATED_STDDEV)


class _NamedScaling(VarianceScaling):
    """VarianceScaling with fixed scale, mode and distribution."""

    _scale_mode_distribution: tuple[float, str, str]

    def __init__(self, seed: Any = None, dtype: Any = "float32") -> None:
        super().__init__(*self._scale_mode_distribution, seed, dtype)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(seed={self.seed!r}, dtype={self.dtype!r})"

    def get_config(self) -> dict[str, Any]:
        """Return seed and dtype."""
        config = super().get_config()
        return {name: config[name] for name in ("seed", "dtype")}


class GlorotUniform(_NamedScaling):
    """Uniform distribution with limits +-sqrt(6 / (inputs + outputs)): the default for kernels of cells."""

    _scale_mode_distribution = 1.0, "fan_avg", "uniform"


class GlorotNormal(_NamedScaling):
    """Truncated normal distribution of variance 2 / (inputs + outputs)."""

    _scale_mode_distribution = 1.0, "fan_avg", "truncated_normal"


class HeUniform(_NamedScaling):
    """Uniform distribution with limits +-sqrt(6 / inputs)."""

    _scale_mode_distribution = 2.0, "fan_in", "uniform"


class HeNormal(_NamedScaling):
    """Truncated normal distribution of variance 2 / inputs."""

    _scale_mode_distribution = 2.0, "fan_in", "truncated_normal"


class LecunUniform(_NamedScaling):
    """Uniform distribution with limits +-sqrt(3 / inputs)."""

    _scale_mode_distribution = 1.0, "fan_in", "uniform"


class LecunNormal(_NamedScaling):
    """Truncated normal distribution of variance 1 / inputs."""

    _scale_mode_distribution = 1.0, "fan_in", "truncated_normal"


def _truncated_normal(generator: np.random.Generator, shape: Shape, dtype: np.dtype[Any]) -> Array:
    values = np.asarray(generator.standard_normal(shape, dtype))
    while len(outside := np.flatnonzero(np.abs(values) > 2)):
        values.flat[outside] = generator.standard_normal(len(outside), dtype)
    return values


# The names of tf.initializers, and chrono.
zeros, ones, constant, identity, orthogonal = Zeros, Ones, Constant, Identity, Orthogonal
random_uniform, random_normal, truncated_normal = RandomUniform, RandomNormal, TruncatedNormal
variance_scaling, uniform_unit_scaling = VarianceScaling, UniformUnitScaling
glorot_uniform, glorot_normal = GlorotUniform, GlorotNormal
he_uniform, he_normal = HeUniform, HeNormal
lecun_uniform, lecun_normal = LecunUniform, LecunNormal
chrono = Chrono

_BY_NAME: dict[str, type[Initializer]] = {
    name: value
    for name, value in list(globals().items())
    if isinstance(value, type) and issubclass(value, Initializer)
    if value not in (Initializer, _NamedScaling)
}
# Names that TensorFlow accepts as identifiers but does not export from tf.initializers.
_BY_NAME |= {"zero": Zeros, "one": Ones, "uniform": RandomUniform, "normal": RandomNormal}
# TensorFlow resolves names to the initialisers of Keras, in which these three have other defaults.
_KERAS_DEFAULTS = {
    RandomUniform: {"minval": -0.05, "maxval": 0.05},
    RandomNormal: {"stddev": 0.05},
    TruncatedNormal: {"stddev": 0.05},
}


def get(identifier: object) -> Callable[[Shape, Any], Any]:
    """Return the initialiser for an identifier, as accepted by `IndyGRUCell` and `variable_scope`.

    Parameters
    ----------
    identifier : Initializer, type, str, dict or callable
        An instance (``GlorotUniform(seed=3)``), a class, a name ("glorot_uniform" or "GlorotUniform"), a configuration
        (``{"class_name": "Constant", "config": {"value": 0.5}}``), or any callable ``f(shape, dtype)``.

    Returns
    -------
    callable
        ``f(shape, dtype)``, which returns an array.

    Raises
    ------
    ValueError
        An unknown name, an incomplete configuration, or another object.
    TypeError
        A configuration with arguments that the constructor does not accept.

    Examples
    --------
    >>> from indygru_cpu import initializers
    >>> initializers.get("random_uniform")
    RandomUniform(minval=-0.05, maxval=0.05, seed=None, dtype='float32')
    >>> initializers.get({"class_name": "Ones", "config": {"dtype": "float64"}})
    Ones(dtype='float64', seed=None)
    """
    if isinstance(identifier, str):
        return _from_name(identifier, {})
    if isinstance(identifier, dict):
        if not {"class_name", "config"} <= identifier.keys():
            raise ValueError(
                f"Improper config format: expected the keys 'class_name' and 'config', got {shown(identifier)}"
            )
        return _from_name(identifier["class_name"], identifier["config"])
    if isinstance(identifier, type):
        identifier = identifier()
    if not callable(identifier):
        raise ValueError(f"Could not interpret initializer identifier: {shortened(identifier)}")
    return identifier


def _from_name(name: object, config: object) -> Initializer:
    if not isinstance(name, str) or name not in _BY_NAME:
        raise ValueError(f"Unknown initializer: {shortened(name)} (expected one of {', '.join(sorted(_BY_NAME))})")
    if not isinstance(config, Mapping):
        raise TypeError(f"config: expected a dict of arguments of {name}, got {shown(config)}")
    cls = _BY_NAME[name]
    return cls.from_config({**_KERAS_DEFAULTS.get(cls, {}), **config})


def initialize(variable: Array, name: str, initializer: Callable[[Shape, Any], Any]) -> None:
    """Write the initial values of a variable. They must have its shape and dtype."""
    values = initializer(variable.shape, variable.dtype)
    variable[...] = tf_checks.variable_value(f"initializer of {name}", values, variable)
