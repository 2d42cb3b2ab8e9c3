"""Initial values of variables: classes with the names, arguments and order of arguments they have in TensorFlow 1.

Where a cell takes an initialiser, it may be an instance (``GlorotUniform(seed=3)``), a class, a name
("glorot_uniform" or "GlorotUniform"), a configuration (``{"class_name": "Constant", "config": {"value": 0.5}}``) or any
callable ``f(shape, dtype)``. The lower-case names of ``tf.initializers`` work here, too.

Numbers come from ``numpy.random.default_rng(seed)``: reproducible, but not TensorFlow's.
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
from indygru_cpu._tf1 import checks as check
from indygru_cpu._tf1.scopes import random_generator
from indygru_cpu._typing import Array

Shape = tuple[int, ...]
K = TypeVar("K", bound="Initializer")

# Standard deviation of the standard normal distribution within +-2: sqrt(1 - 4 phi(2) / (2 Phi(2) - 1)).
_CUT_OFF_STDDEV = 0.87962566103423978


class Initializer:
    """Base of all of them.

    Attributes
    ----------
    seed : int, numpy.random.SeedSequence or numpy.random.Generator, optional
        An integer gives the same values at every call. None goes by the seed of `reset_default_scope`. By keyword
        only where values are not random.
    dtype : float32 or float64
        Of the values, where the call does not say.

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
        check.dtype("dtype", self.dtype)

    def __call__(self, shape: Shape, dtype: object = None) -> Array:
        """Return a new array."""
        generator = random_generator() if self.seed is None else checks.generator(self.seed)
        found = check.dtype("dtype", self.dtype if dtype is None else dtype)
        return self._values(generator, tuple(shape), found).astype(found, copy=False)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments, as the original does.

        Examples
        --------
        >>> from indygru_cpu import initializers
        >>> initializers.orthogonal(0.5).get_config()
        {'gain': 0.5, 'seed': None, 'dtype': 'float32'}
        """
        arguments = {item.name: getattr(self, item.name) for item in fields(self) if not item.kw_only}  # type: ignore[arg-type]
        return {**arguments, "dtype": check.dtype("dtype", self.dtype).name}

    @classmethod
    def from_config(cls: type[K], config: Mapping[str, Any]) -> K:
        """Make one from the constructor's arguments."""
        try:
            return cls(**config)
        except TypeError as error:
            raise TypeError(shortened(error, 500)) from None

    def _values(self, generator: np.random.Generator, shape: Shape, dtype: np.dtype[Any]) -> Array:
        raise NotImplementedError


