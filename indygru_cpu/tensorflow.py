"""Cells from and to checkpoints of TensorFlow 1, without TensorFlow.

Reading and writing need a package for CRC-32C: ``pip install "indygru_cpu[tensorflow]"``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

import numpy as np

from indygru_cpu._checkpoint import CheckpointError, TensorEntry, read_index, read_tensors, write_checkpoint
from indygru_cpu._variables import VARIABLE_NAMES, CellVariables, full_name
from indygru_cpu.cell import IndyGRUCell

__all__ = ["CheckpointError", "load_checkpoint", "save_checkpoint"]

# These tell the cell from a GRUCell, whose names are otherwise the same.
_TELLING = ("gates/kernel_w", "gates/kernel_u", "candidate/kernel_u")


def load_checkpoint(
    prefix: str | os.PathLike[str], scope: str | None = None, *, activation: object = None
) -> IndyGRUCell:
    """Make a cell with the variables of a checkpoint.

    The cell is ready to use. It takes no part in sharing by scopes; to bring its values into another cell use
    ``other.set_weights(cell.get_weights())``.

    Parameters
    ----------
    prefix : str or path
        The checkpoint's path without `.index`, as given to TensorFlow's `Saver`.
    scope : str, optional
        Scope of the cell's variables, such as "rnn/indy_gru_cell". May be left out if there is only one cell.
    activation : str or function or pair of functions, optional
        As for `IndyGRUCell`. A checkpoint does not tell which it was.

    Returns
    -------
    IndyGRUCell
        Its `scope_name` is the scope in the checkpoint.

    Raises
    ------
    ValueError
        There are several cells and no `scope`, or none of this `scope`; the message lists those there are.
    CheckpointError
        There is no cell at all, or its variables are incomplete or contradict each other; the checkpoint is
        damaged. (It is a ValueError.)
    FileNotFoundError
        There is no such checkpoint.
    ImportError
        The package google-crc32c, from the extra `tensorflow`, is missing.

    Examples
    --------
    >>> import os, tempfile
    >>> from indygru_cpu import IndyGRUCell
    >>> from indygru_cpu.tensorflow import load_checkpoint, save_checkpoint
    >>> cell = IndyGRUCell(4, name="encoder")
    >>> cell.build((None, 5))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_checkpoint(os.path.join(folder, "model.ckpt"), cell)
    ...     loaded = load_checkpoint(os.path.join(folder, "model.ckpt"))
    >>> loaded.variables[0]
    <Variable 'encoder/gates/kernel_w:0' shape=(5, 8) dtype=float32>
    """
    prefix = os.fsdecode(prefix)
    index = read_index(prefix)
    scope = _picked(prefix, index, scope)
    names = [full_name(scope, name) for name in VARIABLE_NAMES]
    size = _size(prefix, index, names)
    tensors = read_tensors(prefix, names)
    variables = CellVariables.empty(scope, *size)
    variables.assign(list(tensors.values()))
    return IndyGRUCell._of_variables(variables, activation)


def save_checkpoint(prefix: str | os.PathLike[str], cells: IndyGRUCell | Iterable[IndyGRUCell]) -> None:
    """Write the variables of cells as a checkpoint that TensorFlow's `Saver` can restore.

    Parameters
    ----------
    prefix : str or path
        The checkpoint's path without `.index`, in a directory that exists.
    cells : IndyGRUCell or iterable of IndyGRUCell
        Cells that have been used or built. Their variables are stored under their names without ":0", those
        that several cells share once.

    Raises
    ------
    ValueError
        No cell, a cell without variables, or different variables of one name; a prefix that cannot be one.
    TypeError
        Something else than cells.
    OSError
        From the file system.
    ImportError
        The package google-crc32c, from the extra `tensorflow`, is missing.

    Examples
    --------
    >>> import os, tempfile
    >>> from indygru_cpu import IndyGRUCell
    >>> from indygru_cpu.tensorflow import save_checkpoint
    >>> cell = IndyGRUCell(4, name="encoder")
    >>> cell.build((None, 5))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_checkpoint(os.path.join(folder, "model.ckpt"), [cell])
    ...     sorted(os.listdir(folder))
    ['checkpoint', 'model.ckpt.data-00000-of-00001', 'model.ckpt.index']
    """
    cells = [cells] if isinstance(cells, IndyGRUCell) else list(cells)
    if not cells:
        raise ValueError("cells: expected at least one, got none")
    tensors: dict[str, np.ndarray] = {}
    for cell in cells:
        if not isinstance(cell, IndyGRUCell):
            raise TypeError(f"cells: expected IndyGRUCell, got {type(cell).__name__}")
        if not cell.built:
            raise ValueError(f"cells: {cell} has no variables yet; use it or call build first")
        for variable in cell.variables:
            name = variable.name.removesuffix(":0")
            if tensors.setdefault(name, variable.value) is not variable.value:
                raise ValueError(f"cells: two of them have different variables named {name!r}")
    write_checkpoint(prefix, tensors)


def _picked(prefix: str, index: Iterable[str], scope: str | None) -> str:
    """Return the scope of the one cell there is, or `scope` if there is one."""
    names = [(name, name.removesuffix(telling)) for name in index for telling in _TELLING]
    parents = {rest for name, rest in names if rest != name and (not rest or rest.endswith("/"))}
    scopes = sorted(parent.rstrip("/") for parent in parents)
    if not scopes:
        raise CheckpointError(f"{prefix}: there is no IndyGRUCell in it, only {list(index)}")
    if scope is None and len(scopes) == 1:
        return scopes[0]
    if scope not in scopes:
        raise ValueError(f"scope: expected one of the cells in {prefix}, {scopes}, got {scope!r}")
    return scope


def _size(prefix: str, index: Mapping[str, TensorEntry], names: list[str]) -> tuple[int, int, np.dtype]:
    """Return depth, num_units and dtype of a cell, after a check that its variables agree on them."""
    missing = [name for name in names if name not in index]
    if missing:
        raise CheckpointError(f"{prefix}: the cell is incomplete: there is no {missing}")
    entries = [index[name] for name in names]
    first = entries[0]
    if first.dtype not in (np.float32, np.float64) or len(first.shape) != 2 or first.shape[1] % 2:
        raise CheckpointError(
            f"{prefix}: tensor {names[0]!r}: expected float32 or float64 of shape (D, 2N), got {_text(first)}"
        )
    depth, n_gates = first.shape
    n = n_gates // 2
    shapes = [(depth, n_gates), (1, n_gates), (n_gates,), (depth, n), (1, n), (n,)]
    for name, entry, shape in zip(names, entries, shapes, strict=True):
        if (entry.dtype, entry.shape) != (first.dtype, shape):
            raise CheckpointError(
                f"{prefix}: tensor {name!r}: expected {first.dtype} of shape {shape}, got {_text(entry)}"
            )
    return depth, n, first.dtype


def _text(entry: TensorEntry) -> str:
    dtype = entry.dtype or f"TensorFlow's dtype number {entry.dtype_number}"
    return f"{dtype} of shape {entry.shape}"
