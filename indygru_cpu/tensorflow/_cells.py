"""Finds the variables of a cell among the tensors of a checkpoint, under the names that savers give them.

A saver may store a variable `enc/gates/kernel_w` as

    enc/gates/kernel_w                                     tf.train.Saver()
    enc/gates/kernel_w:0                                   Saver({variable.name: variable})
    enc/gates/kernel_w/part_0, enc/gates/kernel_w/part_1   a partitioned one, Saver({variable.op.name: variable})
    enc/gates/kernel_w/ExponentialMovingAverage            the average that tf.train.ExponentialMovingAverage keeps
    enc/gates.Skernel_w/.ATTRIBUTES/VARIABLE_VALUE         tf.train.Checkpoint(enc=cell)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from indygru_cpu._engine.messages import listed, shortened, shown, shown_path
from indygru_cpu._tf1.variables import VARIABLE_NAMES, full_name
from indygru_cpu.tensorflow._checkpoint import CheckpointReader, TensorEntry
from indygru_cpu.tensorflow._protobuf import CheckpointError, located

Names = Mapping[str, str] | Callable[[str], str] | None

#: These tell the cell from a GRUCell, whose names are otherwise the same.
_TELLING = ("gates/kernel_w", "gates/kernel_u", "candidate/kernel_u")
_AVERAGE = "/ExponentialMovingAverage"
_OBJECT_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_OBJECT_GRAPHS = ("_CHECKPOINTABLE_OBJECT_GRAPH", "_TRACKABLE_OBJECT_GRAPH")
_PART = re.compile(r"(.+)/part_(\d{1,9})", re.DOTALL)
#: Scopes in an error text, and parts of a variable: each needs a little memory, whatever its size in the file.
_MAX_SCOPES, _MAX_PARTS = 32, 256
_FLOATS = (np.float16, np.float32, np.float64)


class Stored(NamedTuple):
    """A variable as a checkpoint has it: one tensor, or parts to be joined along an axis."""

    parts: dict[str, TensorEntry]
    shape: tuple[int, ...]
    axis: int | None


class StoredCell(NamedTuple):
    """The six variables of a cell, which agree with each other."""

    scope: str
    depth: int
    num_units: int
    dtype: np.dtype
    variables: list[Stored]


def stored_names(names: Names) -> dict[str, str]:
    """Return the names that six variables have in a checkpoint, below the cell's scope, by their names in a cell."""
    if names is None:
        return {name: name for name in VARIABLE_NAMES}
    if isinstance(names, Mapping):
        unknown = [name for name in names if name not in VARIABLE_NAMES]
        if unknown:
            raise ValueError(
                f"names: expected a mapping from the cell's names {list(VARIABLE_NAMES)} to those in the checkpoint, "
                f"got the keys {listed(unknown)}"
            )
        found = {name: names.get(name, name) for name in VARIABLE_NAMES}
    elif callable(names):
        found = {name: names(name) for name in VARIABLE_NAMES}
    else:
        raise TypeError(f"names: expected a mapping or a function of a name, got {type(names).__name__}")
    for name, stored in found.items():
        if not isinstance(stored, str) or not stored:
            raise TypeError(f"names: expected a name for {name!r}, got {shown(stored)}")
    found = {name: stored.removesuffix(":0").strip("/") for name, stored in found.items()}
    if len(set(found.values())) < len(found):
        raise ValueError(f"names: expected six different names, got {listed(list(found.values()))}")
    return found


def find_cell(
    reader: CheckpointReader, scope: str | None, names: Mapping[str, str], averages: bool, dtype: np.dtype | None
) -> StoredCell:
    """Find the variables of the only cell, or of the one in `scope`, and check that they agree with each other.

    The index is decoded several times rather than kept: see `Index`.
    """
    where = shown_path(reader.prefix)
    scope = _pick_scope(reader, scope, names, averages)
    found = _collect(reader, scope, names, averages)
    missing = [full_name(scope, names[name]) for name in VARIABLE_NAMES if not found[name]]
    if missing:
        kind = " as moving averages" if averages else ""
        raise CheckpointError(f"{where}: the cell is incomplete: there is no {listed(missing)}{kind}")
    with located(where):
        entries = {name: _join(full_name(scope, names[name]), parts) for name, parts in found.items()}
        return _check_cell(scope, {full_name(scope, names[name]): entries[name] for name in VARIABLE_NAMES}, dtype)


