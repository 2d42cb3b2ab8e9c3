"""Reading and writing TensorFlow V2 checkpoints (`.index` and `.data-?????-of-?????`) without TensorFlow.

In the data files tensors are plain little-endian row-major bytes. `_checkpoint_index` knows where they lie,
on top of `_checkpoint_table` (the file format of the index) and `_checkpoint_wire` (numbers, checksums);
`_checkpoint_files` knows the names of the files, `_atomic` how to replace them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from difflib import get_close_matches
from itertools import islice, pairwise
from typing import BinaryIO, TypeVar

import numpy as np

from indygru_cpu._engine.messages import listed, quoted_path, shortened, shown, shown_path
from indygru_cpu._files.atomic import sync_and_close, sync_directory, temporary_file, writable_mode
from indygru_cpu.tensorflow._bundle import DTYPE_NUMBERS, PIECE_MARK, Index, TensorEntry, encode_index
from indygru_cpu.tensorflow._files import (
    STATE_FILE,
    data_files,
    data_path,
    index_path,
    missing_index,
    opened,
    state_path,
    update_state,
)
from indygru_cpu.tensorflow._protobuf import CheckpointError, located, masked_crc32c
from indygru_cpu.tensorflow._sstable import MAX_KEY

__all__ = [
    "CheckpointError",
    "CheckpointReader",
    "TensorEntry",
    "list_tensors",
    "read_variable",
    "reading",
    "write_checkpoint",
]

#: Pieces of one variable. Each needs a little memory, whatever its size in the file.
MAX_PIECES = 256
#: What a tensor in a list takes beside the characters of its name and its dimensions.
_LISTED_BYTES = 200
_Result = TypeVar("_Result")


class CheckpointReader:
    """A checkpoint whose index is in memory, as bytes; entries and tensors are read when they are asked for.

    Parameters
    ----------
    prefix : str
        The checkpoint's path without `.index`.

    Raises
    ------
    FileNotFoundError
        There is no index file; the message suggests a prefix that is there.
    CheckpointError
        The index is no index, or the file is a V1 checkpoint.
    ImportError
        The package google-crc32c, from the extra `tensorflow`, is missing.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        path = index_path(prefix)
        if not os.path.isfile(path):
            raise missing_index(prefix)
        with opened(path) as file:
            self._identity = _identity(os.fstat(file.fileno()))
            data = file.read()
        with located(shown_path(path)):
            self._index = Index(data)
        self._index_size = len(data)
        self._lengths: dict[int, int] = {}

    @property
    def num_shards(self) -> int:
        """The number of data files that the index names."""
        return self._index.num_shards

    @property
    def size(self) -> int:
        """Bytes of the index and of the data files seen so far."""
        return self._index_size + sum(self._lengths.values())

    def was_replaced(self) -> bool:
        """Return whether the index has become another file since it was read."""
        try:
            return _identity(os.stat(index_path(self.prefix))) != self._identity
        except FileNotFoundError:
            return True

    def entries(self) -> Iterator[tuple[str, TensorEntry]]:
        """Yield name and entry of each tensor, sorted by name, each after a check that it lies in its data file."""
        with located(shown_path(index_path(self.prefix))):
            for name, entry in self._index.entries():
                if not entry.n_pieces and (problem := self._problem(entry)):
                    raise CheckpointError(f"tensor {shown(name)}: {problem}")
                yield name, entry

    def read(self, entries: Mapping[str, TensorEntry]) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the values of some tensors one by one, in new arrays.

        All of them are checked before the first is read: no two share a byte, so that they take no more memory than
        the data files have.
        """
        places = []
        for name, entry in entries.items():
            with located(f"{shown_path(self.prefix)}: tensor {shown(name)}"):
                if entry.dtype is None:
                    raise CheckpointError(f"of the type {entry.dtype_name}, which cannot be read")
                parts = [part for _, part in self._pieces(name, entry)] if entry.n_pieces else [entry]
                places += [(part.shard, part.offset, part.size, name) for part in parts if part.size]
        for (shard, offset, size, name), (next_shard, next_offset, _, other) in pairwise(sorted(places)):
            if shard == next_shard and offset + size > next_offset:
                raise CheckpointError(
                    f"{shown_path(self.prefix)}: tensors {shown(name)} and {shown(other)} overlap at byte {next_offset}"
                )
        for name, entry in entries.items():
            with located(f"{shown_path(self.prefix)}: tensor {shown(name)}"):
                array = self._read_pieces(name, entry) if entry.n_pieces else self._read_whole(entry)
            yield name, array

    def _problem(self, entry: TensorEntry) -> str | None:
        """Say why a tensor does not lie in its data file, or return None."""
        path = data_path(self.prefix, entry.shard, self._index.num_shards)
        if entry.shard not in self._lengths:
            if not os.path.isfile(path):
                return f"its data file {quoted_path(path)} is missing"
            self._lengths[entry.shard] = os.path.getsize(path)
        length = self._lengths[entry.shard]
        if entry.offset + entry.size <= length:
            return None
        return f"{entry.size} bytes from byte {entry.offset} on reach beyond the {length} bytes of {quoted_path(path)}"

    def _pieces(self, name: str, whole: TensorEntry) -> list[tuple[tuple[slice, ...], TensorEntry]]:
        """Return place and entry of each piece of a partitioned variable, after a check that the sizes add up."""
        if whole.n_pieces > MAX_PIECES:
            raise CheckpointError(f"partitioned into {whole.n_pieces} pieces; at most {MAX_PIECES} are put together")
        found = list(islice(self._index.pieces(name), MAX_PIECES + 1))
        if len(found) != whole.n_pieces:
            raise CheckpointError(f"partitioned into {whole.n_pieces} pieces, of which {len(found)} are there")
        for place, piece in found:
            shape = tuple(len(range(size)[axis]) for size, axis in zip(whole.shape, place, strict=False))
            if len(place) != len(whole.shape) or (piece.shape, piece.dtype, piece.n_pieces) != (shape, whole.dtype, 0):
                raise CheckpointError(f"a piece of {_text(piece)} does not fit into {_text(whole)} at {shown(place)}")
            if problem := self._problem(piece):
                raise CheckpointError(problem)
        if sum(math.prod(piece.shape) for _, piece in found) != math.prod(whole.shape):
            raise CheckpointError(f"its {len(found)} pieces are not as large as {_text(whole)}")
        return found

    def _read_pieces(self, name: str, whole: TensorEntry) -> np.ndarray:
        array, filled = np.empty(whole.shape, whole.dtype), np.zeros(whole.shape, bool)
        for place, piece in self._pieces(name, whole):
            array[place] = self._read_whole(piece)
            filled[place] = True
        if not filled.all():
            raise CheckpointError("its pieces overlap")
        return array

    def _read_whole(self, entry: TensorEntry) -> np.ndarray:
        assert entry.dtype is not None
        array = np.empty(entry.size // entry.dtype.itemsize, entry.dtype.newbyteorder("<"))
        stored = array.view(np.uint8).data
        path = data_path(self.prefix, entry.shard, self._index.num_shards)
        where = f"{entry.size} bytes from byte {entry.offset} on in {quoted_path(path)}"
        with opened(path) as file:
            file.seek(entry.offset)
            if file.readinto(stored) != entry.size:
                raise CheckpointError(f"cut off: there are no {where}")
        computed = masked_crc32c(stored)
        if computed != entry.crc:
            raise CheckpointError(f"wrong CRC-32C of {where}: stored {entry.crc:#010x}, computed {computed:#010x}")
        try:
            return array.astype(entry.dtype, copy=False).reshape(entry.shape)
        except ValueError as error:  # more dimensions than NumPy has, or an empty array too long for it
            raise CheckpointError(f"NumPy has no array of shape {shown(entry.shape)}: {shortened(error)}") from None


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _text(entry: TensorEntry) -> str:
    return f"{entry.dtype_name} of shape {shown(entry.shape)}"


def reading(prefix: str, work: Callable[[CheckpointReader], _Result]) -> _Result:
    """Return `work(reader)`; start again if another process has replaced the checkpoint in the meantime.

    A writer removes the old data file after it has put the new index in place. A reader of the old index may then
    find the file gone.
    """
    for attempts_left in range(9, -1, -1):
        reader = CheckpointReader(prefix)
        try:
            return work(reader)
        except (CheckpointError, FileNotFoundError):
            if not attempts_left or not reader.was_replaced():
                raise
    raise AssertionError("unreachable")


def list_tensors(prefix: str | os.PathLike[str]) -> list[tuple[str, tuple[int, ...]]]:
    """Return name and shape of every tensor of a checkpoint, sorted by name, without reading the tensors.

    Everything that can be checked without them is checked: the whole index, and that each tensor lies
    inside its data file.

    Parameters
    ----------
    prefix : str or path
        The checkpoint's path without `.index`, as given to TensorFlow's `Saver`.

    Raises
    ------
    FileNotFoundError
        There is no index file; the message suggests a prefix that is there.
    CheckpointError
        The checkpoint is damaged or incomplete (a data file is missing), or of an unknown kind; or the list would
        be out of proportion to the files, as only a crafted index makes it.
    ImportError
        The package google-crc32c, from the extra `tensorflow`, is missing.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     write_checkpoint(f"{directory}/model.ckpt", {"rnn/bias": np.array([0.5, -2.0], np.float32)})
    ...     list_tensors(f"{directory}/model.ckpt")
    [('rnn/bias', (2,))]
    """

    def work(reader: CheckpointReader) -> list[tuple[str, tuple[int, ...]]]:
        found: list[tuple[str, tuple[int, ...]]] = []
        n_bytes = 0
        for name, entry in reader.entries():
            n_bytes += _LISTED_BYTES + len(name) + 8 * len(entry.shape)
            if n_bytes > 3 * reader.size + (1 << 20):
                raise CheckpointError(
                    f"{shown_path(reader.prefix)}: more than {len(found)} names in files of {reader.size} bytes are "
                    "not listed, because they could fill the memory; load_variable reads those whose names are known"
                )
            found.append((name, entry.shape))
        return found

    return reading(os.fsdecode(prefix), work)


def read_variable(prefix: str | os.PathLike[str], name: str) -> np.ndarray:
    """Read one tensor of a checkpoint.

    Parameters
    ----------
    prefix : str or path
        The checkpoint's path without `.index`.
    name : str
        The name of a stored tensor, with or without ":0". The pieces of a partitioned variable are put together.

    Returns
    -------
    numpy.ndarray
        A new array of the stored dtype and shape.

    Raises
    ------
    FileNotFoundError, CheckpointError, ImportError
        As `list_tensors`; CheckpointError also if the name is not there, its bytes do not have the stored CRC-32C, or
        it is of a kind that cannot be read (text, other types NumPy does not have). Other tensors of such kinds do
        no harm.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     write_checkpoint(f"{directory}/model.ckpt", {"rnn/bias": np.array([0.5, -2.0], np.float32)})
    ...     read_variable(f"{directory}/model.ckpt", "rnn/bias")
    array([ 0.5, -2. ], dtype=float32)
    """
    other = name.removesuffix(":0") if name.endswith(":0") else f"{name}:0"

    def work(reader: CheckpointReader) -> np.ndarray:
        entries = {found: entry for found, entry in reader.entries() if found in (name, other)}
        if not entries:
            raise _no_such_tensor(reader, name)
        stored = name if name in entries else other
        return next(reader.read({stored: entries[stored]}))[1]

    return reading(os.fsdecode(prefix), work)


def _no_such_tensor(reader: CheckpointReader, name: object) -> CheckpointError:
    """Return the error for a name that is not there, with names that are."""
    names, n_characters, count = [], 0, 0
    for found, _ in reader.entries():
        count += 1
        n_characters += len(found)
        if n_characters < 1 << 16:  # a bound on time and memory
            names.append(found)
    similar = get_close_matches(shortened(name), names) or names[:3]
    return CheckpointError(
        f"{shown_path(reader.prefix)}: no tensor {shown(name)} among {count}, but for example {listed(similar)}"
    )


def write_checkpoint(prefix: str | os.PathLike[str], tensors: Mapping[str, np.ndarray]) -> None:
    """Write a checkpoint that TensorFlow can read, with one data file.

    The files are the same bytes that TensorFlow's `Saver` writes. An earlier checkpoint of that name stays whole until
    all is on disk: the new data file has another name (`-of-00002` beside `-of-00001`, or the other way round, both of
    which TensorFlow reads), so the rename of the index alone decides which of the two is read. The old data files are
    removed afterwards. The new files have the permissions that the old index had. The text file `checkpoint` beside
    them then names this checkpoint as the latest, after those it listed before. No checkpoint of another name is
    deleted.

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
    PermissionError
        A file that would be replaced or removed is read-only; no file has been touched then.
    OSError
        From the file system. A checkpoint that was there before is still whole, or the new one is in its place.
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
        raise ValueError(f"prefix: must end in a name other than {STATE_FILE!r}, got {shown(prefix)}")
    if not os.path.isdir(directory or "."):
        raise FileNotFoundError(f"prefix: there is no directory {shown(directory)}")
    arrays = _check_tensors(tensors)
    replaced = _num_shards(prefix)
    num_shards = 2 if replaced == 1 else 1
    old_data = [] if replaced is None else data_files(prefix, replaced)
    # Read-only files are refused before anything is written: those that are replaced, and those that are removed.
    mode, *_ = [writable_mode(path) for path in (index_path(prefix), state_path(prefix), *old_data)]
    with temporary_file(data_path(prefix, 0, 1)) as data, temporary_file(index_path(prefix)) as index:
        index.write(encode_index(_write_data(data, arrays), num_shards))
        for file in (data, index):
            if mode is not None:
                os.chmod(file.name, mode)
            sync_and_close(file)
        os.replace(data.name, data_path(prefix, 0, num_shards))
        sync_directory(directory or ".")  # the index must not be on disk before its data
        os.replace(index.name, index_path(prefix))
    sync_directory(directory or ".")
    for path in old_data:
        with suppress(OSError):  # one that cannot be removed stays
            os.remove(path)
    update_state(prefix)


