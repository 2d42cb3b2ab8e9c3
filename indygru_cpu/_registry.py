"""What lies behind a default scope: its variables, by the names of their scopes, and the rules for sharing.

Variables are held weakly: they live as long as a cell uses them. Only AUTO_REUSE, which announces that
someone will come back for them by name, keeps them as long as the registry lives.

Source of the rules: TensorFlow 1.14, as observed (`tf.variable_scope`, `tf.get_variable`).
"""

from __future__ import annotations

import enum
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from indygru_cpu._messages import shortened, shown
from indygru_cpu._variables import VARIABLE_NAMES, CellVariables, full_name

Size = tuple[int, int, np.dtype[Any]]  # depth, num_units and dtype of a cell's variables


class Reuse(enum.Enum):
    """The third value of `reuse`, besides False (or None) and True."""

    AUTO_REUSE = "AUTO_REUSE"


#: As `reuse`: share the variables if they are there, else make them.
AUTO_REUSE = Reuse.AUTO_REUSE


def checked_reuse(reuse: object) -> bool | Reuse:
    """Return False, True or AUTO_REUSE."""
    if reuse is None or isinstance(reuse, bool | np.bool_):
        return bool(reuse)
    if isinstance(reuse, Reuse):
        return reuse
    raise ValueError(f"The reuse parameter must be True or False or None or AUTO_REUSE: {shown(reuse)}")


class Registry:
    """What lies behind one default scope: variables by scope, counters for names, initial values' seeds."""

    def __init__(self, seed: int | None) -> None:
        self.lock = threading.RLock()
        self._variables: WeakValueDictionary[str, CellVariables] = WeakValueDictionary()
        self._kept: dict[str, CellVariables] = {}
        self._layers: Counter[str] = Counter()
        # Without a seed they are made when needed: importing numpy.random takes longer than importing this package.
        self._seeds = None if seed is None else np.random.SeedSequence(seed)

    def layer_name(self, base: str) -> str:
        """Return a name for a cell that has none: base_1, base_2, ..."""
        with self.lock:
            self._layers[base] += 1
            return f"{base}_{self._layers[base]}"

    def generator(self) -> np.random.Generator:
        """Return a new stream of random numbers, independent of all others."""
        with self.lock:
            if self._seeds is None:
                self._seeds = np.random.SeedSequence()
            return np.random.default_rng(self._seeds.spawn(1)[0])

    def variables(
        self, scope: str, reuse: bool | Reuse, size: Size, fill: Callable[[CellVariables], None]
    ) -> CellVariables:
        """Return the variables of a scope, found or made, as `reuse` allows. The caller holds the lock."""
        found = self._variables.get(scope)
        first = shortened(full_name(scope, VARIABLE_NAMES[0]))
        if found is None and reuse is True:
            raise ValueError(
                f"Variable {first} does not exist, or was not created with tf.get_variable(). Did you mean "
                "to set reuse=tf.AUTO_REUSE in VarScope? (Variables live as long as a cell that uses them.)"
            )
        if found is not None and not reuse:
            raise ValueError(
                f"Variable {first} already exists, disallowed. Did you mean to set reuse=True or "
                "reuse=tf.AUTO_REUSE in VarScope?"
            )
        if found is None:
            found = CellVariables.empty(scope, *size)
            fill(found)
            self._variables[scope] = found
        found.check_shared(*size)
        if reuse is AUTO_REUSE:
            self._kept[scope] = found
        return found
