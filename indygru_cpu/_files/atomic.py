"""Files that are replaced as a whole or not at all.

A process that is killed while it writes leaves its temporary file, ``.indygru_cpu-<16 hexadecimal digits>.tmp``, in the
folder of the file that was to be written.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO


@contextmanager
def temporary(path: str) -> Iterator[BinaryIO]:
    """Open a new file in the folder of `path`; it is removed at the end unless it has been renamed.

    Its name is short whatever the name of `path`, which may be as long as the file system allows.
    """
    name = os.path.join(os.path.dirname(path), f".indygru_cpu-{os.urandom(8).hex()}.tmp")
    try:
        with _opened_new(name, path) as file:
            yield file
    finally:
        with suppress(FileNotFoundError):
            os.remove(name)


def _opened_new(name: str, path: str) -> BinaryIO:
    """Create the file `name`; an error of the file system names `path`, which the user knows."""
    try:
        return open(name, "xb")
    except OSError as error:
        error.filename = path
        raise


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

    Raises
    ------
    PermissionError
        The process may not write to the file at `path`, or may not create files in its folder.
    OSError
        `path` is a folder, a device, a pipe or a socket; or any other error of the file system.
    """
    target = os.path.realpath(path)
    mode = writable_mode(target)
    with temporary(target) as file:
        yield file
        if mode is not None:
            os.chmod(file.name, mode)
        finish(file)
        os.replace(file.name, target)
    sync_directory(os.path.dirname(target))


def writable_mode(path: str) -> int | None:
    """Return the permissions of the file at `path`, or None if there is none; refuse one that cannot be written to.

    To replace a file, the system asks only for rights on its folder. Opening the file for writing asks for rights on
    the file itself, as `open` and `numpy.save` do: a read-only file is refused for everybody but the superuser.
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
    """Ask for the new name to be on disk; not every system can, and the file is complete under either name."""
    with suppress(OSError):
        directory = os.open(path, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