def _num_shards(prefix: str) -> int | None:
    """Return into how many data files the checkpoint that is there is divided, or None if none can be read."""
    try:
        return CheckpointReader(prefix).num_shards
    except (CheckpointError, FileNotFoundError):
        return None


def _check_tensors(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays, sorted by name."""
    if not tensors:
        raise ValueError("tensors: expected at least one, got none")
    for name, tensor in tensors.items():
        if not isinstance(name, str):
            raise TypeError(f"tensors: expected names of type str, got {shown(name)}")
        if not name or name.startswith(PIECE_MARK) or name.encode(errors="ignore").decode() != name:
            raise ValueError(f"tensors: {shown(name)} cannot be the name of a tensor")
        if (n_bytes := len(name.encode())) > MAX_KEY:
            raise ValueError(f"tensors: expected names of at most {MAX_KEY} bytes, got {n_bytes} in {shown(name)}")
        if not isinstance(tensor, np.ndarray | np.generic):
            raise TypeError(f"tensors: expected NumPy arrays, got {type(tensor).__name__} for {shown(name)}")
        dtype = tensor.dtype
        if dtype.kind not in "biufc" or dtype.newbyteorder("=") not in DTYPE_NUMBERS:
            raise TypeError(f"tensors: {shown(name)} has dtype {shortened(dtype)}, which a checkpoint cannot hold")
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
