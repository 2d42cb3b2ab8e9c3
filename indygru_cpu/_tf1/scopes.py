"""Variable scopes: how variables are named and how cells share them.

A scope is entered by name, inside the current scope. Each thread and each asyncio task has its own current scope. The
outermost scope, the default scope, belongs to the process.

A cell without a name takes the first of base, base_1, base_2, ... that no scope opened before has. As in TensorFlow,
names become available again when the enclosing scope is left. Leaving a scope that was entered by name releases the
names inside it; leaving a scope that was re-entered by its `VariableScope` releases all names opened since. Each call
of a cell opens the cell's own scope.

Variables are referenced weakly: they exist as long as a cell uses them. Variables made under AUTO_REUSE are referenced
by the registry too, because a later cell may request them by name.

Source of the rules: the observed behaviour of TensorFlow 1.14 (`tf.variable_scope`, `tf.get_variable`,
`tf.layers.Layer`).
"""

from __future__ import annotations

import enum
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import numpy as np

from indygru_cpu._engine.messages import shortened, shown
from indygru_cpu._tf1 import checks as tf_checks
from indygru_cpu._tf1.variables import VARIABLE_NAMES, CellVariables, full_name

__all__ = ["AUTO_REUSE", "VariableScope", "get_variable_scope", "reset_default_scope", "variable_scope"]

CellSize = tuple[int, int, np.dtype[Any]]  # depth, num_units and dtype of a cell's variables

# Names inside another scope may begin with any of the allowed characters.
_OUTERMOST_NAME = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.\-/]*")
_INNER_NAME = re.compile(r"[A-Za-z0-9_.\-/]*")


class Reuse(enum.Enum):
    """The third value of `reuse`, besides False (or None) and True."""

    AUTO_REUSE = "AUTO_REUSE"


#: As `reuse`: share the variables if they exist, else create them.
AUTO_REUSE = Reuse.AUTO_REUSE


def checked_reuse(reuse: object) -> bool | Reuse:
    """Return False, True or AUTO_REUSE."""
    if reuse is None or isinstance(reuse, bool | np.bool_):
        return bool(reuse)
    if isinstance(reuse, Reuse):
        return reuse
    raise ValueError(f"The reuse parameter must be True or False or None or AUTO_REUSE: {shown(reuse)}")


def _split_number(name: str) -> tuple[str, int]:
    """Return ("cell", 2) for "cell_2", and ("cell", 0) for "cell"."""
    base, _, number = name.rpartition("_")
    if base and len(number) < 10 and number.isdecimal() and number.isascii() and number[0] != "0":
        return base, int(number)
    return name, 0


class ScopeNames:
    """A set of scope names. The names base, base_1, base_2, ... together take constant memory."""

    def __init__(self, run_lengths: dict[str, int] | None = None) -> None:
        # base -> how many of base, base_1, base_2, ... are in the set without a gap.
        self._run_lengths = run_lengths or {}

    def __contains__(self, name: str) -> bool:
        base, number = _split_number(name)
        return name in self._run_lengths or self._run_lengths.get(base, 0) > number

    def add(self, name: str) -> None:
        """Add a name to the set, in place."""
        base, number = _split_number(name)
        if self._run_lengths.get(base, 0) != number:
            self._run_lengths.setdefault(name, 1)
            return
        number += 1
        while f"{base}_{number}" in self._run_lengths:
            number += 1
        self._run_lengths[base] = number

    def with_name(self, name: str) -> ScopeNames:
        """Return a copy of the set with one more name."""
        names = ScopeNames(dict(self._run_lengths))
        names.add(name)
        return names

    def without_children(self, name: str) -> ScopeNames:
        """Return a copy of the set without the names inside the scope `name`."""
        prefix = f"{name}/"
        return ScopeNames({base: n for base, n in self._run_lengths.items() if not base.startswith(prefix)})

    def first_unused(self, base: str, other: ScopeNames) -> str:
        """Return the first of base, base_1, base_2, ... that is neither in this set nor in `other`."""
        start = max(self._run_lengths.get(base, 0), other._run_lengths.get(base, 0))
        names = (f"{base}_{number}" if number else base for number in count(start))
        return next(name for name in names if name not in self and name not in other)