@dataclass(frozen=True)
class Constant(Initializer):
    """`value`, a number, or the numbers of a list or array row by row, the last of them repeated.

    Raises
    ------
    TypeError
        A value that is no number and no list or array of numbers; with `verify_shape`, at the call, one of another
        shape.
    ValueError
        At the call: more numbers than the shape has room for.

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
        _numbers(self.value)

    def get_config(self) -> dict[str, Any]:
        """Return value and dtype, which is all that the original tells."""
        config = super().get_config()
        del config["verify_shape"]
        return config

    def _values(self, generator: np.random.Generator, shape: Shape, dtype: np.dtype[Any]) -> Array:
        given = _numbers(self.value)
        if self.verify_shape and given.shape != shape:
            raise TypeError(f"value: expected an array of shape {shape}, got {given.shape}")
        values = np.zeros(shape, dtype)
        if given.size > values.size > 0:
            raise ValueError(
                f"value: Too many elements provided. Needed at most {values.size} for shape {shape}, "
                f"but received {given.size}"
            )
        if given.size and values.size:
            values.fill(given.flat[-1])
            values.flat[: given.size] = given.flat[:]
        return values


def _numbers(value: object) -> Array:
    """Return the real numbers that a constant consists of."""
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
    """0 everywhere."""

    dtype: Any = "float32"
    seed: Any = field(default=None, kw_only=True)

    def _values(self, generator: np.random.Generator, shape: Shape, dtype: np.dtype[Any]) -> Array:
        return np.zeros(shape, dtype)


@dataclass(frozen=True)
class Ones(Initializer):
    """1 everywhere."""

    dtype: Any = "float32"
    seed: Any = field(default=None, kw_only=True)

    def _values(self, generator: np.random.Generator, shape: Shape, dtype: np.dtype[Any]) -> Array:
        return np.ones(shape, dtype)


@dataclass(frozen=True)
class Identity(Initializer):
    """`gain` on the diagonal of a matrix, 0 elsewhere."""

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
    """Uniform on [`minval`, `maxval`); a `maxval` of None is 1."""

    minval: float = 0.0
    maxval: float | None = None
    seed: Any = None
    dtype: Any = "float32"

    def _values(self, generator: np.random.Generator, shape: Shape, dtype: np.dtype[Any]) -> Array:
        maxval = 1.0 if self.maxval is None else self.maxval
        return generator.random(shape, dtype) * (maxval - self.minval) + self.minval


@dataclass(frozen=True)
class RandomNormal(Initializer):
    """Normal."""

    mean: float = 0.0
    stddev: float = 1.0
    seed: Any = None
    dtype: Any = "float32"

    def _values(self, generator: np.random.Generator, shape: Shape, dtype: np.dtype[Any]) -> Array:
        return generator.standard_normal(shape, dtype) * self.stddev + self.mean


@dataclass(frozen=True)
class TruncatedNormal(Initializer):
    """Normal, with values further than two standard deviations from the mean drawn again."""

    mean: float = 0.0
    stddev: float = 1.0
    seed: Any = None
    dtype: Any = "float32"

    def _values(self, generator: np.random.Generator, shape: Shape, dtype: np.dtype[Any]) -> Array:
        return _cut_off_normal(generator, shape, dtype) * self.stddev + self.mean


@dataclass(frozen=True)
class Orthogonal(Initializer):
    """`gain` times a matrix of orthonormal rows or columns, whichever are fewer; the last axis is columns."""

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
    """Uniform with limits -+`factor` sqrt(3 / inputs), where all axes but the last are inputs."""

    factor: float = 1.0
    seed: Any = None
    dtype: Any = "float32"

    def _values(self, generator: np.random.Generator, shape: Shape, dtype: np.dtype[Any]) -> Array:
        limit = self.factor * math.sqrt(3 / max(1, math.prod(shape[:-1])))
        return generator.random(shape, dtype) * (2 * limit) - limit


_MODES = ("fan_in", "fan_out", "fan_avg")
_DISTRIBUTIONS = ("normal", "uniform", "truncated_normal", "untruncated_normal")


@dataclass(frozen=True)
class VarianceScaling(Initializer):
    """Variance `scale` / fan: that of Glorot & Bengio (2010), He et al. (2015), LeCun et al. (1998).

    Parameters
    ----------
    scale : float
        Positive.
    mode : {"fan_in", "fan_out", "fan_avg"}
        Whether fan is the number of inputs, of outputs, or the mean of both.
    distribution : {"truncated_normal", "untruncated_normal", "uniform"}
        "normal" is "truncated_normal".
    seed, dtype
        As of every `Initializer`.

    Raises
    ------
    ValueError
        Another scale, mode or distribution.

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
        # The last two axes are inputs and outputs, those before multiply both. A vector counts as both.
        fan_in, fan_out = (math.prod(shape[:-2]) * size for size in (shape * 2)[-2:]) if shape else (1, 1)
        fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[self.mode]
        variance = self.scale / max(1.0, fan)
        if self.distribution == "uniform":
            limit = math.sqrt(3 * variance)
            return generator.random(shape, dtype) * (2 * limit) - limit
        if self.distribution == "untruncated_normal":
            return generator.standard_normal(shape, dtype) * math.sqrt(variance)
        return _cut_off_normal(generator, shape, dtype) * (math.sqrt(variance) / _CUT_OFF_STDDEV)


class _NamedScaling(VarianceScaling):
    """A VarianceScaling that leaves only seed and dtype to choose."""

    _fixed: tuple[float, str, str]

    def __init__(self, seed: Any = None, dtype: Any = "float32") -> None:
        super().__init__(*self._fixed, seed, dtype)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(seed={self.seed!r}, dtype={self.dtype!r})"

    def get_config(self) -> dict[str, Any]:
        """Return seed and dtype."""
        config = super().get_config()
        return {name: config[name] for name in ("seed", "dtype")}


class GlorotUniform(_NamedScaling):
    """Uniform with limits -+sqrt(6 / (inputs + outputs)): what cells take for kernels by themselves."""

    _fixed = 1.0, "fan_avg", "uniform"


