"""Weight files written without the library under test: by NumPy, by safetensors, or byte by byte."""

from __future__ import annotations

import io
import json
import struct
import zipfile

import numpy as np
import safetensors.numpy

from indygru_cpu._layers.parameters import SHAPE_OPTIONS, shapes

SUFFIXES = (".npz", ".safetensors")
PLAIN = {
    "input_size": 9, "hidden_size": 7, "num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0,
    "bidirectional": False, "activation": "tanh", "dtype": "float32", "groups": 1, "reproducible": False,
    "reset_gate": True,
}  # fmt: skip
#: Every entry differs from PLAIN.
RICH = {
    "input_size": 33, "hidden_size": 9, "num_layers": 2, "bias": False, "batch_first": True, "dropout": 0.25,
    "bidirectional": True, "activation": "softsign", "dtype": "float64", "groups": 3, "reproducible": True,
    "reset_gate": False,
}  # fmt: skip
TINY = PLAIN | {"input_size": 2, "hidden_size": 1, "bias": False}


def random_arrays(configuration, seed=0):
    """Random arrays of a configuration. Each starts with -0, NaN and a subnormal number."""
    rng = np.random.default_rng(seed)
    dtype = np.dtype(configuration["dtype"])
    expected = shapes(**{name: configuration[name] for name in SHAPE_OPTIONS})
    arrays = {name: rng.standard_normal(shape).astype(dtype) for name, shape in expected.items()}
    for array in arrays.values():
        array.flat[:3] = -0.0, np.nan, np.finfo(dtype).smallest_subnormal
    return arrays


def text_of(configuration, **document):
    return json.dumps({"format_version": 1, "configuration": configuration} | document)


def craft(path, text, arrays):
    """Write a file of any text and any arrays, without a checksum of this library."""
    if path.suffix == ".npz":
        encoded = text if isinstance(text, bytes) else text.encode()
        np.savez(path, configuration=np.frombuffer(encoded, np.uint8), **arrays)
    else:
        safetensors.numpy.save_file(dict(arrays), path, metadata={"configuration": text})
    return path


def npy_bytes(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz_members(configuration, arrays):
    """Contents of a .npz archive by file name, for `write_zip`."""
    text = np.frombuffer(text_of(configuration).encode(), np.uint8)
    return {f"{name}.npy": npy_bytes(array) for name, array in {"configuration": text, **arrays}.items()}


def write_zip(path, contents, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in contents.items() if isinstance(contents, dict) else contents:
            archive.writestr(zipfile.ZipInfo(name), content, compression)
    return path


def directory_entry(name, offset, size=0, stored=None, method=0, flags=0, crc=0):
    """An entry of a zip archive's directory (APPNOTE.TXT, 4.3.12), with 64-bit fields where 32 bits do not suffice."""
    numbers = (size, size if stored is None else stored, offset)
    extra = b"".join(struct.pack("<Q", number) for number in numbers if number >= 0xFFFFFFFF)
    extra = struct.pack("<2H", 1, len(extra)) + extra if extra else b""
    size, stored, offset = (min(number, 0xFFFFFFFF) for number in numbers)
    fields = (20, 20, flags, method, 0, 0, crc, stored, size, len(name), len(extra), 0, 0, 0, 0, offset)
    return struct.pack("<4s6H3I5H2I", b"PK\1\2", *fields) + name + extra


def directory_end(n_entries, size, offset):
    n_entries = min(n_entries, 0xFFFF)
    return struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, n_entries, n_entries, size, offset, 0)


def patch_bytes(path, old, new, count=1):
    """Replace bytes that occur exactly `count` times in a file."""
    data = path.read_bytes()
    assert data.count(old) == count
    path.write_bytes(data.replace(old, new))
    return path


def change_entry(path, name, field, fmt, value):
    """Set a field of a member's directory entry. `field` is its offset in the entry."""
    data = bytearray(path.read_bytes())
    start = data.rindex(b"PK\1\2", 0, data.rindex(name))
    struct.pack_into(fmt, data, start + field, value)
    path.write_bytes(data)


def valid_header(arrays, text):
    """A valid safetensors header of the arrays, as a dict."""
    header, position = {"__metadata__": {"configuration": text}}, 0
    for name, array in arrays.items():
        kind = {"f4": "F32", "f8": "F64"}[array.dtype.str[1:]]
        end = position + array.nbytes
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [position, end]}
        position = end
    return header


def write_safetensors(path, header, data):
    """Write a safetensors file of a header, a dict or bytes, and the bytes after it."""
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + data)
    return path


def tensor_bytes(arrays):
    return b"".join(array.tobytes() for array in arrays.values())
