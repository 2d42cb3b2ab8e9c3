"""The part of a cell that TensorFlow implements in `tf.layers.Layer`: name, variables, weights, configuration."""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

from indygru_cpu._engine.messages import shortened, shown
from indygru_cpu._tf1 import checks as tf_checks
from indygru_cpu._tf1.scopes import (
    CellSize,
    Reuse,
    VariableScope,
    checked_reuse,
    get_or_create_variables,
    layer_name,
    register_call,
)
from indygru_cpu._tf1.variables import CellVariables, Variable
from indygru_cpu._typing import Array

L = TypeVar("L", bound="Layer")

# The end of the error text for setting a read-only attribute; by default "make a new cell".
_READ_ONLY_FIXES = {
    **dict.fromkeys(
        ("variables", "weights", "named_variables"), "set_weights(arrays), or write into the arrays, value[...] = array"
    ),
    **dict.fromkeys(
        (
            "trainable_variables",
            "trainable_weights",
            "non_trainable_variables",
            "non_trainable_weights",
        ),
        "set `trainable`, or use set_weights(arrays)",
    ),
    "scope_name": "it is derived from the scope of the first call; make a new cell in another scope",
    "built": "build(input_shape) creates the variables; for other variables make a new cell",
    "graph": "there are no graphs",
}

# Prevents two threads that use a cell for the first time from both building it.
_build_lock = threading.RLock()


def _snake_case(name: str) -> str:
    """Convert "IndyGRUCell" to "indy_gru_cell", and "_Cell" to "private__cell" because scopes cannot begin with "_"."""
    snake_case = re.sub("([a-z])([A-Z])", r"\1_\2", re.sub("(.)([A-Z][a-z0-9]+)", r"\1_\2", name)).lower()
    return f"private{snake_case}" if snake_case.startswith("_") else snake_case


class Layer:
    """An object with a name and with variables that are created at its first use.

    Attributes
    ----------
    trainable : bool
        Whether the variables are listed as trainable or as non-trainable. It has no other effect. All other attributes
        are read-only.
    """

    def __init__(self, name: str | None, dtype: object, reuse: bool | Reuse | None) -> None:
        if name and not isinstance(name, str):
            raise TypeError(f"name: expected a string, got {shown(name)}")
        self._base_name = name or _snake_case(type(self).__name__)
        self._name = name or layer_name(self._base_name)
        self._dtype = None if dtype is None else tf_checks.dtype("dtype", dtype)
        self._reuse = checked_reuse(reuse)
        self._variables: CellVariables | None = None
        self.trainable = True

    def __setattr__(self, name: str, value: object) -> None:
        attribute = getattr(type(self), name, None)
        if isinstance(attribute, property) and attribute.fset is None:
            fix = _READ_ONLY_FIXES.get(name, "make a new cell")
            raise AttributeError(f"{type(self).__name__}.{name} is read-only: {fix}", name=name, obj=self)
        super().__setattr__(name, value)

    def _initialize(self, variables: CellVariables, scope_initializer: object) -> None:
        raise NotImplementedError

    def _ensure_built(self, size: CellSize, scope: str | VariableScope | None = None) -> CellVariables:
        """Return the variables. The first call creates them or takes those of the scope."""
        with _build_lock:
            if self._variables is None:
                self._variables = get_or_create_variables(self._base_name, scope, self._reuse, size, self._initialize)
                self._dtype = self._variables.dtype
            else:
                register_call(self._variables)
        self._variables.check_compatible(*size)
        return self._variables

    @property
    def name(self) -> str:
        """Name from the constructor, or indy_gru_cell_1, ... Variables are named after `scope_name` instead."""
        return self._name

    @property
    def dtype(self) -> str | None:
        """Name of the variables' dtype; None before building unless the constructor received a dtype."""
        return None if self._dtype is None else self._dtype.name

    @property
    def built(self) -> bool:
        """Whether the variables exist."""
        return self._variables is not None

    @property
    def scope_name(self) -> str:
        """Full name of the scope of the variables. It is determined by the first use."""
        if self._variables is None:
            raise ValueError(
                f'No name available for layer scope because the layer "{shortened(self.name)}" has not been used yet. '
                "The scope name is determined the first time the layer instance is called. You must "
                "therefore call the layer before querying `scope_name`."
            )
        return self._variables.scope

    @property
    def graph(self) -> None:
        """Always None, because there are no graphs. Deprecated."""
        warnings.warn("graph is deprecated: there are no graphs here", DeprecationWarning, stacklevel=2)

    @property
    def named_variables(self) -> Mapping[str, Array]:
        """The weights, not copies, under short names such as "gates/kernel_w". Empty before building."""
        return MappingProxyType({} if self._variables is None else self._variables.named)

    @property
    def variables(self) -> list[Variable]:
        """All variables, trainable or not. Empty before building."""
        return [] if self._variables is None else list(self._variables.variables)

    @property
    def trainable_variables(self) -> list[Variable]:
        """All variables if `trainable` is True, else none."""
        return self.variables if self.trainable else []

    @property
    def non_trainable_variables(self) -> list[Variable]:
        """All variables if `trainable` is False, else none."""
        return [] if self.trainable else self.variables

    weights = variables
    trainable_weights = trainable_variables
    non_trainable_weights = non_trainable_variables

    def get_weights(self) -> list[Array]:
        """Return copies of all variables' values, in the order of `variables`."""
        return [variable.value.copy() for variable in self.variables]

    def set_weights(self, weights: Sequence[object]) -> None:
        """Overwrite the values of all variables.

        Parameters
        ----------
        weights : sequence of array
            In the order of `get_weights`. Nested lists are converted to the variables' dtype.

        Raises
        ------
        ValueError, TypeError
            A wrong number of weights, shape or dtype. In this case no variable is changed.
        """
        if len(weights) != len(self.variables):
            raise ValueError(
                f'You called `set_weights(weights)` on layer "{shortened(self.name)}" with a weight list of length '
                f"{len(weights)}, but the layer was expecting {len(self.variables)} weights."
            )
        if self._variables is not None:
            self._variables.assign(weights)

    def count_params(self) -> int:
        """Return the number of weights."""
        if not self.built:
            raise ValueError(
                f"You tried to call `count_params` on {shortened(self.name)}, but the layer isn't built. "
                f"You can build it manually via: `{shortened(self.name)}.build(batch_input_shape)`."
            )
        return sum(variable.value.size for variable in self.variables)

    def get_config(self) -> dict[str, Any]:
        """Return name, trainable and dtype: the keys that TensorFlow returns."""
        return {"name": self.name, "trainable": self.trainable, "dtype": self.dtype}

    @classmethod
    def from_config(cls: type[L], config: Mapping[str, Any]) -> L:
        """Make a cell from the constructor's arguments and, unlike TensorFlow, `trainable`.

        Examples
        --------
        >>> from indygru_cpu import IndyGRUCell
        >>> config = IndyGRUCell(4, name="encoder").get_config()
        >>> IndyGRUCell.from_config({"num_units": 4, **config}).name
        'encoder'
        """
        arguments = dict(config)
        trainable = arguments.pop("trainable", True)
        layer = cls(**arguments)
        layer.trainable = trainable
        return layer
