"""Variable scopes: how variables get their names, and how cells come to share them.

A scope is entered by name, inside the scope around it. The outermost one, the default scope, belongs to the
process and is the only one that threads share; each thread (and asyncio task) has a current scope of its own.

Source of the rules: TensorFlow 1.14, as observed (`tf.variable_scope`, `tf.layers.Layer`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count

import numpy as np

from indygru_cpu._messages import shown
from indygru_cpu._registry import AUTO_REUSE, Registry, Reuse, Size, checked_reuse
from indygru_cpu._variables import CellVariables

__all__ = ["AUTO_REUSE", "VariableScope", "get_variable_scope", "reset_default_scope", "variable_scope"]

_NUMBERED = re.compile(r"(.+)_([1-9]\d*)")
# Inside another scope the first character may be any of them.
_OUTERMOST_NAME = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.\-/]*")
_INNER_NAME = re.compile(r"[A-Za-z0-9_.\-/]*")


class VariableScope:
    """A place for variables, made by `variable_scope`.

    Attributes
    ----------
    name : str
        With the names of the scopes around it; "" for the default scope.
    reuse : False, True or AUTO_REUSE
        What holds for variables made inside.
    initializer : object
        Of the kernels of cells inside that have no `kernel_initializer`; None is Glorot uniform.
    """

    def __init__(
        self,
        name: str,
        reuse: bool | Reuse,
        initializer: object,
        registry: Registry,
        opened: dict[str, int] | None = None,
    ) -> None:
        self.name, self.reuse, self.initializer, self._registry = name, reuse, initializer, registry
        # base -> how many of base, base_1, ... have been opened inside. A list of them would only grow.
        self._opened = opened or {}

    def reuse_variables(self) -> None:
        """Set `reuse` to True from here on."""
        self.reuse = True

    def __repr__(self) -> str:
        return f"<VariableScope {self.name!r} reuse={self.reuse}>"

    def _unopened(self, base: str) -> str:
        names = (f"{base}_{number}" if number else base for number in count(self._opened.get(base, 0)))
        return next(name for name in names if not self._is_opened(name))

    def _is_opened(self, name: str) -> bool:
        base, number = _split(name)
        return name in self._opened or self._opened.get(base, 0) > number

    def _mark_opened(self, name: str) -> None:
        """Count a scope opened inside; "", for one that lies elsewhere, does no harm."""
        base, number = _split(name)
        if self._opened.get(base, 0) == number:
            self._opened[base] = number + 1
        else:
            self._opened.setdefault(name, 1)


def _split(name: str) -> tuple[str, int]:
    """("cell", 2) of "cell_2", and ("cell", 0) of "cell"."""
    match = _NUMBERED.fullmatch(name)
    return (match[1], int(match[2])) if match else (name, 0)


_default = VariableScope("", False, None, Registry(None))
_current: ContextVar[VariableScope | None] = ContextVar("indygru_cpu_variable_scope", default=None)


def get_variable_scope() -> VariableScope:
    """Return the current scope.

    Examples
    --------
    >>> from indygru_cpu import get_variable_scope, variable_scope
    >>> with variable_scope("encoder"), variable_scope("layer_1"):
    ...     get_variable_scope().name
    'encoder/layer_1'
    """
    return _current.get() or _default


def layer_name(base: str) -> str:
    """Return a name for a cell that has none."""
    return get_variable_scope()._registry.layer_name(base)


def random_generator() -> np.random.Generator:
    """Return a new stream of random numbers for an initialiser without a seed."""
    return get_variable_scope()._registry.generator()


def reset_default_scope(seed: int | None = None) -> None:
    """Forget all names and variables, for tests and notebooks. Cells keep their own variables.

    Parameters
    ----------
    seed : int, optional
        Of all initial values, from here on, whose initialiser has no seed of its own.

    Raises
    ------
    RuntimeError
        Inside a `variable_scope`.

    Examples
    --------
    >>> from indygru_cpu import IndyGRUCell, reset_default_scope
    >>> reset_default_scope(seed=7)
    >>> IndyGRUCell(4).name
    'indy_gru_cell_1'
    """
    global _default
    if _current.get() is not None:
        raise RuntimeError(f"reset_default_scope() inside of variable_scope {shown(get_variable_scope().name)}")
    _default = VariableScope("", False, None, Registry(seed))


@contextmanager
def variable_scope(
    name_or_scope: str | VariableScope | None,
    default_name: str | None = None,
    *,
    initializer: object = None,
    reuse: bool | Reuse | None = None,
) -> Iterator[VariableScope]:
    """Enter a scope: what is made inside is named after it.

    Parameters
    ----------
    name_or_scope : str or VariableScope or None
        A name inside the current scope, "" for itself, or a scope to come back to, wherever this is.
    default_name : str, optional
        If the first is None: this name, with a number if it has been used inside the current scope.
    initializer : initialiser, optional
        Of the kernels of cells that have none of their own; see `indygru_cpu.initializers`.
    reuse : bool or AUTO_REUSE, optional
        None and False: as the scope around; at the outside, variables are made and must not be there yet.
        True: they must be there, and are shared. AUTO_REUSE: shared if there, else made, and then kept until
        `reset_default_scope`. Without it, variables live as long as a cell that uses them.

    Yields
    ------
    VariableScope

    Raises
    ------
    ValueError
        A name that cannot be one; another `reuse`.
    TypeError
        Neither a name nor a scope.

    Examples
    --------
    >>> import numpy as np
    >>> from indygru_cpu import IndyGRUCell, variable_scope
    >>> x, h = np.full((3, 5), 0.5), np.full((3, 4), 0.5)
    >>> with variable_scope("docs") as scope:
    ...     cell = IndyGRUCell(4)
    ...     output, state = cell(x, h)
    >>> with variable_scope(scope, reuse=True):
    ...     twin = IndyGRUCell(4)
    ...     output, state = twin(x, h)
    >>> cell.scope_name, twin.named_variables["gates/bias"] is cell.named_variables["gates/bias"]
    ('docs/indy_gru_cell', True)
    """
    outside = _current.get()
    parent = get_variable_scope()
    if name_or_scope == "":
        name_or_scope = parent
    with parent._registry.lock:
        scope, name = _target(parent, name_or_scope, default_name, checked_reuse(reuse), initializer)
        parent._mark_opened(name)
    _current.set(scope)
    try:
        yield scope
    finally:
        _current.set(outside)
        scope._opened.clear()  # who enters the same name again starts to count again


def cell_variables(
    base_name: str,
    scope: str | VariableScope | None,
    reuse: bool | Reuse,
    size: Size,
    fill: Callable[[CellVariables, object], None],
) -> CellVariables:
    """Return the variables of a cell that is used for the first time, in the current scope.

    `fill` writes initial values into new ones; it gets them and the scope's initialiser. If anything fails,
    no name is taken and nothing registered.
    """
    parent = get_variable_scope()
    if scope is None and reuse:
        scope = base_name  # without a number
    with parent._registry.lock:
        target, name = _target(parent, scope, base_name, reuse, None)
        variables = target._registry.variables(
            target.name, target.reuse, size, lambda new: fill(new, target.initializer)
        )
        parent._mark_opened(name)
    return variables


def _target(
    parent: VariableScope,
    name_or_scope: object,
    default_name: object,
    reuse: bool | Reuse,
    initializer: object,
) -> tuple[VariableScope, str]:
    """Return the scope to enter, and its name inside `parent`, "" if it lies elsewhere."""
    if isinstance(name_or_scope, VariableScope):
        origin, name, opened = name_or_scope, "", dict(name_or_scope._opened)
    else:
        origin, name, opened = parent, _checked_name(parent, name_or_scope, default_name, reuse), {}
    full = "/".join(filter(None, (origin.name, name)))
    inherited = origin.initializer if initializer is None else initializer
    return VariableScope(full, reuse or origin.reuse, inherited, origin._registry, opened), name


def _checked_name(parent: VariableScope, name: object, default_name: object, reuse: bool | Reuse) -> str:
    if name is None:
        if default_name is None:
            raise TypeError("If default_name is None then name_or_scope is required")
        if reuse:
            raise ValueError("reuse=True cannot be used without a name_or_scope")
    given = default_name if name is None else name
    if not isinstance(given, str):
        raise TypeError(f"VariableScope: name_or_scope must be a string or VariableScope, got {shown(given)}.")
    if given and not (_INNER_NAME if parent.name else _OUTERMOST_NAME).fullmatch(given):
        raise ValueError(f"{shown(given)} is not a valid scope name")
    return parent._unopened(given) if name is None else given
