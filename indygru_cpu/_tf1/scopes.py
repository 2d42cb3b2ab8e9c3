"""Variable scopes: how variables get their names, and how cells come to share them.

A scope is entered by name, inside the scope around it. Each thread (and asyncio task) has a current scope of its own.
The outermost one, the default scope, belongs to the process.

A cell without a name takes the first of base, base_1, base_2, ... that no scope opened before has. As in the original,
names are forgotten when the scope around them is left: the names inside a scope that was entered by name, and all names
opened since then when a `VariableScope` is left. Each call of a cell opens the cell's own scope.

Source of the rules: TensorFlow 1.14, as observed (`tf.variable_scope`, `tf.layers.Layer`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np

from indygru_cpu._engine.messages import shown
from indygru_cpu._tf1 import checks as check
from indygru_cpu._tf1.registry import AUTO_REUSE, Registry, Reuse, ScopeNames, Size, checked_reuse
from indygru_cpu._tf1.variables import VARIABLE_NAMES, CellVariables, full_name

__all__ = ["AUTO_REUSE", "VariableScope", "get_variable_scope", "reset_default_scope", "variable_scope"]

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
    dtype : numpy.dtype
        float32 unless set. As in the original, the variables of cells do not depend on it.
    """

    def __init__(self, name: str, reuse: bool | Reuse, initializer: object, dtype: np.dtype[Any]) -> None:
        self._name, self._reuse, self._initializer, self._dtype = name, reuse, initializer, dtype

    @property
    def name(self) -> str:
        """Name, with the names of the scopes around it."""
        return self._name

    @property
    def reuse(self) -> bool | Reuse:
        """What holds for variables made inside."""
        return self._reuse

    @property
    def initializer(self) -> object:
        """Initialiser of the kernels of cells inside that have none of their own."""
        return self._initializer

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 unless set. Cells do not depend on it."""
        return self._dtype

    def reuse_variables(self) -> None:
        """Set `reuse` to True from here on."""
        self._reuse = True

    def set_initializer(self, initializer: object) -> None:
        """Set `initializer` from here on."""
        self._initializer = initializer

    def set_dtype(self, dtype: object) -> None:
        """Set `dtype` from here on."""
        self._dtype = check.dtype("dtype", dtype)

    def __repr__(self) -> str:
        return f"<VariableScope {self.name!r} reuse={self.reuse}>"


class _Frame(NamedTuple):
    """One scope that has been entered and not left."""

    scope: VariableScope
    registry: Registry
    inner: bool  # whether names inside may begin with any character
    jumped: bool  # whether this frame, or one around it, was entered by a VariableScope
    outside: _Frame | None
    owner: object  # the variable_scope that entered it
    names: ScopeNames | None  # of this thread, to go back to when a VariableScope is left


def _default_frame(seed: int | None) -> _Frame:
    root = VariableScope("", False, None, np.dtype(np.float32))
    return _Frame(root, Registry(seed), False, False, None, None, None)


_default = _default_frame(None)
_current: ContextVar[_Frame | None] = ContextVar("indygru_cpu_variable_scope", default=None)

# Opened scopes of this thread, and the registry's lock, which tells whose they are: after `reset_default_scope` they do
# not count any more. The set is never changed in place, so threads and tasks that inherit it do not see each other's.
_opened: ContextVar[tuple[object, ScopeNames] | None] = ContextVar("indygru_cpu_opened_scopes", default=None)


def _frame() -> _Frame:
    return _current.get() or _default


def _own_names(registry: Registry) -> ScopeNames:
    found = _opened.get()
    return found[1] if found is not None and found[0] is registry.lock else ScopeNames()


def _set_own_names(registry: Registry, names: ScopeNames) -> None:
    _opened.set((registry.lock, names))


def _open(frame: _Frame, name: str) -> None:
    """Count a scope as opened, by its full name.

    Threads share the names of the outermost level, so that they do not collide. Names inside a scope, and those that
    are forgotten when a VariableScope is left, belong to the thread.
    """
    own = _own_names(frame.registry)
    if name in frame.registry.opened or name in own:
        return
    if frame.jumped or "/" in name:
        _set_own_names(frame.registry, own.with_name(name))
    else:
        with frame.registry.lock:
            frame.registry.opened.add(name)


def _close(registry: Registry, name: str) -> None:
    """Forget the scopes that have been opened inside one that was entered by name."""
    _set_own_names(registry, _own_names(registry).without_inside(name))


def get_variable_scope() -> VariableScope:
    """Return the current scope.

    Examples
    --------
    >>> from indygru_cpu import get_variable_scope, variable_scope
    >>> with variable_scope("encoder"), variable_scope("layer_1"):
    ...     get_variable_scope().name
    'encoder/layer_1'
    """
    return _frame().scope


def layer_name(base: str) -> str:
    """Return a name for a cell that has none."""
    return _frame().registry.layer_name(base)


def random_generator() -> np.random.Generator:
    """Return a new stream of random numbers for an initialiser without a seed."""
    return _frame().registry.generator()


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
    _default = _default_frame(seed)


class variable_scope:
    """A context manager that enters a scope: what is made inside is named after it.

    Parameters
    ----------
    name_or_scope : str or VariableScope or None
        A name inside the current scope, or a scope to come back to, wherever this is. "" is, as in the original, the
        default scope if it is the current one, and a scope named "s/" inside the scope "s".
    default_name : str, optional
        If the first is None: this name, with a number if it has been used inside the current scope.
    values : iterable, optional
        Taken for compatibility; it has no meaning here.
    initializer : initialiser, optional
        Of the kernels of cells that have none of their own; see `indygru_cpu.initializers`.
    reuse : bool or AUTO_REUSE, optional
        None and False: as the scope around; at the outside, variables are made and must not be there yet.
        True: they must be there, and are shared. AUTO_REUSE: shared if there, else made, and then kept until
        `reset_default_scope`. Without it, variables live as long as a cell that uses them.
    dtype : float32 or float64, optional
        The attribute `dtype` of the scope. As in the original, cells take the dtype of their first inputs instead.

    Returns
    -------
    VariableScope
        From ``with variable_scope(...) as scope``. The context manager may be entered again, after it has been left or
        inside of itself.

    Raises
    ------
    ValueError
        A name that cannot be one; another `reuse`.
    TypeError
        Neither a name nor a scope; a `dtype` that is none; `values` that cannot be iterated over.
    RuntimeError
        Scopes are not left in the reverse of the order in which they were entered, or in another thread or task.

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

    def __init__(
        self,
        name_or_scope: str | VariableScope | None,
        default_name: str | None = None,
        values: Iterable[object] | None = None,
        initializer: object = None,
        *,
        reuse: bool | Reuse | None = None,
        dtype: object = None,
    ) -> None:
        if name_or_scope is None and default_name is None:
            raise TypeError("If default_name is None then name_or_scope is required")
        if values is not None and not isinstance(values, Iterable):
            raise TypeError(f"values: expected a list of arrays, got {type(values).__name__}")
        self._target, self._default_name = name_or_scope, default_name
        self._reuse, self._initializer = checked_reuse(reuse), initializer
        self._dtype = None if dtype is None else check.dtype("dtype", dtype)
        self._copied: VariableScope | None = None

    def __enter__(self) -> VariableScope:
        frame = _frame()
        jump = isinstance(self._target, VariableScope)
        with frame.registry.lock:
            scope, inner = _entered(
                frame, self._target, self._default_name, self._reuse, self._initializer, self._dtype
            )
            _open(frame, scope.name)
        # The original keeps these for the next time that the same context manager is entered.
        if jump:
            scope = self._copied = self._copied or scope
        else:
            self._reuse = scope.reuse
            if self._target is None:
                self._target = scope.name.removeprefix(full_name(frame.scope.name, ""))
        names = _own_names(frame.registry) if jump else None
        _current.set(_Frame(scope, frame.registry, inner, frame.jumped or jump, _current.get(), self, names))
        return scope

    def __exit__(self, *_: object) -> None:
        frame = _current.get()
        if frame is None or frame.owner is not self:
            raise RuntimeError(
                "Improper nesting of variable_scope: leave scopes in the reverse of the order in which they were "
                f"entered, in the same thread or task. The current scope is {shown(get_variable_scope().name)}."
            )
        if frame.names is None:
            _close(frame.registry, frame.scope.name)
        else:
            _set_own_names(frame.registry, frame.names)
        _current.set(frame.outside)