def _variable_names(reader: CheckpointReader, averages: bool) -> Iterator[tuple[str, int | None, str, TensorEntry]]:
    """Yield for each tensor the name of the variable, which part of it this is, the tensor's name and its entry."""
    for name, entry in reader.entries():
        variable = name
        if name.endswith(_OBJECT_VALUE):
            variable = re.sub(r"\.(S|\.)", lambda code: "/" if code[1] == "S" else ".", name[: -len(_OBJECT_VALUE)])
        variable = variable.removesuffix(":0")
        if variable.endswith(_AVERAGE) != averages:
            continue
        variable = variable.removesuffix(_AVERAGE)
        part = _PART.fullmatch(variable)
        yield (part[1], int(part[2]), name, entry) if part else (variable, None, name, entry)


def _pick_scope(reader: CheckpointReader, scope: str | None, names: Mapping[str, str], averages: bool) -> str:
    """Return the scope of the one cell there is, or `scope` if there is one."""
    counts = {names[name]: 0 for name in _TELLING}
    scopes: set[str] = set()
    for variable, part, *_ in _variable_names(reader, averages):
        for name in counts:
            rest = variable.removesuffix(name)
            if rest == variable or (rest and not rest.endswith("/")):
                continue
            found = rest[:-1]
            if scope == found or (scope is not None and rest == ""):  # names= may give full names, too
                return scope
            counts[name] += part in (None, 0)
            if len(scopes) < _MAX_SCOPES:
                scopes.add(found)
    if scope is None and len(scopes) == 1:
        return scopes.pop()
    where = shown_path(reader.prefix)
    if not scopes:
        raise _no_cell(reader, names, averages)
    raise ValueError(
        f"scope: expected one of the cells in {where}, {listed(sorted(scopes), max(len(scopes), *counts.values()))}, "
        f"got {shown(scope)}"
    )


def _no_cell(reader: CheckpointReader, names: Mapping[str, str], averages: bool) -> CheckpointError:
    first: list[str] = []
    count, is_object_based = 0, False
    for name, _ in reader.entries():
        count += 1
        is_object_based |= name in _OBJECT_GRAPHS
        if len(first) < _MAX_SCOPES:
            first.append(shortened(name))
    kind = "an object-based checkpoint, as tf.train.Checkpoint writes it; " if is_object_based else ""
    what = "are no moving averages of an IndyGRUCell" if averages else "is no IndyGRUCell"
    hint = ""
    if tuple(names) != tuple(names.values()):
        hint = f" with the names {listed(list(names.values()))}"
    return CheckpointError(
        f"{shown_path(reader.prefix)}: {kind}there {what} in it{hint}, only {listed(first, count)}. "
        "If its variables have other names, give them with names="
    )


def _collect(
    reader: CheckpointReader, scope: str, names: Mapping[str, str], averages: bool
) -> dict[str, dict[int | None, tuple[str, TensorEntry]]]:
    """Return the tensors of each of the six variables, by part. A name without ":0" takes precedence."""
    wanted = {full_name(scope, stored): name for name, stored in names.items()}
    # A name from names= may be a full name instead of one below the scope; the latter takes precedence.
    whole = {stored: name for name, stored in names.items() if stored not in wanted and stored != name}
    found: dict[str, dict[int | None, tuple[str, TensorEntry]]] = {name: {} for name in VARIABLE_NAMES}
    spare: dict[str, dict[int | None, tuple[str, TensorEntry]]] = {name: {} for name in VARIABLE_NAMES}
    for variable, part, tensor, entry in _variable_names(reader, averages):
        for targets, names_there in ((found, wanted), (spare, whole)):
            if variable in names_there:
                parts = targets[names_there[variable]]
                if len(parts) <= _MAX_PARTS:  # one too many is refused when they are joined
                    parts.setdefault(part, (tensor, entry))
    return {name: found[name] or spare[name] for name in VARIABLE_NAMES}


