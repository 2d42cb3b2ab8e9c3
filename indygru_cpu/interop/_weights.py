"""A layer's weights in one plain form, between every library's and ours; and the checks that all converters share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple, TypeVar

import numpy as np

from indygru_cpu._engine import checks as check
from indygru_cpu._engine.messages import shortened, shown
from indygru_cpu._layers.parameters import suffixes
from indygru_cpu._typing import Array
from indygru_cpu.interop._gate_orders import GateOrder
from indygru_cpu.layer import IndyGRU

Part = TypeVar("Part")


class Weights(NamedTuple):
    """One layer and direction, in our gate order, with groups written out as the blocks of a dense kernel."""

    kernel: Array  # (D, 3N)
    recurrent_kernel: Array  # (3N,)
    bias: Array | None  # (3N,)


#: Layers, and of each its directions.
Stack = Sequence[Sequence[Weights]]


def checked_layer(layer: object) -> IndyGRU:
    """The layer, if it is one."""
    if not isinstance(layer, IndyGRU):
        raise TypeError(f"layer: expected an IndyGRU, got {type(layer).__name__}")
    return layer


def stack_of(layer: IndyGRU) -> list[list[Weights]]:
    """A layer's weights; kernels are copies, the others are the live arrays."""
    arrays = layer.parameters
    return [
        [
            Weights(
                dense(arrays[f"kernel{end}"], layer.groups),
                arrays[f"recurrent_kernel{end}"],
                arrays.get(f"bias{end}"),
            )
            for end in ends
        ]
        for ends in suffixes(layer.num_layers, layer.bidirectional)
    ]


def dense(kernel: Array, groups: int) -> Array:
    """From (D/groups, 3N) to (D, 3N): zeros but for the blocks, where inputs and units of one group meet."""
    d, n = kernel.shape[0], kernel.shape[1] // (3 * groups)
    blocks = np.zeros((groups, d, 3, groups, n), kernel.dtype)
    each = np.arange(groups)
    blocks[each, :, :, each] = kernel.reshape(d, 3, groups, n).transpose(2, 0, 1, 3)
    return blocks.reshape(groups * d, 3 * groups * n)


def matrices(gates: Array) -> Array:
    """Three diagonal matrices (3N, N) from their diagonals (3N,)."""
    return np.concatenate([np.diag(gate) for gate in np.split(gates, 3)])


_OPTIONS = ("batch_first", "dropout", "num_threads", "reproducible", "seed")


def new_layer(stack: Stack, *, activation: str = "tanh", **options: Any) -> IndyGRU:
    """A layer with copies of these weights, whose shapes and dtypes were checked."""
    first = stack[0][0]
    layer = IndyGRU(
        first.kernel.shape[0], first.recurrent_kernel.shape[0] // 3, len(stack), first.bias is not None,
        bidirectional=len(stack[0]) == 2, activation=activation, dtype=first.kernel.dtype, **options,
    )  # fmt: skip
    ends = suffixes(layer.num_layers, layer.bidirectional)
    pairs = [pair for row in zip(ends, stack, strict=True) for pair in zip(*row, strict=True)]
    named = {f"{name}{end}": array for end, weights in pairs for name, array in weights._asdict().items()}
    layer.load_state_dict({name: array for name, array in named.items() if array is not None})
    return layer


def checked_options(options: dict[str, Any]) -> dict[str, Any]:
    """What a converter passes on to `IndyGRU`, which checks the values."""
    if unknown := sorted(options.keys() - set(_OPTIONS)):
        raise TypeError(f"{shortened(', '.join(unknown))}: unknown; options of the layer are {', '.join(_OPTIONS)}")
    return options


