"""TensorFlow V2 checkpoints (`.index` and `.data-?????-of-?????`): reading, writing, and the text file `checkpoint`.

The data files contain the tensors as little-endian row-major bytes. `_bundle` decodes and encodes the index, based on
`_sstable` (its file format) and `_protobuf` (encodings and checksums).
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from difflib import get_close_matches
from io import BufferedReader
from itertools import islice, pairwise
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np

from indygru_cpu._engine.messages import listed, quoted_path, shortened, shown, shown_path
from indygru_cpu._files.atomic import (
    atomic_writer,
    sync_and_close,
    sync_directory,
    temporary_file,
    writable_mode,
)
from indygru_cpu._files.regular import NotRegularFileError, open_regular
from indygru_cpu._typing import Array
from indygru_cpu.tensorflow._bundle import DTYPE_NUMBERS, SLICE_KEY_PREFIX, BundleIndex, TensorEntry, encode_index
from indygru_cpu.tensorflow._protobuf import CheckpointError, error_context, masked_crc32c
from indygru_cpu.tensorflow._sstable import MAX_KEY, is_table

__all__ = [
    "CheckpointError",
    "CheckpointReader",
    "TensorEntry",
    "latest_prefix",
    "list_tensors",
    "read_tensor",
    "read_with_retry",
    "resolve_prefix",
    "write_checkpoint",
]

#: Slices of one variable. Each takes a little memory, whatever its size in the file.
MAX_SLICES = 256
#: Bytes of a list item besides the characters of its name and its dimensions.
_LIST_ITEM_BYTES = 200
#: The text file that names the latest checkpoint of a folder.
STATE_FILE = "checkpoint"
_INDEX_SUFFIX = ".index"
_QUOTED = rb"""("(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')"""
_ALL_PATHS = re.compile(rb"^all_model_checkpoint_paths: " + _QUOTED + rb"\s*$", re.MULTILINE)
_LATEST_PATH = re.compile(rb"^\s*model_checkpoint_path\s*:\s*" + _QUOTED, re.MULTILINE)
_ESCAPE = re.compile(rb"\\(?:([0-7]{1,3})|x([0-9a-fA-F]{1,2})|(.))", re.DOTALL)
_ESCAPED_CHARACTERS = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"a": b"\a", b"b": b"\b", b"f": b"\f", b"v": b"\v"}
_Result = TypeVar("_Result")


# --- files -------------------------------------------------------------------------------------------------


def index_path(prefix: str) -> str:
    """Return the path of the index file."""
    return prefix + _INDEX_SUFFIX


def data_path(prefix: str, shard: int, num_shards: int) -> str:
    """Return the path of one data file."""
    return f"{prefix}.data-{shard:05d}-of-{num_shards:05d}"


def existing_data_paths(prefix: str, num_shards: int) -> list[str]:
    """Return the paths of the existing data files of a checkpoint with `num_shards` data files."""
    directory, basename = os.path.split(prefix)
    pattern = re.compile(rf"{re.escape(basename)}\.data-\d{{5}}-of-{num_shards:05d}")
    return [os.path.join(directory, name) for name in os.listdir(directory or ".") if pattern.fullmatch(name)]


def state_path(prefix: str) -> str:
    """Return the path of the text file that names the latest checkpoint of the folder."""
    return os.path.join(os.path.dirname(prefix), STATE_FILE)


def open_checkpoint_file(path: str) -> BufferedReader:
    """Open one of the files for reading. Only regular files are accepted."""
    try:
        return open_regular(path)
    except NotRegularFileError as error:
        raise CheckpointError(f"{shown_path(path)}: {error.text}") from None


def resolve_prefix(prefix: str | os.PathLike[str]) -> str:
    """Return the prefix of a checkpoint: `prefix` itself or, if it is a folder, the prefix of its latest checkpoint."""
    path = os.fsdecode(prefix)
    if not os.path.isdir(path) or os.path.isfile(index_path(path)):
        return path
    latest = latest_prefix(path)
    if latest is None:
        raise _missing_index_error(path)
    return latest


def latest_prefix(directory: str, state_file: str = STATE_FILE) -> str | None:
    """Return the prefix of a folder's latest checkpoint according to its state file, or None if it does not exist."""
    path = os.path.join(directory, state_file)
    try:
        with open_checkpoint_file(path) as file:
            text = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    latest = _LATEST_PATH.search(text)
    if latest is None:
        raise CheckpointError(f"{shown_path(path)}: expected a line 'model_checkpoint_path: \"...\"', got none")
    prefix = os.path.join(directory, os.fsdecode(_unquote(latest[1])))  # an absolute path replaces the directory
    exists = os.path.isfile(index_path(prefix)) or _find_v1_file(prefix) is not None
    return prefix if exists else None