def _join(name: str, parts: dict[int | None, tuple[str, TensorEntry]]) -> dict[str, TensorEntry]:
    """Return the tensors that make up a variable, in their order."""
    if None in parts:
        return dict([parts[None]])
    if len(parts) > _MAX_PARTS:
        raise CheckpointError(f"variable {shown(name)}: expected at most {_MAX_PARTS} parts, got more")
    found = sorted(part for part in parts if part is not None)
    if found != list(range(len(found))):
        raise CheckpointError(f"variable {shown(name)}: expected parts from part_0 on, got {listed(found)}")
    return dict(parts[part] for part in found)


def _check_cell(scope: str, entries: Mapping[str, dict[str, TensorEntry]], dtype: np.dtype | None) -> StoredCell:
    """Return sizes and dtype of a cell, after a check that its variables agree on them."""
    gates_bias = list(entries.values())[2]
    n_gates = sum(entry.shape[0] for entry in gates_bias.values() if len(entry.shape) == 1)
    columns = (n_gates, n_gates, n_gates, n_gates // 2, n_gates // 2, n_gates // 2)
    variables = [
        _check_variable(name, parts, n_columns)
        for (name, parts), n_columns in zip(entries.items(), columns, strict=True)
    ]
    names = list(entries)
    first = variables[0]
    found = next(iter(first.parts.values())).dtype
    if found not in _FLOATS or len(first.shape) != 2 or first.shape[1] % 2:
        raise CheckpointError(
            f"tensor {shown(names[0])}: expected float32 or float64 of shape (D, 2N), got {_text(first)}"
        )
    depth, n_gates = first.shape
    n = n_gates // 2
    shapes = [(depth, n_gates), (1, n_gates), (n_gates,), (depth, n), (1, n), (n,)]
    for name, variable, shape in zip(names, variables, shapes, strict=True):
        dtypes = {entry.dtype for entry in variable.parts.values()}
        fits = dtypes == {found} if dtype is None else all(each in _FLOATS for each in dtypes)
        if not fits or variable.shape != shape:
            raise CheckpointError(f"tensor {shown(name)}: expected {found} of shape {shape}, got {_text(variable)}")
    if dtype is None and found == np.float16:
        raise CheckpointError(
            f'tensor {shown(names[0])}: float16, in which no cell runs here: dtype="float32" converts the values'
        )
    return StoredCell(scope, depth, n, found if dtype is None else dtype, variables)


def _check_variable(name: str, parts: dict[str, TensorEntry], n_columns: int) -> Stored:
    """Return a variable with its shape. Parts are joined along columns if a part has fewer columns than the cell."""
    shapes = [entry.shape for entry in parts.values()]
    first = shapes[0]
    if len(parts) == 1:
        return Stored(parts, first, None)
    axis = 1 if len(first) == 2 and first[1] != n_columns else 0
    rest = {shape[:axis] + shape[axis + 1 :] for shape in shapes if len(shape) == len(first)}
    if not first or len(rest) > 1 or any(len(shape) != len(first) for shape in shapes):
        raise CheckpointError(f"variable {shown(name)}: its parts do not fit together: shapes {listed(shapes)}")
    joined = (*first[:axis], sum(shape[axis] for shape in shapes), *first[axis + 1 :])
    return Stored(parts, joined, axis)


def _text(variable: Stored) -> str:
    entry = next(iter(variable.parts.values()))
    return f"{entry.dtype_name} of shape {shown(variable.shape)}"


def read_into(reader: CheckpointReader, cell: StoredCell, arrays: list[np.ndarray]) -> None:
    """Write the values of the six variables into arrays of their shapes, in the dtype of the cell."""
    places = {}
    for variable, array in zip(cell.variables, arrays, strict=True):
        start = 0
        for name, entry in variable.parts.items():
            place = array
            if variable.axis is not None:
                stop = start + entry.shape[variable.axis]
                place = array[(slice(None),) * variable.axis + (slice(start, stop),)]
                start = stop
            places[name] = place
    entries = {name: entry for variable in cell.variables for name, entry in variable.parts.items()}
    for name, values in reader.read(entries):
        with np.errstate(over="ignore"):
            places[name][...] = values
        if values.dtype.itemsize > cell.dtype.itemsize and not np.array_equal(
            np.isfinite(values), np.isfinite(places[name])
        ):
            raise CheckpointError(
                f"{shown_path(reader.prefix)}: tensor {shown(name)}: values too large for dtype={cell.dtype.name!r}"
            )
