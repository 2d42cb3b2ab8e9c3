"""A layer's configuration as text, and back: the part of a weight file that is not arrays."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from indygru_cpu._engine import checks as check
from indygru_cpu._engine.messages import listed, shown
from indygru_cpu._files.arrays import WeightsError, strict_json

FORMAT_VERSION = 1
#: No configuration is nearly as long; whoever reads one reads no further.
MOST_TEXT = 4096
_NOT_OURS = "was it written by IndyGRU.save? Arrays of other origin go through load_state_dict"


def _flag(value: object, name: str) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected true or false, got {shown(value)}")
    return value


def _activation(value: object, name: str) -> object:
    check.activation_index(value)
    return value


def _dtype_name(value: object, name: str) -> object:
    names = [dtype.name for dtype in check.DTYPES]
    if value not in names:
        raise ValueError(f"{name}: expected {' or '.join(names)}, got {shown(value)}")
    return value


#: Every entry, in the order of the file, with what it has to be.
_ENTRIES: dict[str, Callable[[object, str], Any]] = {
    "input_size": check.size,
    "hidden_size": check.size,
    "num_layers": check.size,
    "bias": _flag,
    "batch_first": _flag,
    "dropout": check.fraction,
    "bidirectional": _flag,
    "activation": _activation,
    "dtype": _dtype_name,
    "groups": check.size,
    "reproducible": _flag,
}


def checked(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """All entries in order, or an error that names the one that is wrong."""
    missing, unknown = sorted(_ENTRIES.keys() - configuration.keys()), sorted(configuration.keys() - _ENTRIES.keys())
    if missing or unknown:
        raise WeightsError(f"configuration: missing {listed(missing)}, unknown {listed(unknown)}")
    try:
        found = {name: read(configuration[name], name) for name, read in _ENTRIES.items()}
        check.groups(found["groups"], {name: found[name] for name in ("input_size", "hidden_size")})
    except (TypeError, ValueError) as error:
        raise WeightsError(f"configuration: {error}") from None
    return found


def encode(configuration: Mapping[str, Any], checksum: int | None = None) -> bytes:
    """The same bytes for the same configuration, and checksum of what else is in the file."""
    document = {"format_version": FORMAT_VERSION, "configuration": checked(configuration)}
    if checksum is not None:
        document["crc32"] = checksum
    return json.dumps(document, allow_nan=False).encode()


def decode(text: bytes) -> tuple[dict[str, Any], int | None]:
    """The configuration, every entry checked, and the checksum if there is one."""
    document = strict_json(text)
    if not isinstance(document, dict) or "format_version" not in document:
        raise WeightsError(f"no format_version: {_NOT_OURS}")
    version = document.pop("format_version")
    if type(version) is not int or version < 1:
        raise WeightsError(f"format_version: expected an integer of at least 1, got {shown(version)}")
    if version > FORMAT_VERSION:
        raise WeightsError(
            f"written by a newer version of indygru_cpu (format {shown(version)}, this one reads up to "
            f"{FORMAT_VERSION}): upgrade indygru_cpu"
        )
    configuration, checksum = document.pop("configuration", None), document.pop("crc32", None)
    if document:
        raise WeightsError(f"unknown {listed(sorted(document))} beside format_version, configuration and crc32")
    if not isinstance(configuration, dict):
        raise WeightsError(f"configuration: expected its entries, got {shown(configuration)}")
    if checksum is not None and type(checksum) is not int:
        raise WeightsError(f"crc32: expected an integer, got {shown(checksum)}")
    return checked(configuration), checksum
