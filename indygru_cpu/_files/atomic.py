"""Atomic replacement of files.

A process that is killed while it writes leaves its temporary file, ``.indygru_cpu-<16 hexadecimal digits>.tmp``, in the
folder of the destination.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO


@contextmanager
def temporary_file(path: str) -> Iterator[BinaryIO]:
    """Open a new file in the folder of `path`, and remove it at the end unless it has been renamed.

    Its name has a fixed length, because the name of `path` may be as long as the file system allows.
    """
    name = os.path.join(os.path.dirname(path), f".indygru_cpu-{os.urandom(8).hex()}.tmp")
    try:
        with _create(name, path) as file:
            yield file
    finally:
        with suppress(FileNotFoundError):
            os.remove(name)


def _create(name: str, path: str) -> BinaryIO:
    """Create the file `name`. An OSError names `path`, the caller's argument, instead of the temporary file."""
    try:
        return open(name, "xb")
    except OSError as error:
        error.filename = path
        raise


def sync_and_close(file: BinaryIO) -> None:
    """Write the bytes of a file to disk and close it."""
    file.flush()
    os.fsync(file.fileno())
    file.close()


@contextmanager
def atomic_writer(path: str) -> Iterator[BinaryIO]:
    """Open a new file that replaces `path` at the end. After an error `path` is unchanged.

    The new file has the permissions of the replaced file, or those of the umask if there was none. If `path` is a
    symbolic link, the file it points to is replaced.

    Raises
    ------
    PermissionError
        The process may not write to the file at `path`, or may not create files in its folder.
    OSError
        `path` is a folder, a device, a pipe or a socket; or any other error of the file system.
    """
    target = os.path.realpath(path)
    mode = writable_mode(target)
    with temporary_file(target) as file:
        yield file
        if mode is not None:
            os.chmod(file.name, mode)
        sync_and_close(file)
        os.replace(file.name, target)
    sync_directory(os.path.dirname(target))


def writable_mode(path: str) -> int | None:
    """Return the permissions of the file at `path`, or None if it does not exist. Raise OSError if it is not writable.

    Replacing a file requires permissions on its folder only. This function also requires write permission on the file
    itself, as `open` and `numpy.save` do, so a read-only file is replaced by the superuser only.
    """
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise OSError(errno.EINVAL, "Expected a regular file, which can be replaced", path)
        os.close(os.open(path, os.O_WRONLY))
    except FileNotFoundError:
        return None
    return stat.S_IMODE(mode)


def sync_directory(path: str) -> None:
    """Write the entries of a folder to disk, where the system supports it. The file itself is complete either way."""
    with suppress(OSError):
        directory = os.open(path, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
