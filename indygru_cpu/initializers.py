"""Initial values of variables: classes with the names they have in TensorFlow 1.

Where a cell takes an initialiser, it may be an instance (``GlorotUniform(seed=3)``), a class, a name
("glorot_uniform" or "GlorotUniform") or any callable ``f(shape, dtype)``. The lower-case names of
``tf.initializers`` work here, too.

Numbers come from ``numpy.random.default_rng(seed)``: reproducible, but not TensorFlow's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from indygru_cpu import _cell_checks as check
from indygru_cpu._messages import shortened
from indygru_cpu._scopes import random_generator

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]

# Standard deviation of the standard normal distribution within +-2: sqrt(1 - 4 phi(2) / (2 Phi(2) - 1)).
_CUT_OFF_STDDEV = 0.87962566103423978


@dataclass(frozen=True, kw_only=True)
class Initializer:
    """Base of all of them.

    Parameters
    ----------
    seed : int, numpy.random.SeedSequence or numpy.random.Generator, optional
        An integer gives the same values at every call. None goes by the seed of `reset_default_scope`.
    dtype : float32 or float64
        Of the values, where the call does not say.

    Examples
    --------
    >>> from indygru_cpu.initializers import RandomUniform
    >>> initializer = RandomUniform(-0.1, 0.1, seed=3)
    >>> values = initializer((3, 5), "float64")
    >>> values.shape, values.dtype, bool((abs(values) <= 0.1).all())
    ((3, 5), dtype('float64'), True)
    """

    seed: Any = None
    dtype: Any = "float32"

    def __post_init__(self) -> None:
        check.dtype("dtype", self.dtype)

    def __call__(self, shape: Shape, dtype: object = None) -> Array:
        """Return a new array."""
        generator = random_generator() if self.seed is None else np.random.default_rng(self.seed)
        found = check.dtype("dtype", self.dtype if dtype is None else dtype)
        return self._values(generator, tuple(shape), found).astype(found, copy=False)

    def _values(self, generator: np.random.Generator, shape: Shape, dtype: np.dtype[Any]) -> Array:
        raise NotImplementedError


@dataclass(frozen=True)
class Constant(Initializer):
    """`value`, a number or an array, everywhere."""

    value: Any = 0.0

    def _values(self, generator: np.random.Generator, shape: Shape, dtype: np.dtype[Any]) -> Array:
        return np.full(shape, self.value, dtype)


@dataclass(frozen=True)
class Zeros(Initializer):
    """0 everywhere."""

    def _values(self, generator: np.random.Generator, shape: Shape, dtype: np.dtype[Any]) -> Array:
        return np.zeros(shape, dtype)


@dataclass(frozen=True)
class Ones(Initializer):
    """1 everywhere."""

    def _values(self, generator: np.random.Generator, shape: Shape, dtype: np.dtype[Any]) -> Array:
        return np.ones(shape, dtype)


@dataclass(frozen=True)
class Identity(Initializer):
    """`gain` on the diagonal of a matrix, 0 elsewhere."""

    gain: float = 1.0

    def _values(self, generator: np.random.Generator, shape: Shape, dtype: np.dtype[Any]) -> Array:
        if len(shape) != 2:
            raise ValueError(
                f"Identity matrix initializer can only be used for 2D matrices, not for shape {shortened(shape)}."
            )
        return self.gain * np.eye(*shape, dtype=dtype)


@dataclass(frozen=True)
class RandomUniform(Initializer):
    """Uniform on [`minval`, `maxval`)."""

    minval: float = 0.0
    maxval: float = 1.0

    def _values(self, generator: np.random.Generator, shape: Shape, dtype: np.dtype[Any]) -> Array:
        return generator.random(shape, dtype) * (self.maxval - self.minval) + self.minval


@dataclass(frozen=True)
class RandomNormal(Initializer):
    """Normal."""

    mean: float = 0.0
    stddev: float = 1.0

    def _values(self, generator: np.random.Generator, shape: Shape, dtype: np.dtype[Any]) -> Array:
        return generator.standard_normal(shape, dtype) * self.stddev + self.mean


@dataclass(frozen=True)
class TruncatedNormal(Initializer):
    """Normal, with values further than two standard deviations from the mean drawn again."""

    mean: float = 0.0
    stddev: float = 1.0

    def _values(self, generator: np.random.Generator, shape: Shape, dtype: np.dtype[Any]) -> Array:
        return _cut_off_normal(generator, shape, dtype) * self.stddev + self.mean


@dataclass(frozen=True)
class Orthogonal(Initializer):
    """`gain` times a matrix of orthonormal rows or columns, whichever are fewer; the last axis is columns."""

    gain: float = 1.0

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
class _VarianceScaling(Initializer):
    """Variance `_scale` / fan: that of Glorot & Bengio (2010), He et al. (2015), LeCun et al. (1998)."""

    _scale: ClassVar[float]
    _average: ClassVar[bool]  # of the numbers of inputs and outputs, or the inputs alone
    _uniform: ClassVar[bool]

    def _values(self, generator: np.random.Generator, shape: Shape, dtype: np.dtype[Any]) -> Array:
        # The last two axes are inputs and outputs, those before multiply both. A vector counts as both.
        fan_in, fan_out = (math.prod(shape[:-2]) * size for size in (shape * 2)[-2:]) if shape else (1, 1)
        variance = self._scale / max(1.0, (fan_in + fan_out) / 2 if self._average else fan_in)
        if self._uniform:
            limit = math.sqrt(3 * variance)
            return generator.random(shape, dtype) * (2 * limit) - limit
        return _cut_off_normal(generator, shape, dtype) * (math.sqrt(variance) / _CUT_OFF_STDDEV)


class GlorotUniform(_VarianceScaling):
    """Uniform with limits -+sqrt(6 / (inputs + outputs)): what cells take for kernels by themselves."""

    _scale, _average, _uniform = 1.0, True, True


class GlorotNormal(_VarianceScaling):
    """Truncated normal of variance 2 / (inputs + outputs)."""

    _scale, _average, _uniform = 1.0, True, False


class HeUniform(_VarianceScaling):
    """Uniform with limits -+sqrt(6 / inputs)."""

    _scale, _average, _uniform = 2.0, False, True


class HeNormal(_VarianceScaling):
    """Truncated normal of variance 2 / inputs."""

    _scale, _average, _uniform = 2.0, False, False


class LecunUniform(_VarianceScaling):
    """Uniform with limits -+sqrt(3 / inputs)."""

    _scale, _average, _uniform = 1.0, False, True


class LecunNormal(_VarianceScaling):
    """Truncated normal of variance 1 / inputs."""

    _scale, _average, _uniform = 1.0, False, False


def _cut_off_normal(generator: np.random.Generator, shape: Shape, dtype: np.dtype[Any]) -> Array:
    values = np.asarray(generator.standard_normal(shape, dtype))
    while len(outside := np.flatnonzero(np.abs(values) > 2)):
        values.flat[outside] = generator.standard_normal(len(outside), dtype)
    return values


# The names of tf.initializers.
zeros, ones, constant, identity, orthogonal = Zeros, Ones, Constant, Identity, Orthogonal
random_uniform, random_normal, truncated_normal = RandomUniform, RandomNormal, TruncatedNormal
glorot_uniform, glorot_normal = GlorotUniform, GlorotNormal
he_uniform, he_normal = HeUniform, HeNormal
lecun_uniform, lecun_normal = LecunUniform, LecunNormal

_BY_NAME: dict[str, type[Initializer]] = {
    name: value
    for name, value in list(globals().items())
    if isinstance(value, type) and issubclass(value, Initializer)
    if value not in (Initializer, _VarianceScaling)
}
# By name, the original takes those of Keras, where the three below are narrower by default.
_NARROW = {
    RandomUniform: {"minval": -0.05, "maxval": 0.05},
    RandomNormal: {"stddev": 0.05},
    TruncatedNormal: {"stddev": 0.05},
}


def get(identifier: object) -> Callable[[Shape, Any], Any]:
    """Return an initialiser for an instance, a class, a name or a callable.

    Raises
    ------
    ValueError
        It is none of them.

    Examples
    --------
    >>> from indygru_cpu import initializers
    >>> initializers.get("random_uniform")
    RandomUniform(seed=None, dtype='float32', minval=-0.05, maxval=0.05)
    """
    if isinstance(identifier, str):
        if identifier not in _BY_NAME:
            raise ValueError(f"Unknown initializer: {shortened(identifier)}")
        found = _BY_NAME[identifier]
        return found(**_NARROW.get(found, {}))
    if isinstance(identifier, type):
        identifier = identifier()
    if not callable(identifier):
        raise ValueError(f"Could not interpret initializer identifier: {shortened(identifier)}")
    return identifier


def initialize(variable: Array, name: str, initializer: Callable[[Shape, Any], Any]) -> None:
    """Write initial values; they must have the variable's shape and dtype."""
    variable[...] = check.weight(f"initializer of {name}", initializer(variable.shape, variable.dtype), variable)
