"""The options of a layer: defaults, checks, and read-only attributes."""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar, overload

from indygru_cpu._engine import checks as check
from indygru_cpu._engine.messages import shown

T = TypeVar("T")

#: Options that determine the results of a layer, in addition to its sizes and dtype, with their default values.
DEFAULTS = {
    "num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False, "activation": "tanh",
    "groups": 1, "reproducible": False, "reset_gate": True,
}  # fmt: skip


class HasOptions(Protocol):
    """An object whose `_options` were returned by `checked_options`."""

    _options: dict[str, Any]


class Option(Generic[T]):
    """A read-only attribute of a layer. Everything that a layer stores is computed from its options once."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, layer: None, owner: type) -> Option[T]: ...
    @overload
    def __get__(self, layer: HasOptions, owner: type) -> T: ...
    def __get__(self, layer: HasOptions | None, owner: type) -> Option[T] | T:
        if layer is None:
            return self
        return layer._options[self._name]

    def __set__(self, layer: HasOptions, value: object) -> None:
        current = layer._options[self._name]
        if isinstance(value, type(current)) and value == current:
            return  # a subclass may assign its arguments again
        raise AttributeError(
            f"{self._name}: expected no assignment, because a layer's configuration is read-only, got {shown(value)}: "
            f"make a new layer, such as {type(layer).__name__}(..., {self._name}={shown(value)})"
        )


def checked_options(
    *, input_size: Any, hidden_size: Any, dtype: Any, num_layers: Any, bias: Any, batch_first: Any, dropout: Any,
    bidirectional: Any, activation: Any, groups: Any, reproducible: Any, reset_gate: Any,
) -> dict[str, Any]:  # fmt: skip
    """All options of a layer, after a check of each value and of sizes that depend on each other."""
    input_size = check.size(input_size, "input_size")
    hidden_size = check.integer(hidden_size, "hidden_size", 1, check.MAX_COLUMNS // 3)
    check.check_size_overflow("input_size and hidden_size", (input_size, 3 * hidden_size))
    check.activation_index(activation)
    return {
        "input_size": input_size,
        "hidden_size": hidden_size,
        "num_layers": check.size(num_layers, "num_layers"),
        "groups": check.groups(groups, {"input_size": input_size, "hidden_size": hidden_size}),
        "dropout": check.fraction(dropout, "dropout"),
        "bias": bool(bias),
        "batch_first": bool(batch_first),
        "reproducible": bool(reproducible),
        "reset_gate": check.flag(reset_gate, "reset_gate"),
        "bidirectional": bool(bidirectional),
        "activation": activation,
        "dtype": check.dtype(dtype),
    }
