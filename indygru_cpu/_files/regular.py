"""Opening of regular files only: folders, devices, pipes and sockets are refused."""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader


class NotRegularFileError(OSError):
    """Raised for a path that is not a regular file.

    Attributes
    ----------
    text : str
        The message without the path.
    """

    def __init__(self, number: int, text: str, path: str) -> None:
        super().__init__(number, text, path)
        self.text = text


def open_regular(path: str) -> BufferedReader:
    """Open a regular file for reading. A pipe is refused without waiting for a writer.

    The check uses the open descriptor, because another process may replace the file at this path at any time.
    """
    try:
        file = open(path, "rb", opener=_open_nonblocking)  # noqa: SIM115 the caller closes it
    except IsADirectoryError:
        raise NotRegularFileError(errno.EISDIR, "expected a regular file, got a folder", path) from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise NotRegularFileError(errno.EINVAL, "expected a regular file", path)
    return file


def _open_nonblocking(name: str, flags: int) -> int:
    return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))