def _missing_index_error(prefix: str) -> FileNotFoundError | CheckpointError:
    """Return the error for a prefix without an index file. It suggests a prefix, or names a V1 checkpoint."""
    if v1_path := _find_v1_file(prefix):
        return CheckpointError(
            f"{shown_path(v1_path)}: expected a checkpoint of the V2 format, got one of the V1 format: convert it in "
            "TensorFlow by restoring it and saving it with tf.train.Saver(), whose default write_version is V2"
        )
    start = f"prefix: expected the prefix of a checkpoint, got one without a file {quoted_path(index_path(prefix))}: "
    file = re.fullmatch(r"(.+)\.(index|data-\d{5}-of-\d{5}|meta)", prefix, re.DOTALL)
    if file and os.path.isfile(index_path(file[1])):
        return FileNotFoundError(f"{start}the prefix is the part before '.{file[2]}': {quoted_path(file[1])}")
    directory = prefix if os.path.isdir(prefix) else os.path.dirname(prefix) or "."
    prefixes = sorted(str(path)[: -len(_INDEX_SUFFIX)] for path in Path(directory).glob(f"*{_INDEX_SUFFIX}"))
    names = listed(prefixes)[1:-1] or "none"
    return FileNotFoundError(f"{start}prefixes in {quoted_path(directory)}: {names}")


def _find_v1_file(prefix: str) -> str | None:
    """Return the path of the first file of a V1 checkpoint: a table without `.index` in its name."""
    directory, basename = os.path.split(prefix)
    paths = [prefix]
    with suppress(OSError, ValueError):
        pattern = re.compile(rf"{re.escape(basename)}-00000-of-\d{{5}}")
        paths += [os.path.join(directory, name) for name in os.listdir(directory or ".") if pattern.fullmatch(name)]
    for path in paths:
        with suppress(OSError, ValueError), open_regular(path) as file:
            file.seek(-8, os.SEEK_END)
            if not path.endswith(_INDEX_SUFFIX) and is_table(file.read()):
                return path
    return None


def _update_state_file(prefix: str) -> None:
    """Make `prefix` the latest checkpoint in the state file of its folder, after the checkpoints listed there."""
    path = state_path(prefix)
    try:
        with open_checkpoint_file(path) as file:
            quoted_paths = _ALL_PATHS.findall(file.read())
    except FileNotFoundError:
        quoted_paths = []
    latest = _quote(os.path.basename(prefix))
    earlier = [quoted for quoted in quoted_paths if quoted not in (latest, _quote(os.path.abspath(prefix)))]
    lines = [b"all_model_checkpoint_paths: " + quoted for quoted in [*earlier, latest]]
    with atomic_writer(path) as file:
        file.write(b"\n".join([b"model_checkpoint_path: " + latest, *lines, b""]))


def _quote(text: str) -> bytes:
    """Quote a string for protobuf's text format. Bytes other than printable ASCII become octal escapes."""
    escaped = re.sub(rb'[^ -~]|["\\]', lambda byte: b"\\%03o" % byte[0][0], os.fsencode(text))
    return b'"' + escaped + b'"'


def _unquote(quoted: bytes) -> bytes:
    """Return the value of a quoted string in protobuf's text format."""

    def unescape(match: re.Match[bytes]) -> bytes:
        octal, hexadecimal, character = match.groups()
        if character is not None:
            return _ESCAPED_CHARACTERS.get(character, character)
        return bytes([int(octal, 8) % 256 if octal else int(hexadecimal, 16)])

    return _ESCAPE.sub(unescape, quoted[1:-1])


# --- reading -----------------------------------------------------------------------------------------------


