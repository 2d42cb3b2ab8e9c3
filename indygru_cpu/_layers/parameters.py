"""The parameters of a layer: names, shapes, initial values, and the mapping of names to live arrays.

No other module composes parameter names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np

from indygru_cpu._engine import checks as check
from indygru_cpu._engine.arguments import Weights
from indygru_cpu._engine.messages import listed, shown
from indygru_cpu._typing import Array

#: Parameters of each layer and direction, in the order of all mappings. A layer with ``bias=False`` has no "bias".
KINDS = Weights._fields
#: Options of a layer that determine the shapes of its parameters: the arguments of `shapes`.
SHAPE_OPTIONS = ("input_size", "hidden_size", "num_layers", "bias", "bidirectional", "groups", "reset_gate")


def suffix(layer: int, direction: int) -> str:
    """The suffix of the parameter names of a layer and direction, as in torch.nn.GRU.

    Examples
    --------
    >>> suffix(0, 1)
    '_l0_reverse'
    """
    return f"_l{layer}{'_reverse' * direction}"


def suffixes(num_layers: int, bidirectional: bool) -> list[list[str]]:
    """The suffixes of all layers and their directions.

    Examples
    --------
    >>> suffixes(2, bidirectional=True)
    [['_l0', '_l0_reverse'], ['_l1', '_l1_reverse']]
    """
    return [[suffix(layer, direction) for direction in range(1 + bidirectional)] for layer in range(num_layers)]


def stacked_weights(num_layers: int, bidirectional: bool, arrays: Mapping[str, Array]) -> list[list[Weights]]:
    """The weights of each layer and direction. A missing bias is zeros."""
    return [
        [Weights.from_arrays(*(arrays.get(kind + end) for kind in KINDS)) for end in ends]  # type: ignore[arg-type]
        for ends in suffixes(num_layers, bidirectional)
    ]


class Parameters(Mapping[str, Array]):
    """A mapping of names to arrays that stay the same: assigning to a name copies values into its array.

    ``parameters[name][...] -= step`` and ``parameters[name] -= step`` have the same effect, and references that a
    layer, a view or an optimiser holds stay valid.

    Attributes
    ----------
    storage : dict of str to array
        Views of the same memory that are never returned to callers. A caller may assign to the shape of a returned
        array in place; the shapes of these views stay as they were checked.
    """

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        # Two separate views of each array: the base of a returned view is not the view that calls use.
        self.storage: dict[str, Array] = {name: array.view(np.ndarray) for name, array in arrays.items()}
        self._arrays: dict[str, Array] = {name: array.view(np.ndarray) for name, array in arrays.items()}

    def __reduce__(self) -> tuple[Any, ...]:
        return Parameters, (self.storage,)

    def required(self, *requirements: Literal["C", "A", "W"]) -> Parameters:
        """The same arrays; those that do not meet the requirements of `numpy.require` are copied."""
        return Parameters({name: np.require(array, requirements=requirements) for name, array in self.storage.items()})

    def __getitem__(self, name: str) -> Array:
        try:
            return self._arrays[name]
        except KeyError:
            raise KeyError(f"parameters: expected one of {listed(list(self._arrays))}, got {shown(name)}") from None

    def __setitem__(self, name: str, value: object) -> None:
        self.update({name: value})

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __repr__(self) -> str:
        return f"Parameters({self._arrays!r})"

    def update(self, values: Mapping[str, object]) -> None:
        """Copy values into the arrays. All values are checked first; an error changes nothing."""
        if unknown := sorted(values.keys() - self.storage.keys()):
            raise ValueError(f"unknown parameters {listed(unknown)}: expected {listed(sorted(self.storage))}")
        checked = {}
        for name, value in values.items():
            target = self.storage[name]
            source = check.array(name, value, target.shape, "the layer", target.dtype)
            # Copied first, because a value may be a view of another parameter.
            checked[name] = source if source is self._arrays[name] else source.copy()
        for name, value in checked.items():
            self.storage[name][...] = value


def shapes(
    input_size: int, hidden_size: int, num_layers: int, bias: bool, bidirectional: bool, groups: int, reset_gate: bool
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a layer's parameters, in their order."""
    n_columns, by_name = check.count_planes(reset_gate) * hidden_size, {}
    for layer, ends in enumerate(suffixes(num_layers, bidirectional)):
        n_inputs = hidden_size * len(ends) if layer else input_size
        by_kind = [(n_inputs // groups, n_columns), (n_columns,), (n_columns,)]
        for end in ends:
            by_name.update({kind + end: shape for kind, shape in zip(KINDS[: 2 + bias], by_kind, strict=False)})
    return by_name


def initial_parameters(
    shapes: dict[str, tuple[int, ...]], groups: int, reset_gate: bool, dtype: np.dtype[Any], rng: np.random.Generator
) -> Parameters:
    """Initial values with the distributions of TensorFlow's cell, applied to each group as to a separate cell."""

    def uniform(limit: float, *shape: int) -> Array:
        return (2 * rng.random(shape, dtype.type) - 1) * dtype.type(limit)

    arrays, n_gates = {}, check.count_planes(reset_gate) - 1
    for name, shape in shapes.items():
        n = shape[-1] // (n_gates + 1)
        if name.startswith("kernel"):
            d, n_group = shape[0], n // groups
            gate_limit, candidate_limit = np.sqrt(6 / (d + n_gates * n_group)), np.sqrt(6 / (d + n_group))
            arrays[name] = np.hstack([uniform(gate_limit, d, n_gates * n), uniform(candidate_limit, d, n)])
        elif name.startswith("recurrent_kernel"):
            arrays[name] = uniform(1, shape[-1])
        else:
            arrays[name] = np.repeat(np.array([*[1] * n_gates, 0], dtype), n)
    return Parameters(arrays)


def summary(parameters: Mapping[str, Array]) -> str:
    """A table of the parameters, with the multiply-adds of one step of one row."""
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
    """The cells of a row: text left-justified, numbers right-justified."""
    for column, (text, width) in enumerate(zip(row, widths, strict=True)):
        yield text.ljust(width) if column < 2 else text.rjust(width)
