"""Two layers with equal numbers of weights and different shapes, and their weight files without a checksum."""

from __future__ import annotations

import json

from weight_files import PLAIN, craft, random_arrays, tensor_bytes, text_of, valid_header, write_safetensors

LAYERS = [PLAIN | {"input_size": 22, "hidden_size": 2}, PLAIN | {"input_size": 2, "hidden_size": 12}]
FEW_UNITS, MANY_UNITS = LAYERS
ARRAYS = [random_arrays(configuration) for configuration in LAYERS]


def file_bytes(path, configuration, arrays):
    """Bytes of a weight file, also one whose arrays do not fit. The safetensors header exceeds a file's buffer."""
    if path.suffix == ".npz":
        craft(path, text_of(configuration), arrays)
    else:
        header = json.dumps(valid_header(arrays, text_of(configuration))).encode()
        write_safetensors(path, header.ljust(30_000), tensor_bytes(arrays))
    data = path.read_bytes()
    path.unlink()
    return data
