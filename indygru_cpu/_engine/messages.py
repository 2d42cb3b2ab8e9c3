"""Formatting of values in error texts. No error text of the library exceeds MAX_TEXT characters.

A value, a name or a list that comes from a file or a caller can have any length. An error text formats each of them by
these functions, and contains at most two paths, two lists and three values.
"""

from __future__ import annotations

import reprlib
from collections.abc import Collection, Iterable
from itertools import islice

#: The largest number of characters of an error text.
MAX_TEXT = 2000
_MAX_VALUE, _MAX_PATH, _MAX_LIST, _MAX_NAME = 200, 300, 500, 100
_GAP = " ... "
_BOUNDED_REPR = (int, bytes, list, tuple, dict, set, frozenset)


class _ShortRepr(reprlib.Repr):
    """Reprs of bounded length. The cost is bounded too for integers, bytes and collections."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxtuple = self.maxlist = self.maxarray = self.maxset = self.maxfrozenset = self.maxdict = 8
        self.maxstring = self.maxother = _MAX_VALUE

    def repr_int(self, x: int, level: int) -> str:
        bits = x.bit_length()
        return repr(x) if bits < 256 else f"an integer of {bits} bits"  # repr raises for thousands of digits

    def repr_bytes(self, x: bytes, level: int) -> str:
        return repr(x) if len(x) <= self.maxstring else repr(x[: self.maxstring]) + "..."


_REPR = _ShortRepr()


def shortened(text: object, limit: int = _MAX_VALUE) -> str:
    """Return `str(text)`, with its middle left out if it has more than `limit` characters.

    Examples
    --------
    >>> shortened("a text of some length", 15)
    'a tex ... ength'
    """
    # For these types, _REPR has a bounded cost and never raises.
    string = _REPR.repr(text) if isinstance(text, _BOUNDED_REPR) else str(text)
    if len(string) <= limit:
        return string
    n_left = limit - len(_GAP)
    return string[: n_left - n_left // 2] + _GAP + string[len(string) - n_left // 2 :]


def shown(value: object) -> str:
    """Return the repr of a value, shortened."""
    return shortened(_REPR.repr(value))


def shown_path(path: object) -> str:
    """Return the name of a file without quotes, shortened."""
    return shortened(path, _MAX_PATH)


def quoted_path(path: str) -> str:
    """Return the name of a file in quotes, shortened."""
    return shortened(repr(path), _MAX_PATH)


def listed(values: Collection[object] | Iterable[object], total: int | None = None) -> str:
    """Return the repr of a list of the first values, with the number of values left out.

    Parameters
    ----------
    values : collection
        The values; with `total`, an iterable that begins with them.
    total : int, optional
        The number of values; by default the length of `values`.

    Examples
    --------
    >>> listed(["gates/bias", "candidate/bias"])
    "['gates/bias', 'candidate/bias']"
    >>> listed(range(5000))[-21:]
    '98, 99 and 4900 more]'
    """
    count = len(values) if total is None else total  # type: ignore[arg-type]
    texts: list[str] = []
    length = 0
    for value in islice(values, 100):
        text = shortened(_REPR.repr(value), _MAX_NAME)
        length += len(text) + 2
        if texts and length > _MAX_LIST:
            break
        texts.append(text)
    more = f" and {count - len(texts)} more" if count > len(texts) else ""
    return f"[{', '.join(texts)}{more}]"