class CheckpointReader:
    """A checkpoint whose index has been read as bytes. Entries and tensors are decoded on demand.

    Parameters
    ----------
    prefix : str
        The checkpoint's path without `.index`.

    Raises
    ------
    FileNotFoundError
        The index file does not exist. The message suggests an existing prefix.
    CheckpointError
        The file is not an index, or the checkpoint has the V1 format.
    ImportError
        The package google-crc32c, from the extra `tensorflow`, is not installed.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        path = index_path(prefix)
        if not os.path.isfile(path):
            raise _missing_index_error(prefix)
        with open_checkpoint_file(path) as file:
            self._index_identity = _file_identity(os.fstat(file.fileno()))
            data = file.read()
        with error_context(shown_path(path)):
            self._index = BundleIndex(data)
        self._index_size = len(data)
        self._shard_sizes: dict[int, int] = {}

    @property
    def num_shards(self) -> int:
        """The number of data files according to the index."""
        return self._index.num_shards

    @property
    def size(self) -> int:
        """Bytes of the index and of the data files accessed so far."""
        return self._index_size + sum(self._shard_sizes.values())

    def was_replaced(self) -> bool:
        """Return whether the index file has been replaced or removed since it was read."""
        try:
            return _file_identity(os.stat(index_path(self.prefix))) != self._index_identity
        except FileNotFoundError:
            return True

    def entries(self) -> Iterator[tuple[str, TensorEntry]]:
        """Yield name and entry of each tensor, sorted by name. Each entry is checked to be inside its data file."""
        with error_context(shown_path(index_path(self.prefix))):
            for name, entry in self._index.entries():
                if not entry.n_slices and (problem := self._bounds_problem(entry)):
                    raise CheckpointError(f"tensor {shown(name)}: {problem}")
                yield name, entry

    def read(self, entries: Mapping[str, TensorEntry]) -> Iterator[tuple[str, Array]]:
        """Yield name and values of each tensor, in new arrays.

        Before the first tensor is read, all are checked not to overlap in the data files. This bounds their total
        memory by the size of the data files.
        """
        byte_ranges = []
        for name, entry in entries.items():
            with error_context(f"{shown_path(self.prefix)}: tensor {shown(name)}"):
                if entry.dtype is None:
                    raise CheckpointError(f"expected a type with a NumPy equivalent, got {entry.dtype_name}")
                parts = [part for _, part in self._checked_slices(name, entry)] if entry.n_slices else [entry]
                byte_ranges += [(part.shard, part.offset, part.size, name) for part in parts if part.size]
        for (shard, offset, size, name), (next_shard, next_offset, _, next_name) in pairwise(sorted(byte_ranges)):
            if shard == next_shard and offset + size > next_offset:
                raise CheckpointError(
                    f"{shown_path(self.prefix)}: tensors {shown(name)} and {shown(next_name)} overlap at byte "
                    f"{next_offset}"
                )
        for name, entry in entries.items():
            with error_context(f"{shown_path(self.prefix)}: tensor {shown(name)}"):
                array = self._read_slices(name, entry) if entry.n_slices else self._read_entry(entry)
            yield name, array

    def _bounds_problem(self, entry: TensorEntry) -> str | None:
        """Return why an entry is not inside its data file, or None if it is."""
        path = data_path(self.prefix, entry.shard, self._index.num_shards)
        if entry.shard not in self._shard_sizes:
            if not os.path.isfile(path):
                return f"its data file {quoted_path(path)} is missing"
            self._shard_sizes[entry.shard] = os.path.getsize(path)
        shard_size = self._shard_sizes[entry.shard]
        if entry.offset + entry.size <= shard_size:
            return None
        return f"{entry.size} bytes at byte {entry.offset} reach beyond the {shard_size} bytes of {quoted_path(path)}"

    def _checked_slices(self, name: str, whole: TensorEntry) -> list[tuple[tuple[slice, ...], TensorEntry]]:
        """Return extents and entry of each slice of a partitioned variable. Their total size is checked."""
        if whole.n_slices > MAX_SLICES:
            raise CheckpointError(f"expected at most {MAX_SLICES} slices, got {whole.n_slices}")
        slices = list(islice(self._index.slices(name), MAX_SLICES + 1))
        if len(slices) != whole.n_slices:
            raise CheckpointError(f"expected entries of {whole.n_slices} slices, got {len(slices)}")
        for extents, entry in slices:
            shape = tuple(len(range(size)[axis]) for size, axis in zip(whole.shape, extents, strict=False))
            has_all_axes = len(extents) == len(whole.shape)
            if not has_all_axes or (entry.shape, entry.dtype, entry.n_slices) != (shape, whole.dtype, 0):
                raise CheckpointError(
                    f"a slice of {entry.description} does not fit into {whole.description} at {shown(extents)}"
                )
            if problem := self._bounds_problem(entry):
                raise CheckpointError(problem)
        n_elements = sum(math.prod(entry.shape) for _, entry in slices)
        if n_elements != math.prod(whole.shape):
            raise CheckpointError(f"expected slices that cover {whole.description}, got {n_elements} elements")
        return slices

    def _read_slices(self, name: str, whole: TensorEntry) -> Array:
        array, is_filled = np.empty(whole.shape, whole.dtype), np.zeros(whole.shape, bool)
        for extents, entry in self._checked_slices(name, whole):
            array[extents] = self._read_entry(entry)
            is_filled[extents] = True
        if not is_filled.all():
            raise CheckpointError("its slices overlap")
        return array

    def _read_entry(self, entry: TensorEntry) -> Array:
        assert entry.dtype is not None
        array = np.empty(entry.size // entry.dtype.itemsize, entry.dtype.newbyteorder("<"))
        stored = array.view(np.uint8).data
        path = data_path(self.prefix, entry.shard, self._index.num_shards)
        location = f"{entry.size} bytes at byte {entry.offset} of {quoted_path(path)}"
        with open_checkpoint_file(path) as file:
            file.seek(entry.offset)
            if (n_read := file.readinto(stored)) != entry.size:
                raise CheckpointError(f"truncated file: expected {location}, got {n_read} bytes")
        computed = masked_crc32c(stored)
        if computed != entry.crc:
            raise CheckpointError(f"wrong CRC-32C of {location}: stored {entry.crc:#010x}, computed {computed:#010x}")
        try:
            return array.astype(entry.dtype, copy=False).reshape(entry.shape)
        except ValueError as error:  # more dimensions than NumPy supports, or an empty array with an overflowing shape
            raise CheckpointError(f"NumPy has no array of shape {shown(entry.shape)}: {shortened(error)}") from None


def _file_identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def read_with_retry(prefix: str, read: Callable[[CheckpointReader], _Result]) -> _Result:
    """Return `read(reader)`. If another process replaces the checkpoint during the call, start again.

    A writer removes the old data file after it has replaced the index, so a reader of the old index can miss the file.
    """
    for attempts_left in range(9, -1, -1):
        reader = CheckpointReader(prefix)
        try:
            return read(reader)
        except (CheckpointError, FileNotFoundError):
            if not attempts_left or not reader.was_replaced():
                raise
    raise AssertionError("unreachable")


def list_tensors(prefix: str | os.PathLike[str]) -> list[tuple[str, tuple[int, ...]]]:
    """Return name and shape of every tensor, sorted by name, without reading the data files.

    The whole index is checked, and each tensor is checked to be inside its data file. Errors are those of
    `list_variables`.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     write_checkpoint(f"{directory}/model.ckpt", {"rnn/bias": np.array([0.5, -2.0], np.float32)})
    ...     list_tensors(f"{directory}/model.ckpt")
    [('rnn/bias', (2,))]
    """

    def read(reader: CheckpointReader) -> list[tuple[str, tuple[int, ...]]]:
        tensors: list[tuple[str, tuple[int, ...]]] = []
        n_bytes = 0
        for name, entry in reader.entries():
            n_bytes += _LIST_ITEM_BYTES + len(name) + 8 * len(entry.shape)
            if n_bytes > 3 * reader.size + (1 << 20):
                raise CheckpointError(
                    f"{shown_path(reader.prefix)}: expected a list of names in proportion to the files, got more than "
                    f"{len(tensors)} names in {reader.size} bytes: read tensors of known names with load_variable"
                )
            tensors.append((name, entry.shape))
        return tensors

    return read_with_retry(os.fsdecode(prefix), read)


def read_tensor(prefix: str | os.PathLike[str], name: str) -> Array:
    """Return one tensor. Parameters and errors are those of `load_variable`, except that `prefix` is not a folder.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     write_checkpoint(f"{directory}/model.ckpt", {"rnn/bias": np.array([0.5, -2.0], np.float32)})
    ...     read_tensor(f"{directory}/model.ckpt", "rnn/bias")
    array([ 0.5, -2. ], dtype=float32)
    """
    alternative = name.removesuffix(":0") if name.endswith(":0") else f"{name}:0"

    def read(reader: CheckpointReader) -> Array:
        entries = {key: entry for key, entry in reader.entries() if key in (name, alternative)}
        if not entries:
            raise _missing_tensor_error(reader, name)
        key = name if name in entries else alternative
        return next(reader.read({key: entries[key]}))[1]

    return read_with_retry(os.fsdecode(prefix), read)


def _missing_tensor_error(reader: CheckpointReader, name: str) -> CheckpointError:
    """Return the error for a name that the checkpoint does not contain. It lists names that it contains."""
    names, n_characters, n_tensors = [], 0, 0
    for key, _ in reader.entries():
        n_tensors += 1
        n_characters += len(key)
        if n_characters < 1 << 16:  # bounds time and memory
            names.append(key)
    similar = get_close_matches(shortened(name), names) or names[:3]
    return CheckpointError(
        f"name: expected one of {n_tensors} tensors in {shown_path(reader.prefix)}, such as {listed(similar)}, "
        f"got {shown(name)}"
    )


# --- writing -----------------------------------------------------------------------------------------------


def write_checkpoint(prefix: str | os.PathLike[str], tensors: Mapping[str, Array]) -> None:
    """Write a checkpoint with one data file. The files equal those that TensorFlow's `Saver` writes.

    The rename of the index replaces an existing checkpoint atomically: the new data file has a name that the old index
    does not refer to (`-of-00002` beside `-of-00001`, or vice versa; TensorFlow reads both). The old data files are
    removed afterwards. New files take the permissions of the old index. Last, the state file is updated. Checkpoints of
    other names are not changed.

    Parameters
    ----------
    prefix : str or path
        The checkpoint's path without `.index`, in an existing directory.
    tensors : mapping of str to numpy.ndarray
        At least one array or NumPy scalar of a boolean or numeric dtype. Names are not empty.

    Raises
    ------
    ValueError, TypeError
        An invalid prefix, name or dtype. No file has been changed.
    PermissionError
        A file that would be replaced or removed is read-only. No file has been changed.
    OSError
        An error of the file system. The old or the new checkpoint is complete.
    ImportError
        The package google-crc32c, from the extra `tensorflow`, is not installed.

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
        raise ValueError(f"prefix: expected a path that ends in a name other than {STATE_FILE!r}, got {shown(prefix)}")
    if not os.path.isdir(directory or "."):
        raise FileNotFoundError(f"prefix: expected a path in an existing directory, got {shown(prefix)}")
    arrays = _checked_tensors(tensors)
    old_num_shards = _existing_num_shards(prefix)
    num_shards = 2 if old_num_shards == 1 else 1
    old_data_paths = [] if old_num_shards is None else existing_data_paths(prefix, old_num_shards)
    # Read-only files that would be replaced or removed are refused before anything is written.
    mode, *_ = [writable_mode(path) for path in (index_path(prefix), state_path(prefix), *old_data_paths)]
    with temporary_file(data_path(prefix, 0, 1)) as data, temporary_file(index_path(prefix)) as index:
        index.write(encode_index(_write_data(data, arrays), num_shards))
        for file in (data, index):
            if mode is not None:
                os.chmod(file.name, mode)
            sync_and_close(file)
        os.replace(data.name, data_path(prefix, 0, num_shards))
        sync_directory(directory or ".")  # the data must be on disk before the index
        os.replace(index.name, index_path(prefix))
    sync_directory(directory or ".")
    for path in old_data_paths:
        with suppress(OSError):  # the new checkpoint does not depend on the removal
            os.remove(path)
    _update_state_file(prefix)