class Registry:
    """The names, variables and seeds of one default scope.

    Attributes
    ----------
    lock : threading.RLock
        Held from the lookup of a name or variable until it is registered.
    opened : ScopeNames
        Scopes opened at the outermost level, by all threads.
    """

    def __init__(self, seed: int | None) -> None:
        self.lock = threading.RLock()
        self.opened = ScopeNames()
        self._variables: WeakValueDictionary[str, CellVariables] = WeakValueDictionary()
        self._persistent: dict[str, CellVariables] = {}
        self._layer_counts: Counter[str] = Counter()
        # Without a seed it is created on demand: importing numpy.random takes longer than importing this package.
        self._seed_sequence = None if seed is None else _seed_sequence(seed)

    def layer_name(self, base: str) -> str:
        """Return base_1, base_2, ...: the name of a cell that was constructed without one."""
        with self.lock:
            self._layer_counts[base] += 1
            return f"{base}_{self._layer_counts[base]}"

    def random_generator(self) -> np.random.Generator:
        """Return a new random generator, independent of all others."""
        with self.lock:
            if self._seed_sequence is None:
                self._seed_sequence = np.random.SeedSequence()
            return np.random.default_rng(self._seed_sequence.spawn(1)[0])

    def contains(self, variables: CellVariables) -> bool:
        """Return whether a new cell of the same scope would share these variables."""
        return self._variables.get(variables.scope) is variables

    def get_or_create(
        self, scope: str, reuse: bool | Reuse, size: CellSize, initialize: Callable[[CellVariables], None]
    ) -> CellVariables:
        """Return the variables of a scope, existing or new according to `reuse`. The caller holds the lock."""
        variables = self._variables.get(scope)
        first_name = shortened(full_name(scope, VARIABLE_NAMES[0]))
        if variables is None and reuse is True:
            raise ValueError(
                f"Variable {first_name} does not exist, or was not created with tf.get_variable(). Did you mean "
                "to set reuse=tf.AUTO_REUSE in VarScope? (Variables exist as long as a cell uses them.)"
            )
        if variables is not None and not reuse:
            raise ValueError(
                f"Variable {first_name} already exists, disallowed. Did you mean to set reuse=True or "
                "reuse=tf.AUTO_REUSE in VarScope?"
            )
        if variables is None:
            variables = CellVariables.empty(scope, *size)
            initialize(variables)
            self._variables[scope] = variables
        variables.check_compatible(*size)
        if reuse is AUTO_REUSE:
            self._persistent[scope] = variables
        return variables


def _seed_sequence(seed: object) -> np.random.SeedSequence:
    try:
        return np.random.SeedSequence(seed)  # type: ignore[arg-type,unused-ignore]
    except (TypeError, ValueError):
        raise TypeError(f"seed: expected integers of at least 0, got {shown(seed)}") from None


