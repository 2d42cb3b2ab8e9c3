"""Cells from and to checkpoints of TensorFlow 1, without TensorFlow.

Reading and writing need a package for CRC-32C: ``pip install "indygru_cpu[tensorflow]"``.
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
from indygru_cpu.tensorflow._cells import find_cell, read_into, stored_names
from indygru_cpu.tensorflow._checkpoint import (
    CheckpointError,
    CheckpointReader,
    list_tensors,
    read_variable,
    reading,
    write_checkpoint,
)
from indygru_cpu.tensorflow._files import STATE_FILE, index_path, latest_prefix, missing_index

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
        A folder with a text file `checkpoint`, which every saver writes beside its checkpoints.
    latest_filename : str, optional
        Another name of this text file.

    Returns
    -------
    str or None
        None if there is no such text file, or if the checkpoint that it names is not there.

    Raises
    ------
    CheckpointError
        The text file names no checkpoint.

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
        The checkpoint's path without `.index`, or a folder, whose latest checkpoint is taken.

    Returns
    -------
    list of (str, list of int)
        Sorted by name. A partitioned variable is in it once, with its whole shape.

    Raises
    ------
    FileNotFoundError
        There is no such checkpoint.
    CheckpointError
        The checkpoint is damaged; or its list would take more than three times the size of its files and a MiB.
    ImportError
        The package google-crc32c, from the extra `tensorflow`, is missing.

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
    return [(name, list(shape)) for name, shape in list_tensors(_resolved(prefix))]


def load_variable(prefix: AnyPath, name: str) -> np.ndarray:
    """Read one tensor of a checkpoint, as `tf.train.load_variable`.

    Parameters
    ----------
    prefix : str or path
        The checkpoint's path without `.index`, or a folder, whose latest checkpoint is taken.
    name : str
        A name from `list_variables`. The ":0" of a variable's name may be there or not.

    Returns
    -------
    numpy.ndarray
        A new array of the stored dtype and shape. The pieces of a partitioned variable are put together.

    Raises
    ------
    FileNotFoundError
        There is no such checkpoint.
    CheckpointError
        There is no such tensor, or it is of a type that NumPy does not have; the checkpoint is damaged.
    TypeError
        `name` is no string.
    ImportError
        The package google-crc32c, from the extra `tensorflow`, is missing.

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
    return read_variable(_resolved(prefix), name)


def load_checkpoint(
    prefix: AnyPath,
    scope: str | None = None,
    *,
    activation: object = None,
    names: Mapping[str, str] | Callable[[str], str] | None = None,
    moving_averages: bool = False,
    dtype: object = None,
) -> IndyGRUCell:
    """Make a cell with the variables of a checkpoint.

    Variables are found under the names that TensorFlow's savers give them: with or without ":0", whole or
    partitioned, in the checkpoints of `tf.train.Saver` and in the object-based ones of `tf.train.Checkpoint`.

    The cell is ready to use. It takes no part in sharing by scopes; to bring its values into another cell use
    ``other.set_weights(cell.get_weights())``.

    Parameters
    ----------
    prefix : str or path
        The checkpoint's path without `.index`, as given to TensorFlow's `Saver`; or a folder, whose latest
        checkpoint is taken.
    scope : str, optional
        Scope of the cell's variables, such as "rnn/indy_gru_cell". May be left out if there is only one cell. In an
        object-based checkpoint it is the path of attributes to the cell, such as "model/encoder/cell".
    activation : str or function or pair of functions, optional
        As for `IndyGRUCell`. A checkpoint does not tell which it was.
    names : mapping or function, optional
        For variables that were renamed: from the names in a cell ("gates/kernel_w", "gates/kernel_u", "gates/bias",
        "candidate/kernel", "candidate/kernel_u", "candidate/bias") to those in the checkpoint, which are looked for
        below `scope` first and then as they are. A mapping may leave out names that did not change.
    moving_averages : bool, optional
        True loads the averages that `tf.train.ExponentialMovingAverage` keeps beside the variables, under
        ".../ExponentialMovingAverage".
    dtype : optional
        float32 or float64: values are converted to it. Otherwise they keep the stored dtype, which must be one of
        these two.

    Returns
    -------
    IndyGRUCell
        Its `scope_name` is the scope in the checkpoint.

    Raises
    ------
    ValueError
        There are several cells and no `scope`, or none of this `scope`; the message lists those there are. `names`
        with other keys.
    TypeError
        `scope` is no string, `names` neither mapping nor function, `moving_averages` no bool, `dtype` another one.
    CheckpointError
        There is no cell at all, or its variables are incomplete or contradict each other; they are float16, and
        there is no `dtype`; values are too large for `dtype`; the checkpoint is damaged, or of the V1 format. (It
        is a ValueError.)
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
    if scope is not None and not isinstance(scope, str):
        raise TypeError(f"scope: expected a string, got {shown(scope)}")
    averages = tf_checks.boolean("moving_averages", moving_averages)
    stored = stored_names(names)
    target: np.dtype[Any] | None = None if dtype is None else tf_checks.dtype("dtype", dtype)

    def work(reader: CheckpointReader) -> CellVariables:
        cell = find_cell(reader, scope, stored, averages, target)
        variables = CellVariables.empty(cell.scope, cell.depth, cell.num_units, cell.dtype)
        read_into(reader, cell, [variable.value for variable in variables.variables])
        return variables

    return IndyGRUCell._from_variables(reading(_resolved(prefix), work), activation)


def save_checkpoint(prefix: AnyPath, cells: IndyGRUCell | Iterable[IndyGRUCell]) -> None:
    """Write the variables of cells as a checkpoint that TensorFlow's `Saver` can restore.

    A checkpoint of this name that is there already is replaced at once, by one rename: whatever happens meanwhile,
    the old one or the new one is whole. For that, the new data file has another name than the old one:
    `.data-00000-of-00002` takes turns with `.data-00000-of-00001`.

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
            raise ValueError(f"cells: {shortened(cell)} has no variables yet; use it or call build first")
        for variable in cell.variables:
            name = variable.name.removesuffix(":0")
            if tensors.setdefault(name, variable.value) is not variable.value:
                raise ValueError(f"cells: two of them have different variables named {shown(name)}")
    write_checkpoint(prefix, tensors)


def _resolved(prefix: str | os.PathLike[str]) -> str:
    """Return a prefix, or the latest one of a folder."""
    found = os.fsdecode(prefix)
    if not os.path.isdir(found) or os.path.isfile(index_path(found)):
        return found
    latest = latest_prefix(found)
    if latest is None:
        raise missing_index(found)
    return latest