def _existing_num_shards(prefix: str) -> int | None:
    """Return the number of data files of the existing checkpoint, or None if no checkpoint can be read."""
    try:
        return CheckpointReader(prefix).num_shards
    except (CheckpointError, FileNotFoundError):
        return None


def _checked_tensors(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Return the arrays, sorted by name."""
    if not tensors:
        raise ValueError("tensors: expected at least one, got none")
    for name, tensor in tensors.items():
        if not isinstance(name, str):
            raise TypeError(f"tensors: expected names of type str, got {shown(name)}")
        if not name or name.startswith(SLICE_KEY_PREFIX) or name.encode(errors="ignore").decode() != name:
            raise ValueError(
                f"tensors: expected names that are not empty, begin with no NUL and are UTF-8, got {shown(name)}"
            )
        if (n_bytes := len(name.encode())) > MAX_KEY:
            raise ValueError(f"tensors: expected names of at most {MAX_KEY} bytes, got {n_bytes} in {shown(name)}")
        if not isinstance(tensor, np.ndarray | np.generic):
            raise TypeError(f"tensors: expected NumPy arrays, got {type(tensor).__name__} for {shown(name)}")
        dtype = tensor.dtype
        if dtype.kind not in "biufc" or dtype.newbyteorder("=") not in DTYPE_NUMBERS:
            raise TypeError(
                f"tensors: expected dtypes that a checkpoint can contain, got {shortened(dtype)} for {shown(name)}"
            )
    return {name: np.asarray(tensors[name]) for name in sorted(tensors)}


def _write_data(file: BinaryIO, arrays: Mapping[str, Array]) -> dict[str, TensorEntry]:
    """Write the arrays consecutively and return their entries."""
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
