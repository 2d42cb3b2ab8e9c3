"""Opening files that must be regular ones: no folders, devices, pipes or sockets."""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader


class NotRegularFileError(OSError):
    """A path names something other than a regular file. `text` is the message without the path."""

    def __init__(self, number: int, text: str, path: str) -> None:
        super().__init__(number, text, path)
        self.text = text


def open_regular(path: str) -> BufferedReader:
    """Open a regular file to read it. A pipe is refused without waiting for a process that writes into it.

    The descriptor is checked, not the name: another process may give the name to something else in between.
    """
    try:
        file = open(path, "rb", opener=_open_without_waiting)  # noqa: SIM115 the caller closes it
    except IsADirectoryError:
        raise NotRegularFileError(errno.EISDIR, "expected a regular file, got a folder", path) from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise NotRegularFileError(errno.EINVAL, "expected a regular file", path)
    return file


def _open_without_waiting(name: str, flags: int) -> int:
    return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))