def read_stack(
    rows: Sequence[Sequence[Part]], read_part: Callable[[Part, int | None, int | str], Weights]
) -> list[list[Weights]]:
    """Read every direction of every layer, each with the sizes that the ones before it leave open.

    `read_part` gets a part, N, which of the first part is None, and D, which of the first part is any: "D".
    """
    stack: list[list[Weights]] = []
    n: int | None = None
    d: int | str = "D"
    for row in rows:
        stack.append([])
        for part in row:
            weights = read_part(part, n, d)
            stack[-1].append(weights)
            d, n = weights.kernel.shape[0], weights.recurrent_kernel.shape[0] // 3
        d = len(row) * (n or 0)
    return stack


class Reader:
    """Takes foreign arrays, or tensors, one by one; all have the dtype of the first."""

    def __init__(self) -> None:
        self._like: tuple[str, np.dtype[Any]] | None = None

    def __call__(self, name: str, value: object, shape: tuple[int | str, ...]) -> Array:
        """The array, after a check of its shape and dtype."""
        found = check.array(name, _without_framework(name, value), shape, *(self._like or ()))
        self._like = self._like or (name, found.dtype)
        return found


def _without_framework(name: str, value: object) -> object:
    """A tensor as an array; anything else as it is."""
    if not hasattr(value, "detach"):
        return value
    try:
        return np.asarray(value.detach().cpu())
    except TypeError:  # NumPy has no such dtype
        dtype = getattr(value, "dtype", type(value))
        raise TypeError(f"{name}: expected float32 or float64, got {shortened(dtype)}: cast it with .float()") from None


@dataclass(frozen=True)
class Losses:
    """What may be lost: numbers up to `tolerance`, for which our layer has no place; or all off the diagonals."""

    tolerance: float
    project: str | None

    def __post_init__(self) -> None:
        if isinstance(self.tolerance, bool) or not isinstance(self.tolerance, (int, float, np.integer, np.floating)):
            raise TypeError(f"tolerance: expected a number, got {shown(self.tolerance)}")
        if not self.tolerance >= 0:
            raise ValueError(f"tolerance: expected at least 0, got {shown(self.tolerance)}")
        if self.project not in (None, "diagonal"):
            raise ValueError(f'project: expected None or "diagonal", got {shown(self.project)}')

    def diagonals(self, name: str, matrices: Array) -> Array:
        """The diagonals (3N,) of three matrices (3N, N)."""
        n = matrices.shape[1]
        blocks = matrices.reshape(3, n, n)
        found = np.einsum("gii->gi", blocks)
        off = np.abs(blocks)
        np.einsum("gii->gi", off)[...] = 0
        largest = off.max(initial=0)
        if self.project is None and not largest <= self.tolerance:
            gate, unit, source = np.unravel_index(off.argmax(), off.shape)
            raise ValueError(
                f"{name}: expected diagonal matrices, but off their diagonals are numbers up to {largest:.3g} "
                f"(matrix {gate}, row {unit}, column {source}), and on them up to {np.abs(found).max():.3g}; "
                f'tolerance is {self.tolerance:g}. project="diagonal" drops what is off the diagonals'
            )
        return np.array(found.reshape(3 * n))

    def bias(self, name: str, inputs: Array, state: Array, order: GateOrder) -> Array:
        """One bias in our order from a foreign pair (3N,): of the inputs, and of the state, which is called `name`."""
        bias, state = order.ours(inputs), order.ours(state)
        if order.bias_inside_reset:
            candidate = state[2 * len(state) // 3 :]
            largest = np.abs(candidate).max(initial=0)
            if not largest <= self.tolerance:
                raise ValueError(
                    f"{name}: expected 0 for the candidate, got numbers up to {largest:.3g}; tolerance is "
                    f"{self.tolerance:g}. The reset gate multiplies this bias, and IndyGRU has none such: train with "
                    "it fixed at 0, or set it to 0 first"
                )
            candidate[...] = 0
        return np.asarray(bias + state)


def library(name: str) -> Any:
    """An optional package, imported when it is needed."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ImportError(f'{name} is missing: pip install "indygru_cpu[interop]"') from None
