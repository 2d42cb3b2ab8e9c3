"""Loading and saving of cells in checkpoints of TensorFlow 1. TensorFlow is not required.

Checkpoints require a package for CRC-32C: ``pip install "indygru_cpu[tensorflow]"``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from indygru_cpu._engine.messages import shortened, shown
from indygru_cpu._tf1 import checks as tf_checks
from indygru_cpu._tf1.cell import IndyGRUCell
from indygru_cpu._tf1.variables import CellVariables
from indygru_cpu._typing import Array
from indygru_cpu.tensorflow._cells import checkpoint_names, find_cell, read_into
from indygru_cpu.tensorflow._checkpoint import (
    STATE_FILE,
    CheckpointError,
    CheckpointReader,
    latest_prefix,
    list_tensors,
    read_tensor,
    read_with_retry,
    resolve_prefix,
    write_checkpoint,
)

__all__ = [
    "CheckpointError",
    "latest_checkpoint",
    "list_variables",
    "load_checkpoint",
    "load_variable",
    "save_checkpoint",
]

AnyPath = str | os.PathLike[str]


def latest_checkpoint(checkpoint_dir: AnyPath, latest_filename: str | None = None) -> str | None:
    """Return the prefix of the latest checkpoint in a folder, as `tf.train.latest_checkpoint`.

    Parameters
    ----------
    checkpoint_dir : str or path
        A folder with a text file `checkpoint`, which savers write beside their checkpoints.
    latest_filename : str, optional
        The name of the text file, if it is not `checkpoint`.

    Returns
    -------
    str or None
        None if the text file or the checkpoint that it names does not exist.

    Raises
    ------
    CheckpointError
        The text file does not name a checkpoint, or is not a regular file.

    Examples
    --------
    >>> import os, tempfile
    >>> from indygru_cpu import IndyGRUCell
    >>> from indygru_cpu.tensorflow import latest_checkpoint, save_checkpoint
    >>> cell = IndyGRUCell(4, name="tagger")
    >>> cell.build((None, 5))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_checkpoint(os.path.join(folder, "model.ckpt-7"), cell)
    ...     os.path.basename(latest_checkpoint(folder))
    'model.ckpt-7'
    """
    return latest_prefix(os.fsdecode(checkpoint_dir), STATE_FILE if latest_filename is None else latest_filename)


def list_variables(prefix: AnyPath) -> list[tuple[str, list[int]]]:
    """Return name and shape of every tensor of a checkpoint, as `tf.train.list_variables`.

    Parameters
    ----------
    prefix : str or path
        The checkpoint's path without `.index`, or a folder with a latest checkpoint.

    Returns
    -------
    list of (str, list of int)
        Sorted by name. A partitioned variable is listed once, with its whole shape.

    Raises
    ------
    FileNotFoundError
        The checkpoint does not exist. The message suggests an existing prefix.
    CheckpointError
        The checkpoint is damaged, incomplete or of the V1 format; or the list would take more than three times the size
        of its files plus 1 MiB, which only a manipulated index causes.
    ImportError
        The package google-crc32c, from the extra `tensorflow`, is not installed.

    Examples
    --------
    >>> import os, tempfile
    >>> from indygru_cpu import IndyGRUCell
    >>> from indygru_cpu.tensorflow import list_variables, save_checkpoint
    >>> cell = IndyGRUCell(4, name="decoder")
    >>> cell.build((None, 5))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_checkpoint(os.path.join(folder, "model.ckpt"), cell)
    ...     list_variables(folder)[:2]
    [('decoder/candidate/bias', [4]), ('decoder/candidate/kernel', [5, 4])]
    """
    return [(name, list(shape)) for name, shape in list_tensors(resolve_prefix(prefix))]


def load_variable(prefix: AnyPath, name: str) -> Array:
    """Read one tensor of a checkpoint, as `tf.train.load_variable`.

    Parameters
    ----------
    prefix : str or path
        The checkpoint's path without `.index`, or a folder with a latest checkpoint.
    name : str
        A name from `list_variables`, with or without the suffix ":0".

    Returns
    -------
    numpy.ndarray
        A new array of the stored dtype and shape. The slices of a partitioned variable are joined.

    Raises
    ------
    FileNotFoundError
        The checkpoint does not exist. The message suggests an existing prefix.
    CheckpointError
        The checkpoint does not contain the tensor, NumPy has no equivalent of its type, or its bytes do not have the
        stored CRC-32C; the index is damaged, or the checkpoint is of the V1 format.
    TypeError
        `name` is not a string.
    ImportError
        The package google-crc32c, from the extra `tensorflow`, is not installed.

    Examples
    --------
    >>> import os, tempfile
    >>> from indygru_cpu import IndyGRUCell
    >>> from indygru_cpu.tensorflow import load_variable, save_checkpoint
    >>> cell = IndyGRUCell(4, name="speller")
    >>> cell.build((None, 5))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_checkpoint(os.path.join(folder, "model.ckpt"), cell)
    ...     load_variable(os.path.join(folder, "model.ckpt"), "speller/candidate/bias")
    array([0., 0., 0., 0.], dtype=float32)
    """
    if not isinstance(name, str):
        raise TypeError(f"name: expected a string, got {shown(name)}")
    return read_tensor(resolve_prefix(prefix), name)


def load_checkpoint(
    prefix: AnyPath,
    scope: str | None = None,
    *,
    activation: object = None,
    names: Mapping[str, str] | Callable[[str], str] | None = None,
    moving_averages: bool = False,
    dtype: object = None,
) -> IndyGRUCell:
    """Make a cell from the variables of a checkpoint.

    Variables are recognised under the names that TensorFlow's savers use: with or without ":0", whole or partitioned,
    in checkpoints of `tf.train.Saver` and in object-based checkpoints of `tf.train.Checkpoint`.

    The cell is built. Its variables are not shared through scopes; to copy its values to another cell use
    ``other.set_weights(cell.get_weights())``.

    Parameters
    ----------
    prefix : str or path
        The checkpoint's path without `.index`, as passed to TensorFlow's `Saver`; or a folder with a latest checkpoint.
    scope : str, optional
        Scope of the cell's variables, such as "rnn/indy_gru_cell". Optional if the checkpoint contains only one cell.
        In an object-based checkpoint it is the path of attributes to the cell, such as "model/encoder/cell".
    activation : str or function or pair of functions, optional
        See `IndyGRUCell`. Checkpoints do not contain it.
    names : mapping or function, optional
        For renamed variables: maps the names in a cell ("gates/kernel_w", "gates/kernel_u", "gates/bias",
        "candidate/kernel", "candidate/kernel_u", "candidate/bias") to names in the checkpoint, which are relative to
        `scope` or else full names. A mapping may omit names that are unchanged.
    moving_averages : bool, optional
        True loads the averages of `tf.train.ExponentialMovingAverage`, stored under ".../ExponentialMovingAverage".
    dtype : float32 or float64, optional
        Dtype to which the values are converted. None keeps the stored dtype, which must be float32 or float64.

    Returns
    -------
    IndyGRUCell
        Its `scope_name` is the scope in the checkpoint.

    Raises
    ------
    ValueError
        The checkpoint contains several cells and `scope` is None, or no cell in `scope`; the message lists the cells.
        `names` has unknown keys.
    TypeError
        `scope` is not a string, `names` is neither a mapping nor a function, `moving_averages` is not a bool; an
        invalid `dtype`.
    CheckpointError
        The checkpoint contains no cell, or the cell's variables are incomplete or inconsistent; they are float16 and
        `dtype` is None; values are too large for `dtype`; the checkpoint is damaged or of the V1 format.
        (CheckpointError is a ValueError.)
    FileNotFoundError
        The checkpoint does not exist. The message suggests an existing prefix.
    ImportError
        The package google-crc32c, from the extra `tensorflow`, is not installed.

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
    if scope is not None and not isinstance(scope, str):
        raise TypeError(f"scope: expected a string, got {shown(scope)}")
    averages = tf_checks.boolean("moving_averages", moving_averages)
    stored_names = checkpoint_names(names)
    values_dtype: np.dtype[Any] | None = None if dtype is None else tf_checks.dtype("dtype", dtype)

    def read(reader: CheckpointReader) -> CellVariables:
        cell = find_cell(reader, scope, stored_names, averages, values_dtype)
        variables = CellVariables.empty(cell.scope, cell.depth, cell.num_units, cell.dtype)
        read_into(reader, cell, [variable.value for variable in variables.variables])
        return variables

    return IndyGRUCell._from_variables(read_with_retry(resolve_prefix(prefix), read), activation)


