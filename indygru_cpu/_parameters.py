"""The live weights of a layer, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from indygru_cpu import _validation as check

Array = np.ndarray[Any, Any]


class Parameters(Mapping[str, Array]):
    """Name -> array, always the same arrays: assigning to a name writes into its array, with its shape and dtype.

    So ``parameters[name][...] -= step`` and ``parameters[name] -= step`` do the same, and what a layer, a view or an
    optimiser holds is never stale.
    """

    def __init__(self, arrays: dict[str, Array]) -> None:
        self._arrays = arrays

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def __setitem__(self, name: str, value: object) -> None:
        self.update({name: value})

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __repr__(self) -> str:
        return f"Parameters({self._arrays!r})"

    def update(self, values: Mapping[str, object]) -> None:
        """Copy values into the arrays: all of them, or, after an error, none."""
        if unknown := sorted(values.keys() - self._arrays.keys()):
            raise ValueError(f"unknown parameters {unknown}: expected {sorted(self._arrays)}")
        checked = {}
        for name, value in values.items():
            target = self._arrays[name]
            found = check.array(name, value, target.shape, ("the layer", target.dtype))
            checked[name] = found if found is target else found.copy()  # a value may be a view of another target
        for name, value in checked.items():
            self._arrays[name][...] = value


def initial_parameters(d: int, n: int, bias: bool, dtype: np.dtype[Any], rng: np.random.Generator) -> Parameters:
    """Weights of D inputs and N units as TensorFlow's cell draws them."""

    def uniform(limit: float, *shape: int) -> Array:
        drawn: Array = (2 * rng.random(shape, dtype.type) - 1) * dtype.type(limit)
        return drawn

    gates, candidate = uniform(np.sqrt(6 / (d + 2 * n)), d, 2 * n), uniform(np.sqrt(6 / (d + n)), d, n)
    arrays = {"kernel_l0": np.hstack([gates, candidate]), "recurrent_kernel_l0": uniform(1, 3 * n)}
    if bias:
        arrays["bias_l0"] = np.repeat(np.array([1, 1, 0], dtype), n)
    return Parameters(arrays)