class GlorotNormal(_NamedScaling):
    """Truncated normal of variance 2 / (inputs + outputs)."""

    _fixed = 1.0, "fan_avg", "truncated_normal"


class HeUniform(_NamedScaling):
    """Uniform with limits -+sqrt(6 / inputs)."""

    _fixed = 2.0, "fan_in", "uniform"


class HeNormal(_NamedScaling):
    """Truncated normal of variance 2 / inputs."""

    _fixed = 2.0, "fan_in", "truncated_normal"


class LecunUniform(_NamedScaling):
    """Uniform with limits -+sqrt(3 / inputs)."""

    _fixed = 1.0, "fan_in", "uniform"


class LecunNormal(_NamedScaling):
    """Truncated normal of variance 1 / inputs."""

    _fixed = 1.0, "fan_in", "truncated_normal"


def _cut_off_normal(generator: np.random.Generator, shape: Shape, dtype: np.dtype[Any]) -> Array:
    values = np.asarray(generator.standard_normal(shape, dtype))
    while len(outside := np.flatnonzero(np.abs(values) > 2)):
        values.flat[outside] = generator.standard_normal(len(outside), dtype)
    return values


# The names of tf.initializers.
zeros, ones, constant, identity, orthogonal = Zeros, Ones, Constant, Identity, Orthogonal
random_uniform, random_normal, truncated_normal = RandomUniform, RandomNormal, TruncatedNormal
variance_scaling, uniform_unit_scaling = VarianceScaling, UniformUnitScaling
glorot_uniform, glorot_normal = GlorotUniform, GlorotNormal
he_uniform, he_normal = HeUniform, HeNormal
lecun_uniform, lecun_normal = LecunUniform, LecunNormal

_BY_NAME: dict[str, type[Initializer]] = {
    name: value
    for name, value in list(globals().items())
    if isinstance(value, type) and issubclass(value, Initializer)
    if value not in (Initializer, _NamedScaling)
}
# Further names that the original takes, but does not have in tf.initializers.
_BY_NAME |= {"zero": Zeros, "one": Ones, "uniform": RandomUniform, "normal": RandomNormal}
# By name, the original takes those of Keras, where the three below are narrower by default.
_NARROW = {
    RandomUniform: {"minval": -0.05, "maxval": 0.05},
    RandomNormal: {"stddev": 0.05},
    TruncatedNormal: {"stddev": 0.05},
}


def get(identifier: object) -> Callable[[Shape, Any], Any]:
    """Return an initialiser for an instance, a class, a name, a configuration or a callable.

    Raises
    ------
    ValueError
        It is none of them.
    TypeError
        A configuration whose arguments are not the constructor's.

    Examples
    --------
    >>> from indygru_cpu import initializers
    >>> initializers.get("random_uniform")
    RandomUniform(minval=-0.05, maxval=0.05, seed=None, dtype='float32')
    >>> initializers.get({"class_name": "Ones", "config": {"dtype": "float64"}})
    Ones(dtype='float64', seed=None)
    """
    if isinstance(identifier, str):
        return _named(identifier, {})
    if isinstance(identifier, dict):
        if not {"class_name", "config"} <= identifier.keys():
            raise ValueError(
                f"Improper config format: expected the keys 'class_name' and 'config', got {shown(identifier)}"
            )
        return _named(identifier["class_name"], identifier["config"])
    if isinstance(identifier, type):
        identifier = identifier()
    if not callable(identifier):
        raise ValueError(f"Could not interpret initializer identifier: {shortened(identifier)}")
    return identifier


def _named(name: object, config: object) -> Initializer:
    if not isinstance(name, str) or name not in _BY_NAME:
        raise ValueError(f"Unknown initializer: {shortened(name)} (expected one of {', '.join(sorted(_BY_NAME))})")
    if not isinstance(config, Mapping):
        raise TypeError(f"config: expected a dict of arguments of {name}, got {shown(config)}")
    found = _BY_NAME[name]
    return found.from_config({**_NARROW.get(found, {}), **config})


def initialize(variable: Array, name: str, initializer: Callable[[Shape, Any], Any]) -> None:
    """Write initial values; they must have the variable's shape and dtype."""
    variable[...] = check.weight(f"initializer of {name}", initializer(variable.shape, variable.dtype), variable)
