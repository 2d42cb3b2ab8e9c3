"""The files of a checkpoint: their names, and the text file beside them."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from io import BufferedReader
from pathlib import Path

from indygru_cpu._engine.messages import listed, quoted_path, shown_path
from indygru_cpu._files.atomic import atomic_writer
from indygru_cpu._files.regular import NotRegularFileError, open_regular
from indygru_cpu.tensorflow._protobuf import CheckpointError
from indygru_cpu.tensorflow._sstable import is_table

STATE_FILE = "checkpoint"
_INDEX = ".index"
_QUOTED = rb"""("(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')"""
_LISTED = re.compile(rb"^all_model_checkpoint_paths: " + _QUOTED + rb"\s*$", re.MULTILINE)
_LATEST = re.compile(rb"^\s*model_checkpoint_path\s*:\s*" + _QUOTED, re.MULTILINE)
_ESCAPE = re.compile(rb"\\(?:([0-7]{1,3})|x([0-9a-fA-F]{1,2})|(.))", re.DOTALL)
_ESCAPED = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"a": b"\a", b"b": b"\b", b"f": b"\f", b"v": b"\v"}


def index_path(prefix: str) -> str:
    """Return the path of the index file."""
    return prefix + _INDEX


def data_path(prefix: str, shard: int, num_shards: int) -> str:
    """Return the path of one data file."""
    return f"{prefix}.data-{shard:05d}-of-{num_shards:05d}"


def data_files(prefix: str, num_shards: int) -> list[str]:
    """Return the paths of the data files of an index that divides them into so many, as far as they are there."""
    directory, basename = os.path.split(prefix)
    name = re.compile(rf"{re.escape(basename)}\.data-\d{{5}}-of-{num_shards:05d}")
    return [os.path.join(directory, found) for found in os.listdir(directory or ".") if name.fullmatch(found)]


def state_path(prefix: str) -> str:
    """Return the path of the text file that names the latest checkpoint of the folder."""
    return os.path.join(os.path.dirname(prefix), STATE_FILE)


def opened(path: str) -> BufferedReader:
    """Open one of the files to read it."""
    try:
        return open_regular(path)
    except NotRegularFileError as error:
        raise CheckpointError(f"{shown_path(path)}: {error.text}") from None


def missing_index(prefix: str) -> FileNotFoundError | CheckpointError:
    """Return the error for a prefix without an index file: what was meant, which there are, or a V1 checkpoint."""
    if v1 := _v1_file(prefix):
        return CheckpointError(
            f"{shown_path(v1)}: a checkpoint of the V1 format, which is not read. TensorFlow converts it: restore it "
            "there and save it with tf.train.Saver(), whose write_version is V2 unless given"
        )
    start = f"no file {quoted_path(index_path(prefix))}; "
    file = re.fullmatch(r"(.+)\.(index|data-\d{5}-of-\d{5}|meta)", prefix, re.DOTALL)
    if file and os.path.isfile(index_path(file[1])):
        return FileNotFoundError(f"{start}the prefix is the part before '.{file[2]}': {quoted_path(file[1])}")
    directory = prefix if os.path.isdir(prefix) else os.path.dirname(prefix) or "."
    found = sorted(str(path)[: -len(_INDEX)] for path in Path(directory).glob(f"*{_INDEX}"))
    names = listed(found)[1:-1] or "none"
    return FileNotFoundError(f"{start}prefixes of checkpoints in {quoted_path(directory)}: {names}")


def _v1_file(prefix: str) -> str | None:
    """Return the path of a V1 checkpoint's (first) file: a table, without `.index` in its name."""
    directory, basename = os.path.split(prefix)
    paths = [prefix]
    with suppress(OSError, ValueError):
        part = re.compile(rf"{re.escape(basename)}-00000-of-\d{{5}}")
        paths += [os.path.join(directory, name) for name in os.listdir(directory or ".") if part.fullmatch(name)]
    for path in paths:
        with suppress(OSError, ValueError), open_regular(path) as file:
            file.seek(-8, os.SEEK_END)
            if not path.endswith(_INDEX) and is_table(file.read()):
                return path
    return None


def latest_prefix(directory: str, state_file: str = STATE_FILE) -> str | None:
    """Return the prefix of the checkpoint that the text file in a folder names as the latest, if it is there."""
    path = os.path.join(directory, state_file)
    try:
        with opened(path) as file:
            text = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    found = _LATEST.search(text)
    if found is None:
        raise CheckpointError(f"{shown_path(path)}: expected a line 'model_checkpoint_path: \"...\"', found none")
    prefix = os.path.join(directory, os.fsdecode(_unquote(found[1])))  # an absolute path stays as it is
    there = os.path.isfile(index_path(prefix)) or _v1_file(prefix) is not None
    return prefix if there else None


def update_state(prefix: str) -> None:
    """Make `prefix` the latest of the checkpoints that the text file beside it lists."""
    path = state_path(prefix)
    try:
        with opened(path) as file:
            listed = _LISTED.findall(file.read())
    except FileNotFoundError:
        listed = []
    latest = _quote(os.path.basename(prefix))
    earlier = [quoted for quoted in listed if quoted not in (latest, _quote(os.path.abspath(prefix)))]
    lines = [b"all_model_checkpoint_paths: " + quoted for quoted in [*earlier, latest]]
    with atomic_writer(path) as file:
        file.write(b"\n".join([b"model_checkpoint_path: " + latest, *lines, b""]))


def _quote(text: str) -> bytes:
    """Quote a string for protobuf's text format: printable ASCII as it is, every other byte in octal."""
    escaped = re.sub(rb'[^ -~]|["\\]', lambda byte: b"\\%03o" % byte[0][0], os.fsencode(text))
    return b'"' + escaped + b'"'


def _unquote(quoted: bytes) -> bytes:
    """Return the string that protobuf's text format writes like this."""

    def unescape(match: re.Match[bytes]) -> bytes:
        octal, hexadecimal, character = match.groups()
        if character is not None:
            return _ESCAPED.get(character, character)
        return bytes([int(octal, 8) % 256 if octal else int(hexadecimal, 16)])

    return _ESCAPE.sub(unescape, quoted[1:-1])