def save_checkpoint(prefix: AnyPath, cells: IndyGRUCell | Iterable[IndyGRUCell]) -> None:
    """Write the variables of cells to a checkpoint that TensorFlow's `Saver` can restore.

    An existing checkpoint of this name is replaced atomically: after an error or a crash either the old or the new
    checkpoint is complete. To allow this, overwriting alternates between the data file names `.data-00000-of-00001` and
    `.data-00000-of-00002`. The text file `checkpoint` in the folder then names this checkpoint as the latest.

    Parameters
    ----------
    prefix : str or path
        The checkpoint's path without `.index`, in an existing directory.
    cells : IndyGRUCell or iterable of IndyGRUCell
        Built cells. Their variables are stored under their names without ":0". Variables that several cells share are
        stored once.

    Raises
    ------
    ValueError
        No cell; a cell that is not built; different variables of one name; an invalid prefix.
    TypeError
        An element of `cells` is not an IndyGRUCell.
    OSError
        An error of the file system; PermissionError if a file that would be replaced or removed is read-only.
    ImportError
        The package google-crc32c, from the extra `tensorflow`, is not installed.

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
    tensors: dict[str, Array] = {}
    for cell in cells:
        if not isinstance(cell, IndyGRUCell):
            raise TypeError(f"cells: expected IndyGRUCell, got {type(cell).__name__}")
        if not cell.built:
            raise ValueError(f"cells: expected built cells, got {shortened(cell)}: use it or call its build first")
        for variable in cell.variables:
            name = variable.name.removesuffix(":0")
            if tensors.setdefault(name, variable.value) is not variable.value:
                raise ValueError(f"cells: expected different names of variables, got {shown(name)} in two cells")
    write_checkpoint(prefix, tensors)
