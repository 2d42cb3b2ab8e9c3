"""Values in error texts: shortened, so that no error text of the library exceeds 2,000 characters.

A value, a name or a list may come from a file or a caller and be of any length. Error texts take them through these
functions: at most two paths, two lists and three values each.
"""

from __future__ import annotations

import reprlib
from collections.abc import Collection, Iterable
from itertools import islice

#: What an error text has at most.
MAX_TEXT = 2000
_MAX_VALUE, _MAX_PATH, _MAX_LIST, _MAX_NAME = 200, 300, 500, 100
_GAP = " ... "
_BOUNDED_REPR = (int, bytes, list, tuple, dict, set, frozenset)


class _ShortRepr(reprlib.Repr):
    """Reprs whose cost does not grow with the value, as far as the type allows it."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxtuple = self.maxlist = self.maxarray = self.maxset = self.maxfrozenset = self.maxdict = 8
        self.maxstring = self.maxother = _MAX_VALUE

    def repr_int(self, x: int, level: int) -> str:
        bits = x.bit_length()
        return repr(x) if bits < 256 else f"an integer of {bits} bits"  # Python refuses to print thousands of digits

    def repr_bytes(self, x: bytes, level: int) -> str:
        return repr(x) if len(x) <= self.maxstring else repr(x[: self.maxstring]) + "..."


_REPR = _ShortRepr()


def shortened(text: object, limit: int = _MAX_VALUE) -> str:
    """Return `str(text)`, without its middle if it is longer than `limit` characters.

    Examples
    --------
    >>> shortened("a text of some length", 15)
    'a tex ... ength'
    """
    # The repr of _REPR is bounded for collections and integers, and raises for none of them.
    found = _REPR.repr(text) if isinstance(text, _BOUNDED_REPR) else str(text)
    if len(found) <= limit:
        return found
    kept = limit - len(_GAP)
    return found[: kept - kept // 2] + _GAP + found[len(found) - kept // 2 :]


def shown(value: object) -> str:
    """Return the repr of a value, shortened."""
    return shortened(_REPR.repr(value))


def shown_path(path: object) -> str:
    """Return the name of a file, as it is, without its middle if it is long."""
    return shortened(path, _MAX_PATH)


def quoted_path(path: str) -> str:
    """Return the name of a file in quotes, without its middle if it is long."""
    return shortened(repr(path), _MAX_PATH)


def listed(values: Collection[object] | Iterable[object], total: int | None = None) -> str:
    """Return values as a list shows them: the first ones, and how many follow.

    Parameters
    ----------
    values : collection
        All values, or, beside `total`, at least the first ones.
    total : int, optional
        How many there are; by default as many as `values` has.

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
