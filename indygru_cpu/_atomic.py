"""Files that are replaced as a whole or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO


@contextmanager
def temporary(path: str) -> Iterator[BinaryIO]:
    """Open a new file beside `path`; it is removed at the end unless it has been renamed."""
    name = f"{path}.tempstate{os.urandom(8).hex()}"
    try:
        with open(name, "xb") as file:
            yield file
    finally:
        with suppress(FileNotFoundError):
            os.remove(name)


def finish(file: BinaryIO) -> None:
    """Close a file once its bytes are on disk."""
    file.flush()
    os.fsync(file.fileno())
    file.close()


@contextmanager
def replacing(path: str) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of `path` at the end; after an error `path` is what it was.

    It gets the permissions of the file it replaces, or else what the umask leaves. A symbolic link stays, and the
    file it points to is replaced.
    """
    target = os.path.realpath(path)
    with temporary(target) as file:
        yield file
        with suppress(FileNotFoundError):
            os.chmod(file.name, stat.S_IMODE(os.stat(target).st_mode))
        finish(file)
        os.replace(file.name, target)
    sync_directory(os.path.dirname(target))


def sync_directory(path: str) -> None:
    """Ask for the new name to be on disk; not every system can, and the file is complete under either name."""
    with suppress(OSError):
        directory = os.open(path, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
