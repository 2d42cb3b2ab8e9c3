"""The live weights of a layer, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np

from indygru_cpu._engine import checks as check
from indygru_cpu._engine.messages import listed
from indygru_cpu._typing import Array


class Parameters(Mapping[str, Array]):
    """Name -> array, always the same arrays: assigning to a name writes into its array, with its shape and dtype.

    So ``parameters[name][...] -= step`` and ``parameters[name] -= step`` do the same, and what a layer, a view or an
    optimiser holds is never stale.

    Attributes
    ----------
    storage : dict of str to array
        Arrays of the same memory that no caller is given: a caller may assign to the shape of his array in place, and a
        layer goes on with the shapes that were checked.
    """

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        # Two views of each array: the base of the one that callers are given is not the one that calls use.
        self.storage: dict[str, Array] = {name: array.view() for name, array in arrays.items()}
        self._arrays: dict[str, Array] = {name: array.view() for name, array in arrays.items()}

    def __reduce__(self) -> tuple[Any, ...]:
        return Parameters, (self.storage,)

    def required(self, *requirements: Literal["C", "A", "W"]) -> Parameters:
        """The same arrays, but copies of those that do not meet what `numpy.require` is asked for."""
        return Parameters({name: np.require(array, requirements=requirements) for name, array in self.storage.items()})

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
        if unknown := sorted(values.keys() - self.storage.keys()):
            raise ValueError(f"unknown parameters {listed(unknown)}: expected {listed(sorted(self.storage))}")
        checked = {}
        for name, value in values.items():
            target = self.storage[name]
            found = check.array(name, value, target.shape, ("the layer", target.dtype))
            # A value may be a view of another target.
            checked[name] = found if found is self._arrays[name] else found.copy()
        for name, value in checked.items():
            self.storage[name][...] = value


def shapes(
    input_size: int, hidden_size: int, num_layers: int, bias: bool, bidirectional: bool, groups: int
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a layer's parameters, in their order."""
    found: dict[str, tuple[int, ...]] = {}
    suffixes = ("", "_reverse") if bidirectional else ("",)
    for layer in range(num_layers):
        n_inputs = hidden_size * len(suffixes) if layer else input_size
        for suffix in suffixes:
            found[f"kernel_l{layer}{suffix}"] = (n_inputs // groups, 3 * hidden_size)
            found[f"recurrent_kernel_l{layer}{suffix}"] = (3 * hidden_size,)
            if bias:
                found[f"bias_l{layer}{suffix}"] = (3 * hidden_size,)
    return found


def initial_parameters(
    shapes: dict[str, tuple[int, ...]], groups: int, dtype: np.dtype[Any], rng: np.random.Generator
) -> Parameters:
    """Weights as TensorFlow's cell draws them: each group of inputs and units as a cell of its own."""

    def uniform(limit: float, *shape: int) -> Array:
        return (2 * rng.random(shape, dtype.type) - 1) * dtype.type(limit)

    arrays = {}
    for name, shape in shapes.items():
        n = shape[-1] // 3
        if name.startswith("kernel"):
            d, n_group = shape[0], n // groups
            gates, candidate = np.sqrt(6 / (d + 2 * n_group)), np.sqrt(6 / (d + n_group))
            arrays[name] = np.hstack([uniform(gates, d, 2 * n), uniform(candidate, d, n)])
        elif name.startswith("recurrent_kernel"):
            arrays[name] = uniform(1, 3 * n)
        else:
            arrays[name] = np.repeat(np.array([1, 1, 0], dtype), n)
    return Parameters(arrays)


def summary(parameters: Mapping[str, Array]) -> str:
    """A table of the parameters, with multiply-adds of a step of one row."""
    rows: list[tuple[str, ...]] = [("name", "shape", "parameters", "bytes", "multiply-adds")]
    total = [0, 0, 0]
    for name, array in parameters.items():
        counts = [array.size, array.nbytes, 0 if name.startswith("bias") else array.size]
        total = [a + b for a, b in zip(total, counts, strict=True)]
        rows.append((name, str(array.shape), *map(str, counts)))
    rows.append(("total", "", *map(str, total)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(_justified(row, widths)) for row in rows)


def _justified(row: tuple[str, ...], widths: list[int]) -> Iterator[str]:
    """Words to the left, numbers to the right."""
    for column, (text, width) in enumerate(zip(row, widths, strict=True)):
        yield text.ljust(width) if column < 2 else text.rjust(width)
