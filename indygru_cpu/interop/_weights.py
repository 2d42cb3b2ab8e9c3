"""A library-independent form of a layer's weights, and the checks that all converters share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple, TypeVar

import numpy as np

from indygru_cpu._engine import checks as check
from indygru_cpu._engine.messages import shortened, shown
from indygru_cpu._layers.parameters import KINDS, suffixes
from indygru_cpu._typing import Array
from indygru_cpu.interop._gate_orders import GateOrder
from indygru_cpu.layer import IndyGRU

Source = TypeVar("Source")


class DenseWeights(NamedTuple):
    """Weights of one layer and direction in IndyGRU's gate order. Groups are written out as a dense kernel."""

    kernel: Array  # (D, PN); P is 3, or 2 without a reset gate
    recurrent_kernel: Array  # (PN,)
    bias: Array | None  # (PN,)


#: Weights by layer and direction.
StackedWeights = Sequence[Sequence[DenseWeights]]


#: The bias of a reset gate that is 1 without inputs: sigmoid(40) rounds to 1 in float32 and float64.
OPEN_GATE_BIAS = 40


def layer_weights(layer: IndyGRU) -> list[list[DenseWeights]]:
    """Weights of a layer. Kernels are copies; recurrent kernels and biases may be the live arrays.

    Other libraries' cells have a reset gate. A layer without one gets a gate that is always 1.
    """
    stack: list[list[DenseWeights]] = []
    for directions in suffixes(layer.num_layers, layer.bidirectional):
        stack.append([])
        for suffix in directions:
            kernel, recurrent_kernel, bias = weights_with_reset_gate(layer, suffix)
            stack[-1].append(DenseWeights(dense_kernel(kernel, layer.groups), recurrent_kernel, bias))
    return stack


def weights_with_reset_gate(layer: IndyGRU, suffix: str) -> tuple[Array, Array, Array | None]:
    """Kernel (D/groups, 3N), recurrent kernel and bias (3N,). The bias may be None if the layer has a reset gate."""
    arrays, n = layer.parameters, layer.hidden_size
    kernel, recurrent_kernel, bias = (arrays.get(kind + suffix) for kind in KINDS)
    assert kernel is not None
    assert recurrent_kernel is not None
    if layer.reset_gate:
        return kernel, recurrent_kernel, bias
    zeros = np.zeros(n, layer.dtype)
    bias = np.zeros(2 * n, layer.dtype) if bias is None else bias
    return (
        np.hstack([np.zeros((len(kernel), n), layer.dtype), kernel]),
        np.hstack([zeros, recurrent_kernel]),
        np.hstack([zeros + layer.dtype.type(OPEN_GATE_BIAS), bias]),
    )


def dense_kernel(kernel: Array, groups: int) -> Array:
    """Expand a grouped kernel (D/groups, 3N) to (D, 3N). Entries between different groups are 0."""
    d, n = kernel.shape[0], kernel.shape[1] // (3 * groups)
    blocks = np.zeros((groups, d, 3, groups, n), kernel.dtype)
    group = np.arange(groups)
    blocks[group, :, :, group] = kernel.reshape(d, 3, groups, n).transpose(2, 0, 1, 3)
    return blocks.reshape(groups * d, 3 * groups * n)


def diagonal_matrices(diagonals: Array) -> Array:
    """Stack three diagonal matrices (3N, N) with the given diagonals (3N,)."""
    return np.concatenate([np.diag(diagonal) for diagonal in np.split(diagonals, 3)])


_OPTIONS = ("batch_first", "dropout", "num_threads", "reproducible", "seed")


def build_layer(stack: StackedWeights, *, activation: str = "tanh", reset_gate: bool = True, **options: Any) -> IndyGRU:
    """Make a layer with copies of these weights, whose shapes and dtypes are already checked."""
    first = stack[0][0]
    layer = IndyGRU(
        first.kernel.shape[0], check.units(first.kernel.shape[1], reset_gate), len(stack), first.bias is not None,
        bidirectional=len(stack[0]) == 2, activation=activation, dtype=first.kernel.dtype, reset_gate=reset_gate,
        **options,
    )  # fmt: skip
    layer.load_state_dict({
        f"{name}{suffix}": array
        for names, directions in zip(suffixes(layer.num_layers, layer.bidirectional), stack, strict=True)
        for suffix, weights in zip(names, directions, strict=True)
        for name, array in weights._asdict().items()
        if array is not None
    })  # fmt: skip
    return layer


def converter_options(options: dict[str, Any]) -> dict[str, Any]:
    """Refuse options that a converter does not pass on to `IndyGRU`, which checks their values."""
    if unknown := sorted(options.keys() - set(_OPTIONS)):
        raise TypeError(f"{shortened(', '.join(unknown))}: unknown; options of the layer are {', '.join(_OPTIONS)}")
    return options


def check_single_layer(layer: IndyGRU, module: str) -> None:
    """Refuse stacks and both directions, which a `module` of another library does not have."""
    if layer.num_layers > 1 or layer.bidirectional:
        raise ValueError(
            f"layer: expected num_layers=1 and bidirectional=False, as in {module}, got "
            f"num_layers={layer.num_layers} and bidirectional={layer.bidirectional}"
        )


