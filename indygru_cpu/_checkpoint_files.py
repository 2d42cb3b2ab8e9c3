"""The files of a checkpoint: their names, and the text file beside them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ._atomic import replacing

STATE_FILE = "checkpoint"
_INDEX = ".index"
_LISTED = re.compile(rb'^all_model_checkpoint_paths: ("(?:[^"\\\n]|\\.)*")\s*$', re.MULTILINE)


def index_path(prefix: str) -> str:
    """Return the path of the index file."""
    return prefix + _INDEX


def data_path(prefix: str, shard: int, num_shards: int) -> str:
    """Return the path of one data file."""
    return f"{prefix}.data-{shard:05d}-of-{num_shards:05d}"


def suggest_prefix(prefix: str) -> str:
    """Say, for a prefix without an index file, which one was meant, or which there are."""
    file = re.fullmatch(r"(.+)\.(index|data-\d{5}-of-\d{5})", prefix, re.DOTALL)
    if file and os.path.isfile(index_path(file[1])):
        return f"the prefix is the part before '.{file[2]}': {file[1]!r}"
    directory = prefix if os.path.isdir(prefix) else os.path.dirname(prefix) or "."
    found = sorted(str(path)[: -len(_INDEX)] for path in Path(directory).glob(f"*{_INDEX}"))
    return f"prefixes of checkpoints in {directory!r}: {', '.join(map(repr, found)) or 'none'}"


def update_state(prefix: str) -> None:
    """Make `prefix` the latest of the checkpoints that the text file beside it lists."""
    directory, basename = os.path.split(prefix)
    path = os.path.join(directory, STATE_FILE)
    try:
        listed = _LISTED.findall(Path(path).read_bytes())
    except FileNotFoundError:
        listed = []
    latest = _quote(basename)
    earlier = [quoted for quoted in listed if quoted not in (latest, _quote(os.path.abspath(prefix)))]
    lines = [b"all_model_checkpoint_paths: " + quoted for quoted in [*earlier, latest]]
    with replacing(path) as file:
        file.write(b"\n".join([b"model_checkpoint_path: " + latest, *lines, b""]))


def _quote(text: str) -> bytes:
    """Quote a string for protobuf's text format: printable ASCII as it is, every other byte in octal."""
    escaped = re.sub(rb'[^ -~]|["\\]', lambda byte: b"\\%03o" % byte[0][0], os.fsencode(text))
    return b'"' + escaped + b'"'