class VariableScope:
    """A named scope for variables, made by `variable_scope`. Its attributes are changed by its methods only."""

    def __init__(self, name: str, reuse: bool | Reuse, initializer: object, dtype: np.dtype[Any]) -> None:
        self._name, self._reuse, self._initializer, self._dtype = name, reuse, initializer, dtype

    @property
    def name(self) -> str:
        """Full name, which includes the names of the enclosing scopes. The default scope has the name ""."""
        return self._name

    @property
    def reuse(self) -> bool | Reuse:
        """False, True or AUTO_REUSE: whether cells inside share existing variables."""
        return self._reuse

    @property
    def initializer(self) -> object:
        """Kernel initialiser for cells inside without a `kernel_initializer`. None is Glorot uniform."""
        return self._initializer

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 unless set. As in TensorFlow, the variables of cells do not depend on it."""
        return self._dtype

    def reuse_variables(self) -> None:
        """Set `reuse` to True."""
        self._reuse = True

    def set_initializer(self, initializer: object) -> None:
        """Set `initializer`."""
        self._initializer = initializer

    def set_dtype(self, dtype: object) -> None:
        """Set `dtype`."""
        self._dtype = tf_checks.dtype("dtype", dtype)

    def __repr__(self) -> str:
        return f"<VariableScope {self.name!r} reuse={self.reuse}>"


class _Frame(NamedTuple):
    """A scope that has been entered and not left."""

    scope: VariableScope
    registry: Registry
    is_inner: bool  # whether names inside may begin with any character
    is_reentered: bool  # whether this frame or an enclosing one was entered by a VariableScope
    parent: _Frame | None
    manager: object  # the variable_scope that entered it
    saved_names: ScopeNames | None  # the thread's names, restored when a re-entered VariableScope is left


def _default_frame(seed: int | None) -> _Frame:
    root = VariableScope("", False, None, np.dtype(np.float32))
    return _Frame(root, Registry(seed), False, False, None, None, None)


_default = _default_frame(None)
_current: ContextVar[_Frame | None] = ContextVar("indygru_cpu_variable_scope", default=None)

# Scopes opened by this thread. The registry's lock identifies the registry without keeping its variables alive. Names
# of a registry that `reset_default_scope` has replaced are ignored. The set is never changed in place, because other
# threads and tasks may inherit it.
_opened_by_thread: ContextVar[tuple[object, ScopeNames] | None] = ContextVar("indygru_cpu_opened_scopes", default=None)


def _current_frame() -> _Frame:
    return _current.get() or _default


def _thread_names(registry: Registry) -> ScopeNames:
    entry = _opened_by_thread.get()
    return entry[1] if entry is not None and entry[0] is registry.lock else ScopeNames()


def _set_thread_names(registry: Registry, names: ScopeNames) -> None:
    _opened_by_thread.set((registry.lock, names))


def _register_name(frame: _Frame, name: str) -> None:
    """Register the full name of a scope as opened.

    Names at the outermost level belong to the registry, so that cells of different threads do not collide. Names inside
    a scope, and names that are released when a re-entered VariableScope is left, belong to the thread.
    """
    thread_names = _thread_names(frame.registry)
    if name in frame.registry.opened or name in thread_names:
        return
    if frame.is_reentered or "/" in name:
        _set_thread_names(frame.registry, thread_names.with_name(name))
    else:
        with frame.registry.lock:
            frame.registry.opened.add(name)


def _release_children(registry: Registry, name: str) -> None:
    """Release the names of the scopes inside a scope that was entered by name."""
    _set_thread_names(registry, _thread_names(registry).without_children(name))


def get_variable_scope() -> VariableScope:
    """Return the current scope.

    Examples
    --------
    >>> from indygru_cpu import get_variable_scope, variable_scope
    >>> with variable_scope("encoder"), variable_scope("layer_1"):
    ...     get_variable_scope().name
    'encoder/layer_1'
    """
    return _current_frame().scope


def layer_name(base: str) -> str:
    """Return the name of a cell that was constructed without one."""
    return _current_frame().registry.layer_name(base)


def random_generator() -> np.random.Generator:
    """Return a new random generator for an initialiser without a seed."""
    return _current_frame().registry.random_generator()


def reset_default_scope(seed: int | None = None) -> None:
    """Discard all names and variables. Intended for tests and notebooks. Existing cells keep their variables.

    Parameters
    ----------
    seed : int, optional
        Seed of the initial values of initialisers without a seed of their own.

    Raises
    ------
    RuntimeError
        The call is inside a `variable_scope`.
    TypeError
        `seed` is not an integer of at least 0 or a sequence of such integers.

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
    """A context manager that enters a scope: variables made inside are named after it.

    Parameters
    ----------
    name_or_scope : str or VariableScope or None
        A name inside the current scope, or a `VariableScope` to enter again from any scope. As in TensorFlow, "" is the
        default scope if that is the current scope, and a scope named "s/" inside the scope "s".
    default_name : str, optional
        The name if `name_or_scope` is None. A number is appended if it has been used inside the current scope.
    values : iterable, optional
        Accepted for compatibility with TensorFlow and ignored.
    initializer : initialiser, optional
        Kernel initialiser for cells without a `kernel_initializer`, see `indygru_cpu.initializers.get`.
    reuse : bool or AUTO_REUSE, optional
        True: the variables must exist and are shared. AUTO_REUSE: existing variables are shared, missing ones are
        created and kept until `reset_default_scope`. None and False: inherited from the enclosing scope; in the default
        scope the variables are created and must not exist. Variables not made under AUTO_REUSE exist as long as a cell
        uses them.
    dtype : float32 or float64, optional
        The attribute `dtype` of the scope. As in TensorFlow, cells take the dtype of their first inputs instead.

    Returns
    -------
    VariableScope
        From ``with variable_scope(...) as scope``. The context manager can be entered again, also while it is active.

    Raises
    ------
    ValueError
        An invalid name; an invalid `reuse`.
    TypeError
        `name_or_scope` is neither a string nor a VariableScope; an invalid `dtype`; `values` is not iterable.
    RuntimeError
        A scope is not left in the reverse order of entering, or in another thread or task.

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
        self._dtype = None if dtype is None else tf_checks.dtype("dtype", dtype)
        self._entered_scope: VariableScope | None = None

    def __enter__(self) -> VariableScope:
        frame = _current_frame()
        reenters = isinstance(self._target, VariableScope)
        with frame.registry.lock:
            scope, is_inner = _resolve_scope(
                frame, self._target, self._default_name, self._reuse, self._initializer, self._dtype
            )
            _register_name(frame, scope.name)
        # TensorFlow keeps these values for the next time the same context manager is entered.
        if reenters:
            scope = self._entered_scope = self._entered_scope or scope
        else:
            self._reuse = scope.reuse
            if self._target is None:
                self._target = scope.name.removeprefix(full_name(frame.scope.name, ""))
        saved_names = _thread_names(frame.registry) if reenters else None
        _current.set(
            _Frame(scope, frame.registry, is_inner, frame.is_reentered or reenters, _current.get(), self, saved_names)
        )
        return scope

    def __exit__(self, *_: object) -> None:
        frame = _current.get()
        if frame is None or frame.manager is not self:
            raise RuntimeError(
                "Improper nesting of variable_scope: leave scopes in the reverse of the order in which they were "
                f"entered, in the same thread or task. The current scope is {shown(get_variable_scope().name)}."
            )
        if frame.saved_names is None:
            _release_children(frame.registry, frame.scope.name)
        else:
            _set_thread_names(frame.registry, frame.saved_names)
        _current.set(frame.parent)


@contextmanager
def any_first_character() -> Iterator[None]:
    """Allow names to begin with any character: TensorFlow runs a sequence inside the name scope of a while loop."""
    frame = _current_frame()
    token = _current.set(frame._replace(is_inner=True))
    try:
        yield
    finally:
        _current.reset(token)


def get_or_create_variables(
    base_name: str,
    scope: str | VariableScope | None,
    reuse: bool | Reuse,
    size: CellSize,
    initialize: Callable[[CellVariables, object], None],
) -> CellVariables:
    """Return the variables for the first use of a cell in the current scope.

    `initialize` receives new variables and the scope's initialiser, and writes the initial values. After a failure no
    name and no variable is registered.
    """
    frame = _current_frame()
    if scope is None and reuse:
        scope = base_name  # without a number
    with frame.registry.lock:
        target, _ = _resolve_scope(frame, scope, base_name, reuse, None, None)
        if target.name and not _OUTERMOST_NAME.fullmatch(target.name):
            raise ValueError(f"{shown(full_name(target.name, VARIABLE_NAMES[0]))} is not a valid scope name")
        variables = frame.registry.get_or_create(
            target.name, target.reuse, size, lambda created: initialize(created, target.initializer)
        )
        _register_name(frame, target.name)
        if not isinstance(scope, VariableScope):
            _release_children(frame.registry, target.name)
    return variables


def register_call(variables: CellVariables) -> None:
    """Register the scope of a built cell as opened, as each call of a cell does."""
    frame = _current_frame()
    if frame.registry.contains(variables):
        _register_name(frame, variables.scope)


def _resolve_scope(
    frame: _Frame,
    target: object,
    default_name: object,
    reuse: bool | Reuse,
    initializer: object,
    dtype: np.dtype[Any] | None,
) -> tuple[VariableScope, bool]:
    """Return the scope to enter, and whether names inside may begin with any character."""
    if isinstance(target, VariableScope):
        base, name = target, target.name
        is_inner = _check_name(target.name.split("/")[-1], frame.is_inner)
    else:
        base = frame.scope
        relative_name, is_inner = _relative_name(frame, target, default_name, reuse)
        name = f"{base.name}/{relative_name}" if base.name else relative_name
    scope = VariableScope(
        name,
        reuse or base.reuse,
        base.initializer if initializer is None else initializer,
        dtype or base.dtype,
    )
    return scope, is_inner


def _relative_name(frame: _Frame, name: object, default_name: object, reuse: bool | Reuse) -> tuple[str, bool]:
    """Return the name inside the current scope. A default name that is in use gets a number."""
    if name is None and reuse:
        raise ValueError("reuse=True cannot be used without a name_or_scope")
    relative_name = default_name if name is None else name
    if not isinstance(relative_name, str):
        raise TypeError(f"VariableScope: name_or_scope must be a string or VariableScope, got {shown(relative_name)}.")
    is_inner = _check_name(relative_name, frame.is_inner)
    if name is not None:
        return relative_name, is_inner
    base = full_name(frame.scope.name, relative_name)
    unused = frame.registry.opened.first_unused(base, _thread_names(frame.registry))
    # For an empty default name TensorFlow applies the rule for the outermost level again.
    return relative_name + unused.removeprefix(base), is_inner and bool(relative_name)


def _check_name(name: str, is_inner: bool) -> bool:
    """Check the name of a scope, and return whether names inside it may begin with any character."""
    if name and not (_INNER_NAME if is_inner else _OUTERMOST_NAME).fullmatch(name):
        raise ValueError(f"{shown(name)} is not a valid scope name")
    return bool(name.removesuffix("/")) if name else is_inner