def read_stack(
    sources: Sequence[Sequence[Source]], read_weights: Callable[[Source, int | None, int | str], DenseWeights]
) -> list[list[DenseWeights]]:
    """Read the weights of every layer and direction, each with the sizes implied by those already read.

    `read_weights` gets a source, N and D. For the first source N is None and D is "D", which allows any size.
    """
    stack: list[list[DenseWeights]] = []
    n: int | None = None
    d: int | str = "D"
    for directions in sources:
        stack.append([])
        for source in directions:
            weights = read_weights(source, n, d)
            stack[-1].append(weights)
            d, n = weights.kernel.shape[0], weights.recurrent_kernel.shape[0] // 3
        d = len(directions) * (n or 0)
    return stack


class WeightChecker:
    """Checks foreign arrays or tensors one by one. All must have the dtype of the first."""

    def __init__(self) -> None:
        self._first: tuple[str, np.dtype[Any]] | None = None

    def checked(self, name: str, value: object, shape: tuple[int | str, ...]) -> Array:
        """Return the value as an array of this shape. A str in `shape` allows any size but 0."""
        array = check.array(name, _tensor_to_array(name, value), shape, *(self._first or ()))
        if not array.size:
            raise ValueError(f"{name}: expected an array with values, got shape {array.shape}")
        self._first = self._first or (name, array.dtype)
        return array

    def check_projection(self, arrays: Mapping[str, object], name: str, n: int) -> None:
        """Check the weights of a linear map of y that is not converted; they may be absent."""
        outputs: int | str = "outputs"
        if (weight := f"{name}.weight") in arrays:
            outputs = self.checked(weight, arrays[weight], (outputs, n)).shape[0]
        if (bias := f"{name}.bias") in arrays:
            self.checked(bias, arrays[bias], (outputs,))


def _tensor_to_array(name: str, value: object) -> object:
    """Convert a tensor to an array. Anything else is returned unchanged."""
    if not hasattr(value, "detach"):
        return value
    try:
        return np.asarray(value.detach().cpu())
    except TypeError:  # NumPy has no such dtype
        dtype = getattr(value, "dtype", type(value))
        raise TypeError(f"{name}: expected float32 or float64, got {shortened(dtype)}: cast it with .float()") from None
    except RuntimeError as error:  # such as a tensor on the device meta, which has no values
        raise TypeError(
            f"{name}: expected a dense tensor with values, got one that NumPy cannot read: {shortened(error)}"
        ) from None


@dataclass(frozen=True)
class ConversionTolerance:
    """Limits on the weights that a conversion drops because IndyGRU has no equivalent.

    Attributes
    ----------
    tolerance : float
        Largest magnitude of a dropped weight.
    project : "diagonal" or None
        "diagonal" drops off-diagonal recurrent weights of any magnitude.
    """

    tolerance: float
    project: str | None

    def __post_init__(self) -> None:
        if isinstance(self.tolerance, bool) or not isinstance(self.tolerance, (int, float, np.integer, np.floating)):
            raise TypeError(f"tolerance: expected a number, got {shown(self.tolerance)}")
        if not self.tolerance >= 0:
            raise ValueError(f"tolerance: expected at least 0, got {shown(self.tolerance)}")
        if self.project not in (None, "diagonal"):
            raise ValueError(f'project: expected None or "diagonal", got {shown(self.project)}')

    def extract_diagonals(self, name: str, matrices: Array) -> Array:
        """Return the diagonals (3N,) of three matrices (3N, N). Raise ValueError if too much is off the diagonals."""
        n = matrices.shape[1]
        blocks = matrices.reshape(3, n, n)
        diagonals = np.einsum("gii->gi", blocks)
        magnitudes = np.abs(blocks)
        np.einsum("gii->gi", magnitudes)[...] = 0
        largest = magnitudes.max(initial=0)
        if self.project is None and not largest <= self.tolerance:
            gate, row, column = np.unravel_index(magnitudes.argmax(), magnitudes.shape)
            raise ValueError(
                f"{name}: expected diagonal matrices, got off-diagonal values up to {largest:.3g} "
                f"(matrix {gate}, row {row}, column {column}), beside diagonals up to {np.abs(diagonals).max():.3g}; "
                f'tolerance is {self.tolerance:g}. project="diagonal" drops the off-diagonal values'
            )
        return np.array(diagonals.reshape(3 * n))

    def merge_biases(self, name: str, input_bias: Array, recurrent_bias: Array, order: GateOrder) -> Array:
        """Sum an input bias and a recurrent bias, called `name`, both (3N,) in `order`, to one bias in native order."""
        bias, recurrent = order.to_native(input_bias), order.to_native(recurrent_bias)
        if order.bias_inside_reset:
            candidate = recurrent[2 * len(recurrent) // 3 :]
            largest = np.abs(candidate).max(initial=0)
            if not largest <= self.tolerance:
                raise ValueError(
                    f"{name}: expected 0 for the candidate, got values up to {largest:.3g}; tolerance is "
                    f"{self.tolerance:g}. The reset gate multiplies this bias, and IndyGRU has no equivalent: set it "
                    "to 0, or train with it fixed at 0"
                )
            candidate[...] = 0
        return np.asarray(bias + recurrent)


def is_keras_layer(item: Any) -> bool:
    """Whether the item has weights and a configuration, as Keras layers have."""
    return hasattr(item, "get_weights") and hasattr(item, "get_config")


def import_optional(name: str) -> Any:
    """Import an optional package. ImportError names the extra that installs it."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ImportError(f'{name} is missing: pip install "indygru_cpu[interop]"') from None
