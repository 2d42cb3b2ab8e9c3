"""Parts that all weight file formats share: the error, array headers, the reader's interface, strict JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, BinaryIO, NamedTuple, Protocol

from indygru_cpu._engine.messages import MAX_TEXT, shortened, shown
from indygru_cpu._typing import Array


class WeightsError(ValueError):
    """Raised for a weight file that is damaged, malicious, or inconsistent with its configuration.

    The message names the file, the array or entry, what was expected and what was found. It has at most 2,000
    characters, although names in a file may be longer.
    """

    def __init__(self, text: str = "") -> None:
        super().__init__(shortened(text, MAX_TEXT))


class Header(NamedTuple):
    """What a file declares about an array. `nbytes` is the uncompressed size of its data."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int


class ArrayReader(Protocol):
    """An open weight file: the configuration's text, the headers of all arrays by name, and the arrays."""

    text: bytes
    headers: dict[str, Header]

    def read_arrays(self) -> dict[str, Array]: ...


class FileFormat(Protocol):
    """A module that writes and reads one format. `HAS_CHECKSUMS` is True if the format itself has checksums."""

    HAS_CHECKSUMS: bool

    def write(self, file: BinaryIO, text: bytes, arrays: Mapping[str, Array]) -> None: ...

    def open_reader(self, file: BinaryIO) -> AbstractContextManager[ArrayReader]: ...


def strict_json(data: bytes) -> Any:
    """Parse JSON, and refuse duplicate names, NaN, infinities and encodings other than UTF-8, which Python accepts."""
    import json  # imported on first use: most programs read no weight files

    try:
        return json.loads(data.decode(), object_pairs_hook=_unique_object, parse_constant=_refuse_constant)
    except WeightsError:
        raise
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"expected JSON: {shortened(error)}") from None


def _unique_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        duplicate = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise WeightsError(f"{shown(duplicate)} appears twice")
    return unique


def _refuse_constant(constant: str) -> None:
    raise WeightsError(f"expected JSON, got {constant}")
