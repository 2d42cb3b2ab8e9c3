"""Encoding and decoding of a layer's configuration as JSON in a weight file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from indygru_cpu._engine import checks as check
from indygru_cpu._engine.messages import listed, shown
from indygru_cpu._files import compact
from indygru_cpu._files.arrays import WeightsError, strict_json

FORMAT_VERSION = 1
#: Name of the configuration's text among the arrays of a .npz file and in the metadata of a .safetensors file.
TEXT_NAME = "configuration"
#: Limit of the encoded configuration, far above what any configuration needs.
MAX_TEXT_BYTES = 4096


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


#: Entry -> check of its value, in the order of the file.
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
    "reset_gate": _flag,
}
#: Entries that a file has only if their value is not this one, which earlier versions of the package imply.
_DEFAULTS = {"reset_gate": True}


def checked(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Return all entries in order, or raise WeightsError that names the wrong entry."""
    configuration = {**_DEFAULTS, **configuration}
    missing, unknown = sorted(_ENTRIES.keys() - configuration.keys()), sorted(configuration.keys() - _ENTRIES.keys())
    if missing or unknown:
        raise WeightsError(f"configuration: missing {listed(missing)}, unknown {listed(unknown)}")
    try:
        entries = {name: check_value(configuration[name], name) for name, check_value in _ENTRIES.items()}
        check.groups(entries["groups"], {name: entries[name] for name in ("input_size", "hidden_size")})
    except (TypeError, ValueError) as error:
        raise WeightsError(f"configuration: {error}") from None
    return entries


def encode(configuration: Mapping[str, Any], checksum: int | None = None, weights: str | None = None) -> bytes:
    """Encode a configuration, the format of kernels if it is a smaller one, and the checksum if the file needs one.

    Equal arguments give equal bytes.
    """
    entries = checked(configuration)
    stored = {name: value for name, value in entries.items() if _DEFAULTS.get(name) != value}
    document: dict[str, Any] = {"format_version": FORMAT_VERSION, "configuration": stored}
    if weights is not None:
        document["weights"] = weights
    if checksum is not None:
        document["crc32"] = checksum
    return json.dumps(document, allow_nan=False).encode()


def decode(text: bytes) -> tuple[dict[str, Any], int | None, str | None]:
    """Return the configuration, with every entry checked, the stored checksum and the format of kernels, or None."""
    document = strict_json(text)
    if not isinstance(document, dict) or "format_version" not in document:
        raise WeightsError(
            "format_version: expected a file written by IndyGRU.save, got one without this entry; load arrays from "
            "other sources with load_state_dict"
        )
    version = document.pop("format_version")
    if type(version) is not int or version < 1:
        raise WeightsError(f"format_version: expected an integer of at least 1, got {shown(version)}")
    if version > FORMAT_VERSION:
        raise WeightsError(
            f"format_version: expected at most {FORMAT_VERSION}, got {shown(version)}, written by a newer version of "
            "indygru_cpu: upgrade indygru_cpu"
        )
    configuration, checksum = document.pop("configuration", None), document.pop("crc32", None)
    weights = compact.stored_format(document.pop("weights", None))
    if document:
        raise WeightsError(
            f"unknown entries {listed(sorted(document))}: expected format_version, configuration, weights and crc32"
        )
    if not isinstance(configuration, dict):
        raise WeightsError(f"configuration: expected a JSON object, got {shown(configuration)}")
    if checksum is not None and type(checksum) is not int:
        raise WeightsError(f"crc32: expected an integer, got {shown(checksum)}")
    entries = checked(configuration)
    if weights is not None and entries["dtype"] != "float32":
        raise WeightsError(f"weights: expected none in a file of {entries['dtype']}, got {weights!r}")
    return entries, checksum, weights
