"""What lies behind a default scope: names that are taken, variables by the names of their scopes, rules for sharing.

Variables are held weakly: they live as long as a cell uses them. Only AUTO_REUSE, which announces that
someone will come back for them by name, keeps them as long as the registry lives.

Source of the rules: TensorFlow 1.14, as observed (`tf.variable_scope`, `tf.get_variable`).
"""

from __future__ import annotations

import enum
import threading
from collections import Counter
from collections.abc import Callable
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from indygru_cpu._engine.messages import shortened, shown
from indygru_cpu._tf1.variables import VARIABLE_NAMES, CellVariables, full_name

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


def _split(name: str) -> tuple[str, int]:
    """Return ("cell", 2) for "cell_2", and ("cell", 0) for "cell"."""
    base, _, number = name.rpartition("_")
    if base and len(number) < 10 and number.isdecimal() and number.isascii() and number[0] != "0":
        return base, int(number)
    return name, 0


class ScopeNames:
    """A set of scope names in which base, base_1, base_2, ... take one entry, however many there are."""

    def __init__(self, runs: dict[str, int] | None = None) -> None:
        # base -> how many of base, base_1, base_2, ... are in the set without a gap.
        self._runs = runs or {}

    def __contains__(self, name: str) -> bool:
        base, number = _split(name)
        return name in self._runs or self._runs.get(base, 0) > number

    def add(self, name: str) -> None:
        base, number = _split(name)
        if self._runs.get(base, 0) != number:
            self._runs.setdefault(name, 1)
            return
        number += 1
        while f"{base}_{number}" in self._runs:
            number += 1
        self._runs[base] = number

    def with_name(self, name: str) -> ScopeNames:
        """Return a set with one more name; this one stays as it is."""
        names = ScopeNames(dict(self._runs))
        names.add(name)
        return names

    def without_inside(self, name: str) -> ScopeNames:
        """Return a set without the names inside the scope `name`; this one stays as it is."""
        prefix = f"{name}/"
        return ScopeNames({base: run for base, run in self._runs.items() if not base.startswith(prefix)})

    def first_free(self, base: str, others: ScopeNames) -> str:
        """Return the first of base, base_1, base_2, ... that neither this set nor `others` holds."""
        start = max(self._runs.get(base, 0), others._runs.get(base, 0))
        names = (f"{base}_{number}" if number else base for number in count(start))
        return next(name for name in names if name not in self and name not in others)


class Registry:
    """What lies behind one default scope.

    Attributes
    ----------
    lock : threading.RLock
        To be held while names or variables are looked up and then taken.
    opened : ScopeNames
        Scopes that have been opened at the outermost level, by any thread.
    """

    def __init__(self, seed: int | None) -> None:
        self.lock = threading.RLock()
        self.opened = ScopeNames()
        self._variables: WeakValueDictionary[str, CellVariables] = WeakValueDictionary()
        self._kept: dict[str, CellVariables] = {}
        self._layers: Counter[str] = Counter()
        # Without a seed they are made when needed: importing numpy.random takes longer than importing this package.
        self._seeds = None if seed is None else _seed_sequence(seed)

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

    def holds(self, variables: CellVariables) -> bool:
        """Return whether these are the variables that a cell of their scope would share."""
        return self._variables.get(variables.scope) is variables

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


def _seed_sequence(seed: object) -> np.random.SeedSequence:
    try:
        return np.random.SeedSequence(seed)  # type: ignore[arg-type,unused-ignore]
    except (TypeError, ValueError):
        raise TypeError(f"seed: expected integers of at least 0, got {shown(seed)}") from None
