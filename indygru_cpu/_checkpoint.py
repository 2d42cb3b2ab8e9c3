"""Reading and writing TensorFlow V2 checkpoints (`.index` and `.data-?????-of-?????`) without TensorFlow.

In the data files tensors are plain little-endian row-major bytes. `_checkpoint_index` knows where they lie,
on top of `_checkpoint_table` (the file format of the index) and `_checkpoint_wire` (numbers, checksums);
`_checkpoint_files` knows the names of the files, `_atomic` how to replace them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ._atomic import finish, temporary
from ._checkpoint_files import STATE_FILE, data_path, index_path, suggest_prefix, update_state
from ._checkpoint_index import DTYPE_NUMBERS, PIECE_MARK, TensorEntry, decode_index, encode_index
from ._checkpoint_wire import CheckpointError, located, masked_crc32c

__all__ = ["CheckpointError", "TensorEntry", "read_index", "read_tensors", "write_checkpoint"]


def read_index(prefix: str | os.PathLike[str]) -> dict[str, TensorEntry]:
    """Read what a checkpoint holds, without reading the tensors.

    Everything that can be checked without them is checked: the whole index, and that each tensor lies
    inside its data file and shares no byte with another.

    Parameters
    ----------
    prefix : str or path
        The checkpoint's path without `.index`, as given to TensorFlow's `Saver`.

    Returns
    -------
    dict of str to TensorEntry
        Every tensor, sorted by name.

    Raises
    ------
    FileNotFoundError
        There is no index file; the message suggests a prefix that is there.
    CheckpointError
        The checkpoint is damaged or incomplete (a data file is missing), or of an unknown kind.
    ImportError
        The package google-crc32c, from the extra `tensorflow`, is missing.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     write_checkpoint(f"{directory}/model.ckpt", {"rnn/bias": np.array([0.5, -2.0], np.float32)})
    ...     entry = read_index(f"{directory}/model.ckpt")["rnn/bias"]
    >>> entry.dtype, entry.shape, entry.size
    (dtype('float32'), (2,), 8)
    """
    return _read_bundle(os.fsdecode(prefix))[0]


def read_tensors(prefix: str | os.PathLike[str], names: Iterable[str]) -> dict[str, np.ndarray]:
    """Read some tensors of a checkpoint.

    Parameters
    ----------
    prefix : str or path
        The checkpoint's path without `.index`.
    names : iterable of str
        Names of stored tensors.

    Returns
    -------
    dict of str to numpy.ndarray
        New arrays of the stored dtypes and shapes, in the order of `names`.

    Raises
    ------
    FileNotFoundError, CheckpointError, ImportError
        As `read_index`; CheckpointError also if a name is not there, its bytes do not have the stored
        CRC-32C, or it is of a kind that cannot be read (text, other types NumPy does not have,
        partitioned variables). Other tensors of such kinds do no harm.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     write_checkpoint(f"{directory}/model.ckpt", {"rnn/bias": np.array([0.5, -2.0], np.float32)})
    ...     read_tensors(f"{directory}/model.ckpt", ["rnn/bias"])
    {'rnn/bias': array([ 0.5, -2. ], dtype=float32)}
    """
    if isinstance(names, str):
        raise TypeError(f"names: expected several names, for example a list, got the string {names!r}")
    prefix = os.fsdecode(prefix)
    entries, num_shards = _read_bundle(prefix)
    tensors = {}
    for name in names:
        if name not in entries:
            similar = get_close_matches(str(name), entries) or list(entries)[:3]
            raise CheckpointError(f"{prefix}: no tensor {name!r} among {len(entries)}, but for example {similar}")
        with located(f"{prefix}: tensor {name!r}"):
            tensors[name] = _read_tensor(prefix, entries[name], num_shards)
    return tensors


def _read_bundle(prefix: str) -> tuple[dict[str, TensorEntry], int]:
    """Return all entries and the number of data files."""
    path = index_path(prefix)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no file {path!r}; {suggest_prefix(prefix)}")
    with located(path):
        entries, num_shards = decode_index(Path(path).read_bytes())
        _check_extents(prefix, entries, num_shards)
    return entries, num_shards


def _check_extents(prefix: str, entries: Mapping[str, TensorEntry], num_shards: int) -> None:
    """Check that tensors lie in their files, and apart: all together then take no more than the files."""
    stored = [(entry.shard, entry.offset, entry.size, name) for name, entry in entries.items() if not entry.sliced]
    lengths: dict[int, int] = {}
    for shard, offset, size, name in stored:
        path = data_path(prefix, shard, num_shards)
        if shard not in lengths:
            if not os.path.isfile(path):
                raise CheckpointError(f"tensor {name!r}: its data file {path!r} is missing")
            lengths[shard] = os.path.getsize(path)
        if offset + size > lengths[shard]:
            raise CheckpointError(
                f"tensor {name!r}: {size} bytes from byte {offset} on reach beyond "
                f"the {lengths[shard]} bytes of {path!r}"
            )
    for (shard, offset, size, name), (next_shard, next_offset, _, next_name) in pairwise(sorted(stored)):
        if shard == next_shard and offset + size > next_offset:
            raise CheckpointError(f"tensors {name!r} and {next_name!r} overlap at byte {next_offset}")


def _read_tensor(prefix: str, entry: TensorEntry, num_shards: int) -> np.ndarray:
    if entry.sliced:
        raise CheckpointError("stored in slices (a partitioned variable), which cannot be read")
    if entry.dtype is None:
        raise CheckpointError(f"TensorFlow dtype number {entry.dtype_number} is not one that can be read")
    array = np.empty(entry.size // entry.dtype.itemsize, entry.dtype.newbyteorder("<"))
    stored = array.view(np.uint8).data
    path = data_path(prefix, entry.shard, num_shards)
    where = f"{entry.size} bytes from byte {entry.offset} on in {path!r}"
    with open(path, "rb") as file:
        file.seek(entry.offset)
        if file.readinto(stored) != entry.size:
            raise CheckpointError(f"cut off: there are no {where}")
    computed = masked_crc32c(stored)
    if computed != entry.crc:
        raise CheckpointError(f"wrong CRC-32C of {where}: stored {entry.crc:#010x}, computed {computed:#010x}")
    try:
        return array.astype(entry.dtype, copy=False).reshape(entry.shape)
    except ValueError as error:  # more dimensions than NumPy has, or an empty array too long for it
        raise CheckpointError(f"NumPy has no array of shape {entry.shape}: {error}") from None


def write_checkpoint(prefix: str | os.PathLike[str], tensors: Mapping[str, np.ndarray]) -> None:
    """Write a checkpoint that TensorFlow can read, with one data file.

    The files are the same bytes that TensorFlow's `Saver` writes. They appear, and replace those of an
    earlier checkpoint of that name, only when all is on disk. The text file `checkpoint` beside them then
    names this checkpoint as the latest, after those it listed before. No older checkpoint is deleted.

    Parameters
    ----------
    prefix : str or path
        The checkpoint's path without `.index`, in a directory that exists.
    tensors : mapping of str to numpy.ndarray
        At least one array (or NumPy scalar) of a boolean or numeric dtype, under any non-empty names.

    Raises
    ------
    ValueError, TypeError
        `prefix`, a name or a dtype is none that can be written; no file has been touched then.
    OSError
        From the file system. Until all is on disk, a checkpoint that was there before stays whole.
    ImportError
        The package google-crc32c, from the extra `tensorflow`, is missing.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     write_checkpoint(f"{directory}/model.ckpt-25", {"global_step": np.array(25)})
    ...     sorted(os.listdir(directory))
    ['checkpoint', 'model.ckpt-25.data-00000-of-00001', 'model.ckpt-25.index']
    """
    prefix = os.fsdecode(prefix)
    directory, basename = os.path.split(prefix)
    if basename in ("", STATE_FILE):
        raise ValueError(f"prefix: must end in a name other than {STATE_FILE!r}, got {prefix!r}")
    if not os.path.isdir(directory or "."):
        raise FileNotFoundError(f"prefix: there is no directory {directory!r}")
    arrays = _check_tensors(tensors)
    with temporary(data_path(prefix, 0, 1)) as data, temporary(index_path(prefix)) as index:
        index.write(encode_index(_write_data(data, arrays), num_shards=1))
        finish(data)
        finish(index)
        os.replace(data.name, data_path(prefix, 0, 1))
        os.replace(index.name, index_path(prefix))
    update_state(prefix)


def _check_tensors(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays, sorted by name."""
    if not tensors:
        raise ValueError("tensors: expected at least one, got none")
    for name, tensor in tensors.items():
        if not isinstance(name, str):
            raise TypeError(f"tensors: expected names of type str, got {name!r}")
        if not name or name.startswith(PIECE_MARK) or name.encode(errors="ignore").decode() != name:
            raise ValueError(f"tensors: {name!r} cannot be the name of a tensor")
        if not isinstance(tensor, np.ndarray | np.generic):
            raise TypeError(f"tensors: expected NumPy arrays, got {type(tensor).__name__} for {name!r}")
        dtype = tensor.dtype
        if dtype.kind not in "biufc" or dtype.newbyteorder("=") not in DTYPE_NUMBERS:
            raise TypeError(f"tensors: {name!r} has dtype {dtype}, which a checkpoint cannot hold")
    return {name: np.asarray(tensors[name]) for name in sorted(tensors)}


def _write_data(file: BinaryIO, arrays: Mapping[str, np.ndarray]) -> dict[str, TensorEntry]:
    """Write the arrays one behind the other and return their entries."""
    entries = {}
    offset = 0
    for name, array in arrays.items():
        dtype = array.dtype.newbyteorder("=")
        stored = np.ascontiguousarray(array, dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data
        file.write(stored)
        entries[name] = TensorEntry(
            dtype, DTYPE_NUMBERS[dtype], array.shape, 0, offset, stored.nbytes, masked_crc32c(stored)
        )
        offset += stored.nbytes
    return entries
