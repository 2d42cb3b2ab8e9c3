"""The variables of a cell among the tensors of a checkpoint.

Depending on the saver, a variable `enc/gates/kernel_w` is stored as

    enc/gates/kernel_w                                     tf.train.Saver()
    enc/gates/kernel_w:0                                   Saver({variable.name: variable})
    enc/gates/kernel_w/part_0, enc/gates/kernel_w/part_1   partitioned, Saver({variable.op.name: variable})
    enc/gates/kernel_w/ExponentialMovingAverage            the average of tf.train.ExponentialMovingAverage
    enc/gates.Skernel_w/.ATTRIBUTES/VARIABLE_VALUE         tf.train.Checkpoint(enc=cell)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from indygru_cpu._engine.messages import listed, shortened, shown, shown_path
from indygru_cpu._tf1.variables import VARIABLE_NAMES, full_name
from indygru_cpu._typing import Array
from indygru_cpu.tensorflow._checkpoint import CheckpointReader, TensorEntry
from indygru_cpu.tensorflow._protobuf import CheckpointError, error_context

NameMapping = Mapping[str, str] | Callable[[str], str] | None
_Parts = dict[int | None, tuple[str, TensorEntry]]  # part number, or None for a whole variable -> tensor name and entry

#: Variables of an IndyGRUCell that a GRUCell does not have.
_DISTINCTIVE_NAMES = ("gates/kernel_w", "gates/kernel_u", "candidate/kernel_u")
_AVERAGE_SUFFIX = "/ExponentialMovingAverage"
_OBJECT_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
_OBJECT_GRAPHS = ("_CHECKPOINTABLE_OBJECT_GRAPH", "_TRACKABLE_OBJECT_GRAPH")
_PART = re.compile(r"(.+)/part_(\d{1,9})", re.DOTALL)
#: Scopes in an error text, and parts of a variable. Each takes a little memory, whatever its size in the file.
_MAX_SCOPES, _MAX_PARTS = 32, 256
_FLOAT_DTYPES = (np.float16, np.float32, np.float64)


class StoredVariable(NamedTuple):
    """A variable in a checkpoint: one tensor, or parts to be concatenated along an axis."""

    parts: dict[str, TensorEntry]
    shape: tuple[int, ...]
    axis: int | None

    @property
    def description(self) -> str:
        """Type and shape, for error texts."""
        entry = next(iter(self.parts.values()))
        return f"{entry.dtype_name} of shape {shown(self.shape)}"


class StoredCell(NamedTuple):
    """The six variables of a cell in a checkpoint. Their sizes and dtypes are consistent."""

    scope: str
    depth: int
    num_units: int
    dtype: np.dtype
    variables: list[StoredVariable]


def checkpoint_names(names: NameMapping) -> dict[str, str]:
    """Return the checkpoint's names of the six variables, relative to the cell's scope, by their names in a cell."""
    if names is None:
        return {name: name for name in VARIABLE_NAMES}
    if isinstance(names, Mapping):
        unknown = [name for name in names if name not in VARIABLE_NAMES]
        if unknown:
            raise ValueError(
                f"names: expected a mapping from the cell's names {list(VARIABLE_NAMES)} to those in the checkpoint, "
                f"got the keys {listed(unknown)}"
            )
        stored_names = {name: names.get(name, name) for name in VARIABLE_NAMES}
    elif callable(names):
        stored_names = {name: names(name) for name in VARIABLE_NAMES}
    else:
        raise TypeError(f"names: expected a mapping or a function of a name, got {type(names).__name__}")
    for name, stored_name in stored_names.items():
        if not isinstance(stored_name, str) or not stored_name:
            raise TypeError(f"names: expected a name for {name!r}, got {shown(stored_name)}")
    stored_names = {name: stored_name.removesuffix(":0").strip("/") for name, stored_name in stored_names.items()}
    if len(set(stored_names.values())) < len(stored_names):
        raise ValueError(f"names: expected six different names, got {listed(list(stored_names.values()))}")
    return stored_names


def find_cell(
    reader: CheckpointReader, scope: str | None, names: Mapping[str, str], averages: bool, dtype: np.dtype | None
) -> StoredCell:
    """Return the variables of the cell in `scope`, or of the only cell, after a check that they are consistent.

    The index is decoded several times instead of being stored, see `BundleIndex`.
    """
    location = shown_path(reader.prefix)
    scope = _select_scope(reader, scope, names, averages)
    parts_by_name = _collect_parts(reader, scope, names, averages)
    missing = [full_name(scope, names[name]) for name in VARIABLE_NAMES if not parts_by_name[name]]
    if missing:
        kind = " as moving averages" if averages else ""
        raise CheckpointError(f"{location}: expected six variables of the cell{kind}, got none named {listed(missing)}")
    with error_context(location):
        entries = {name: _sort_parts(full_name(scope, names[name]), parts) for name, parts in parts_by_name.items()}
        return _check_cell(scope, {full_name(scope, names[name]): entries[name] for name in VARIABLE_NAMES}, dtype)


def _iter_variables(reader: CheckpointReader, averages: bool) -> Iterator[tuple[str, int | None, str, TensorEntry]]:
    """Yield for each tensor the name of its variable, its part number, its own name, and its entry."""
    for name, entry in reader.entries():
        variable = name
        if name.endswith(_OBJECT_SUFFIX):
            variable = re.sub(r"\.(S|\.)", lambda code: "/" if code[1] == "S" else ".", name[: -len(_OBJECT_SUFFIX)])
        variable = variable.removesuffix(":0")
        if variable.endswith(_AVERAGE_SUFFIX) != averages:
            continue
        variable = variable.removesuffix(_AVERAGE_SUFFIX)
        part = _PART.fullmatch(variable)
        yield (part[1], int(part[2]), name, entry) if part else (variable, None, name, entry)


def _select_scope(reader: CheckpointReader, scope: str | None, names: Mapping[str, str], averages: bool) -> str:
    """Return the scope of the only cell, or `scope` if it contains a cell."""
    counts = {names[name]: 0 for name in _DISTINCTIVE_NAMES}
    scopes: set[str] = set()
    for variable, part, *_ in _iter_variables(reader, averages):
        for name in counts:
            prefix = variable.removesuffix(name)
            if prefix == variable or (prefix and not prefix.endswith("/")):
                continue
            cell_scope = prefix[:-1]
            if scope == cell_scope or (scope is not None and prefix == ""):  # `names` may contain full names
                return scope
            counts[name] += part in (None, 0)
            if len(scopes) < _MAX_SCOPES:
                scopes.add(cell_scope)
    if scope is None and len(scopes) == 1:
        return scopes.pop()
    if not scopes:
        raise _missing_cell_error(reader, names, averages)
    raise ValueError(
        f"scope: expected one of the cells in {shown_path(reader.prefix)}, "
        f"{listed(sorted(scopes), max(len(scopes), *counts.values()))}, got {shown(scope)}"
    )


def _missing_cell_error(reader: CheckpointReader, names: Mapping[str, str], averages: bool) -> CheckpointError:
    first_names: list[str] = []
    n_tensors, is_object_based = 0, False
    for name, _ in reader.entries():
        n_tensors += 1
        is_object_based |= name in _OBJECT_GRAPHS
        if len(first_names) < _MAX_SCOPES:
            first_names.append(shortened(name))
    kind = "an object-based checkpoint of " if is_object_based else ""
    expected = "the moving averages of an IndyGRUCell" if averages else "an IndyGRUCell"
    if tuple(names) != tuple(names.values()):
        expected += f" with the names {listed(list(names.values()))}"
    return CheckpointError(
        f"{shown_path(reader.prefix)}: expected {expected}, got {kind}{listed(first_names, n_tensors)}: if its "
        "variables have other names, pass names="
    )


def _collect_parts(reader: CheckpointReader, scope: str, names: Mapping[str, str], averages: bool) -> dict[str, _Parts]:
    """Return the tensors of each of the six variables. A name without ":0" takes precedence."""
    scoped_names = {full_name(scope, stored_name): name for name, stored_name in names.items()}
    # A value of `names` may be a full name instead of one relative to the scope. The latter takes precedence.
    full_names = {
        stored_name: name
        for name, stored_name in names.items()
        if stored_name not in scoped_names and stored_name != name
    }
    scoped_parts: dict[str, _Parts] = {name: {} for name in VARIABLE_NAMES}
    unscoped_parts: dict[str, _Parts] = {name: {} for name in VARIABLE_NAMES}
    for variable, part, tensor, entry in _iter_variables(reader, averages):
        for parts_by_name, cell_names in ((scoped_parts, scoped_names), (unscoped_parts, full_names)):
            if variable in cell_names:
                parts = parts_by_name[cell_names[variable]]
                if len(parts) <= _MAX_PARTS:  # `_sort_parts` refuses one part too many
                    parts.setdefault(part, (tensor, entry))
    return {name: scoped_parts[name] or unscoped_parts[name] for name in VARIABLE_NAMES}


def _sort_parts(name: str, parts: _Parts) -> dict[str, TensorEntry]:
    """Return the tensors of a variable in the order of their part numbers."""
    if None in parts:
        return dict([parts[None]])
    if len(parts) > _MAX_PARTS:
        raise CheckpointError(f"variable {shown(name)}: expected at most {_MAX_PARTS} parts, got more")
    numbers = sorted(part for part in parts if part is not None)
    if numbers != list(range(len(numbers))):
        raise CheckpointError(f"variable {shown(name)}: expected parts numbered from part_0, got {listed(numbers)}")
    return dict(parts[number] for number in numbers)


def _check_cell(scope: str, entries: Mapping[str, dict[str, TensorEntry]], dtype: np.dtype | None) -> StoredCell:
    """Return sizes, dtype and variables of a cell after a check that they are consistent."""
    gates_bias = list(entries.values())[2]
    n_gates = sum(entry.shape[0] for entry in gates_bias.values() if len(entry.shape) == 1)
    columns = (n_gates, n_gates, n_gates, n_gates // 2, n_gates // 2, n_gates // 2)
    variables = [
        _join_parts(name, parts, n_columns) for (name, parts), n_columns in zip(entries.items(), columns, strict=True)
    ]
    names = list(entries)
    kernel = variables[0]
    stored_dtype = next(iter(kernel.parts.values())).dtype
    if stored_dtype not in _FLOAT_DTYPES or len(kernel.shape) != 2 or kernel.shape[1] % 2:
        raise CheckpointError(
            f"tensor {shown(names[0])}: expected float32 or float64 of shape (D, 2N), got {kernel.description}"
        )
    depth, n_gates = kernel.shape
    n = n_gates // 2
    shapes = [(depth, n_gates), (1, n_gates), (n_gates,), (depth, n), (1, n), (n,)]
    for name, variable, shape in zip(names, variables, shapes, strict=True):
        dtypes = {entry.dtype for entry in variable.parts.values()}
        is_valid = dtypes == {stored_dtype} if dtype is None else all(each in _FLOAT_DTYPES for each in dtypes)
        if not is_valid or variable.shape != shape:
            raise CheckpointError(
                f"tensor {shown(name)}: expected {stored_dtype} of shape {shape}, got {variable.description}"
            )
    if dtype is None and stored_dtype == np.float16:
        raise CheckpointError(
            f'tensor {shown(names[0])}: expected float32 or float64, got float16: dtype="float32" converts the values'
        )
    return StoredCell(scope, depth, n, stored_dtype if dtype is None else dtype, variables)


def _join_parts(name: str, parts: dict[str, TensorEntry], n_columns: int) -> StoredVariable:
    """Return a variable with its shape. Parts with fewer columns than the cell's are concatenated along columns."""
    shapes = [entry.shape for entry in parts.values()]
    first = shapes[0]
    if len(parts) == 1:
        return StoredVariable(parts, first, None)
    axis = 1 if len(first) == 2 and first[1] != n_columns else 0
    other_axes = {shape[:axis] + shape[axis + 1 :] for shape in shapes if len(shape) == len(first)}
    if not first or len(other_axes) > 1 or any(len(shape) != len(first) for shape in shapes):
        raise CheckpointError(
            f"variable {shown(name)}: expected parts of one shape except along an axis, got {listed(shapes)}"
        )
    joined = (*first[:axis], sum(shape[axis] for shape in shapes), *first[axis + 1 :])
    return StoredVariable(parts, joined, axis)


def read_into(reader: CheckpointReader, cell: StoredCell, arrays: list[Array]) -> None:
    """Write the values of the six variables into arrays of their shapes, in the dtype of the cell."""
    targets = {}
    for variable, array in zip(cell.variables, arrays, strict=True):
        start = 0
        for name, entry in variable.parts.items():
            target = array
            if variable.axis is not None:
                stop = start + entry.shape[variable.axis]
                target = array[(slice(None),) * variable.axis + (slice(start, stop),)]
                start = stop
            targets[name] = target
    entries = {name: entry for variable in cell.variables for name, entry in variable.parts.items()}
    for name, values in reader.read(entries):
        with np.errstate(over="ignore"):
            targets[name][...] = values
        if values.dtype.itemsize > cell.dtype.itemsize and not np.array_equal(
            np.isfinite(values), np.isfinite(targets[name])
        ):
            raise CheckpointError(
                f"{shown_path(reader.prefix)}: tensor {shown(name)}: values too large for dtype={cell.dtype.name!r}"
            )