@contextmanager
def any_first_character() -> Iterator[None]:
    """Let names begin with any character. The original runs a sequence in a loop, which has a name of its own."""
    frame = _frame()
    token = _current.set(frame._replace(inner=True))
    try:
        yield
    finally:
        _current.reset(token)


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
    frame = _frame()
    if scope is None and reuse:
        scope = base_name  # without a number
    with frame.registry.lock:
        target, _ = _entered(frame, scope, base_name, reuse, None, None)
        if target.name and not _OUTERMOST_NAME.fullmatch(target.name):
            raise ValueError(f"{shown(full_name(target.name, VARIABLE_NAMES[0]))} is not a valid scope name")
        variables = frame.registry.variables(target.name, target.reuse, size, lambda new: fill(new, target.initializer))
        _open(frame, target.name)
        if not isinstance(scope, VariableScope):
            _close(frame.registry, target.name)
    return variables


def cell_called_again(variables: CellVariables) -> None:
    """Open the scope of a cell that has its variables, as each call does."""
    frame = _frame()
    if frame.registry.holds(variables):
        _open(frame, variables.scope)


def _entered(
    frame: _Frame,
    target: object,
    default_name: object,
    reuse: bool | Reuse,
    initializer: object,
    dtype: np.dtype[Any] | None,
) -> tuple[VariableScope, bool]:
    """Return the scope that is entered, and whether names inside may begin with any character."""
    if isinstance(target, VariableScope):
        origin, name = target, target.name
        inner = _checked_name(target.name.split("/")[-1], frame.inner)
    else:
        origin = frame.scope
        relative, inner = _relative_name(frame, target, default_name, reuse)
        name = f"{origin.name}/{relative}" if origin.name else relative
    scope = VariableScope(
        name,
        reuse or origin.reuse,
        origin.initializer if initializer is None else initializer,
        dtype or origin.dtype,
    )
    return scope, inner


def _relative_name(frame: _Frame, name: object, default_name: object, reuse: bool | Reuse) -> tuple[str, bool]:
    """Return the name inside the current scope, with a number if it is a default name that is taken."""
    if name is None and reuse:
        raise ValueError("reuse=True cannot be used without a name_or_scope")
    given = default_name if name is None else name
    if not isinstance(given, str):
        raise TypeError(f"VariableScope: name_or_scope must be a string or VariableScope, got {shown(given)}.")
    inner = _checked_name(given, frame.inner)
    if name is not None:
        return given, inner
    base = full_name(frame.scope.name, given)
    free = frame.registry.opened.first_free(base, _own_names(frame.registry))
    # The original resets the rule for first characters for an empty default name.
    return given + free.removeprefix(base), inner and bool(given)


def _checked_name(name: str, inner: bool) -> bool:
    """Check a scope's name and return whether names inside it may begin with any character."""
    if name and not (_INNER_NAME if inner else _OUTERMOST_NAME).fullmatch(name):
        raise ValueError(f"{shown(name)} is not a valid scope name")
    return bool(name.removesuffix("/")) if name else inner
