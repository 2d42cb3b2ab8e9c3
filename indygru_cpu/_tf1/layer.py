"""What the cell inherits in TensorFlow from `tf.layers.Layer`: name, variables, weights, configuration."""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

from indygru_cpu._engine.messages import shortened, shown
from indygru_cpu._tf1 import checks as check
from indygru_cpu._tf1.registry import Reuse, Size, checked_reuse
from indygru_cpu._tf1.scopes import VariableScope, cell_called_again, cell_variables, layer_name
from indygru_cpu._tf1.variables import CellVariables, Variable
from indygru_cpu._typing import Array

L = TypeVar("L", bound="Layer")

# What to do instead of setting an attribute, where the answer is not a new cell.
_FIXES = {
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
    "scope_name": "it follows from the scope around the first call; make a new cell in another scope",
    "built": "build(input_shape) makes the variables; to have others, make a new cell",
    "graph": "there are no graphs",
}

# Threads that use a cell for the first time at once must not both build it.
_building = threading.RLock()


def _snake_case(name: str) -> str:
    """Turn "IndyGRUCell" into "indy_gru_cell", and "_Cell", which would be no name of a scope, into "private__cell"."""
    found = re.sub("([a-z])([A-Z])", r"\1_\2", re.sub("(.)([A-Z][a-z0-9]+)", r"\1_\2", name)).lower()
    return f"private{found}" if found.startswith("_") else found


class Layer:
    """Something with a name and variables, which are made when it is used for the first time.

    Attributes
    ----------
    trainable : bool
        Whether the variables are listed as trainable or as non-trainable; nothing else depends on it. All other
        attributes are read-only.
    """

    def __init__(self, name: str | None, dtype: object, reuse: bool | Reuse | None) -> None:
        if name and not isinstance(name, str):
            raise TypeError(f"name: expected a string, got {shown(name)}")
        self._base_name = name or _snake_case(type(self).__name__)
        self._name = name or layer_name(self._base_name)
        self._dtype = None if dtype is None else check.dtype("dtype", dtype)
        self._reuse = checked_reuse(reuse)
        self._variables: CellVariables | None = None
        self.trainable = True

    def __setattr__(self, name: str, value: object) -> None:
        known = getattr(type(self), name, None)
        if isinstance(known, property) and known.fset is None:
            fix = _FIXES.get(name, "make a new cell")
            raise AttributeError(f"{type(self).__name__}.{name} is read-only: {fix}", name=name, obj=self)
        super().__setattr__(name, value)

    def _initialize(self, variables: CellVariables, scope_initializer: object) -> None:
        raise NotImplementedError

    def _ensure_built(self, size: Size, scope: str | VariableScope | None = None) -> CellVariables:
        """Return the variables, which are made or found now unless this has happened before."""
        with _building:
            if self._variables is None:
                self._variables = cell_variables(self._base_name, scope, self._reuse, size, self._initialize)
                self._dtype = self._variables.dtype
            else:
                cell_called_again(self._variables)
        self._variables.check_shared(*size)
        return self._variables

    @property
    def name(self) -> str:
        """As given, or numbered: indy_gru_cell_1, ... Variables are named after the scope instead."""
        return self._name

    @property
    def dtype(self) -> str | None:
        """Name of the variables' dtype; None if it is still open."""
        return None if self._dtype is None else self._dtype.name

    @property
    def built(self) -> bool:
        """Whether the variables are there."""
        return self._variables is not None

    @property
    def scope_name(self) -> str:
        """Name of the scope of the variables, with those around it. It is settled by the first use."""
        if self._variables is None:
            raise ValueError(
                f'No name available for layer scope because the layer "{shortened(self.name)}" has not been used yet. '
                "The scope name is determined the first time the layer instance is called. You must "
                "therefore call the layer before querying `scope_name`."
            )
        return self._variables.scope

    @property
    def graph(self) -> None:
        """None: there are no graphs."""
        warnings.warn("graph is deprecated: there are no graphs here", DeprecationWarning, stacklevel=2)

    @property
    def named_variables(self) -> Mapping[str, Array]:
        """The weights themselves under their short names, such as "gates/kernel_w"; empty before building."""
        return MappingProxyType({} if self._variables is None else self._variables.named)

    @property
    def variables(self) -> list[Variable]:
        """All variables, trainable or not; empty before building."""
        return [] if self._variables is None else list(self._variables.variables)

    @property
    def trainable_variables(self) -> list[Variable]:
        """All variables, or none if `trainable` is False."""
        return self.variables if self.trainable else []

    @property
    def non_trainable_variables(self) -> list[Variable]:
        """None of the variables, or all if `trainable` is False."""
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
            As from `get_weights`. Nested lists take the variables' dtype.

        Raises
        ------
        ValueError, TypeError
            A wrong number, shape or dtype; no variable has been changed then.
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
        """Return name, trainable and dtype, which is all that the original tells."""
        return {"name": self.name, "trainable": self.trainable, "dtype": self.dtype}

    @classmethod
    def from_config(cls: type[L], config: Mapping[str, Any]) -> L:
        """Make a new one from the constructor's arguments and, unlike the original, `trainable`.

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
