"""What every weight file has, whatever its format: an error, headers of arrays, a little strict JSON."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

from indygru_cpu._engine.messages import MAX_TEXT, shortened, shown


class WeightsError(ValueError):
    """A weight file is damaged, hostile, or not of the layer that it says it is.

    The message says what is wrong and where: the file, the array, the entry. It has at most 2,000 characters, although
    names in a file may be longer.
    """

    def __init__(self, text: str = "") -> None:
        super().__init__(shortened(text, MAX_TEXT))


class Header(NamedTuple):
    """What a file says of an array before any of it is read; `nbytes` is what it takes up, uncompressed."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int


def strict_json(data: bytes) -> Any:
    """JSON without what Python's reader lets pass: names given twice, NaN, infinities, other encodings."""
    import json  # here: a program without weight files does not need it

    try:
        return json.loads(data.decode(), object_pairs_hook=_object, parse_constant=_refuse)
    except WeightsError:
        raise
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"expected JSON: {shortened(error)}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise WeightsError(f"{shown(twice)} is given twice")
    return found


def _refuse(constant: str) -> None:
    raise WeightsError(f"expected JSON, which knows no {constant}")
