"""Peak memory of reading a weight file: at most a small multiple of the file's size, also for malicious files."""

from __future__ import annotations

import json
import struct
import tracemalloc
import zipfile

import file_checks
import numpy as np
import pytest
from file_checks import ARRAYS, INT32_MAX, assert_refused, read_or_refused
from helpers import assert_same_bits
from weight_files import (
    PLAIN,
    change_entry,
    craft,
    directory_end,
    directory_entry,
    npy_bytes,
    npz_members,
    random_arrays,
    tensor_bytes,
    text_of,
    valid_header,
    write_safetensors,
    write_zip,
)

from indygru_cpu import IndyGRU, _files

path = file_checks.path
npz = file_checks.npz
BIG = PLAIN | {"input_size": 10_000, "hidden_size": 10_000}  # 1.2 GB


def zero_npy(shape):
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': %s, }" % str(shape).encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + header.ljust(117) + b"\n"


def bomb(path):
    """Valid except for a compression ratio of 1000 to 1."""
    n_zeros = 3 * 10**7
    configuration = PLAIN | {"input_size": 1, "hidden_size": n_zeros // 3, "bias": False}
    vector = zero_npy((n_zeros,)) + bytes(4 * n_zeros)
    kernel = zero_npy((1, n_zeros)) + bytes(4 * n_zeros)
    arrays = {"kernel_l0.npy": kernel, "recurrent_kernel_l0.npy": vector}
    write_zip(path, npz_members(configuration, {}) | arrays, zipfile.ZIP_DEFLATED)


def bomb_with_a_false_size(path):
    """The stream yields more than the directory declares."""
    write_zip(path, npz_members(PLAIN, ARRAYS) | {"bias_l0.npy": bytes(10**8)}, zipfile.ZIP_DEFLATED)
    change_entry(path, b"bias_l0.npy", 24, "<I", 212)


def bomb_as_configuration(path):
    content = zero_npy((10**8,)).replace(b"<f4", b"|u1") + bytes(10**8)
    write_zip(path, npz_members(PLAIN, ARRAYS) | {"configuration.npy": content}, zipfile.ZIP_DEFLATED)


def bomb_as_npy_header(path):
    """A .npy member of format 2.0 may have a header of up to 4 GB."""
    content = b"\x93NUMPY\x02\x00" + struct.pack("<I", 10**8) + b" " * 10**8
    write_zip(path, npz_members(PLAIN, ARRAYS) | {"bias_l0.npy": content}, zipfile.ZIP_DEFLATED)


def directory_of_empty_entries(path):
    """Entries of 46 bytes, which take much more memory as objects."""
    entries = directory_entry(b"", 0) * 60_000
    path.write_bytes(entries + directory_end(60_000, len(entries), 0))


def directory_below_the_limit(path):
    entries = directory_entry(b"", 0) * 2000
    path.write_bytes(entries + directory_end(2000, len(entries), 0))


def many_members(path):
    """As many members as the limit allows, each of minimum size."""
    contents = [(f"{number}.npy", npy_bytes(np.zeros((), np.float32))) for number in range(1500)]
    write_zip(path, [*npz_members(PLAIN, ARRAYS).items(), *contents, ("y.npy", zero_npy(()) + bytes(10**6))])


def long_comment(path):
    write_zip(path, npz_members(PLAIN, ARRAYS))
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"PK\5\6" * 16_000
    path.write_bytes(path.read_bytes()[:-1])


def oversized_arrays(path):
    arrays = npz_members(PLAIN, ARRAYS)
    arrays |= {"kernel_l0.npy": zero_npy((10_000, 30_000)), "recurrent_kernel_l0.npy": zero_npy((30_000,)),
               "bias_l0.npy": zero_npy((30_000,))}  # fmt: skip
    write_zip(path, arrays | {"configuration.npy": npz_members(BIG, {})["configuration.npy"]})


def oversized_num_layers(path):
    craft(path, text_of(PLAIN | {"num_layers": INT32_MAX, "bidirectional": True}), ARRAYS)


def json_array(item, n):
    def build(path):
        text = b"[" + b",".join([item] * n) + b"]"
        write_safetensors(path, b'{"x":' + text + b"}", bytes(len(text)))

    return build


def json_below_the_limit(path):
    text = b"[" + b",".join([b'{"":[]}'] * 4000) + b"]"
    write_safetensors(path, b'{"x":' + text + b"}", b"")


def json_in_a_big_file(path):
    text = b"[" + b",".join([b'{"":[]}'] * 30_000) + b"]"
    write_safetensors(path, b'{"x":' + text + b"}", bytes(15 * len(text)))


def empty_tensors(path):
    """As many entries of minimum size as the limit on the header allows."""
    entries = b",".join(b'"%x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % number for number in range(50_000))
    data = bytes(16 * len(entries))
    whole = b'"x":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}' % (len(data), len(data))
    text = b'"__metadata__":{"configuration":%s}' % json.dumps(text_of(PLAIN)).encode()
    write_safetensors(path, b"{" + b",".join([text, whole, entries]) + b"}", data)


def empty_metadata(path):
    """As many metadata entries of minimum size as the limit on the header allows."""
    entries = b",".join(b'"%x":""' % number for number in range(100_000))
    data = bytes(16 * len(entries))
    whole = b'"x":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}' % (len(data), len(data))
    write_safetensors(path, b'{"__metadata__":{' + entries + b"}," + whole + b"}", data)


def oversized_tensors(path):
    header = valid_header(ARRAYS, text_of(BIG))
    for name, shape in {"kernel_l0": [10_000, 30_000], "recurrent_kernel_l0": [30_000], "bias_l0": [30_000]}.items():
        header[name]["shape"] = shape
    write_safetensors(path, header, tensor_bytes(ARRAYS))


def long_text(path):
    craft(path, " " * 30_000, ARRAYS)


RATIO = "arrays: expected at most .* bytes, 3 times the size of the file"
LONG_DIRECTORY, LONG_HEADER = "directory: expected at most", "header: expected at most"
BOMBS = [
    (".npz", bomb, RATIO),
    (".npz", bomb_with_a_false_size, "damaged archive: Bad CRC"),
    (".npz", bomb_as_configuration, RATIO),
    (".npz", bomb_as_npy_header, "expected a .npy file of format 1.0"),
    (".npz", directory_of_empty_entries, LONG_DIRECTORY),
    (".npz", directory_below_the_limit, "members: expected .npy files, got ''"),
    (".npz", many_members, "unknown arrays"),
    (".npz", long_comment, "damaged archive"),
    (".npz", oversized_arrays, "'kernel_l0': expected 1200000000 bytes of data, got 0"),
    (".npz", oversized_num_layers, "num_layers"),
    (".safetensors", json_array(b"[]", 10**6), LONG_HEADER),
    (".safetensors", json_array(b'{"":[]}', 4 * 10**5), LONG_HEADER),
    (".safetensors", json_array(b"1", 10**6), LONG_HEADER),
    (".safetensors", json_below_the_limit, "damaged file: "),
    (".safetensors", json_in_a_big_file, "damaged file: "),
    (".safetensors", oversized_tensors, "damaged file: "),
    (".safetensors", empty_tensors, "unknown arrays"),
    (".safetensors", empty_metadata, "metadata: expected an entry 'configuration'"),
    (".safetensors", oversized_num_layers, "num_layers"),
    (".safetensors", long_text, "expected at most 4096 bytes"),
]


def peak_memory(call):
    """Peak of the bytes that Python and NumPy allocate in a call."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def max_memory(path):
    return 4 * path.stat().st_size + 2**20


@pytest.mark.parametrize(("path", "build", "message"), BOMBS, indirect=["path"])
def test_memory_of_reading_a_malicious_file_is_bounded(path, build, message):
    build(path)
    assert_refused(path, message)  # the first read imports modules
    assert peak_memory(lambda: read_or_refused(path, None, None)) < max_memory(path)
    with open(path, "rb") as file:  # a file object is read into memory first
        assert peak_memory(lambda: read_or_refused(file, None, None)) < max_memory(path) + path.stat().st_size


def test_memory_of_loading_a_valid_file_is_bounded(path):
    configuration = PLAIN | {"input_size": 900, "hidden_size": 700}
    arrays = random_arrays(configuration)
    _files.write(path, configuration, arrays)
    IndyGRU.load(path)
    assert peak_memory(lambda: IndyGRU.load(path)) < 2.5 * path.stat().st_size


def test_compression_ratio_above_three_raises(npz):
    """Repeated rows give ratios of 2 and 4. Fortran order halves the limit, because the layer copies such arrays."""
    configuration = PLAIN | {"input_size": 1000, "hidden_size": 330}
    for times, order in ((2, "C"), (4, "C"), (2, "F")):
        arrays = random_arrays(configuration)
        rows = arrays["kernel_l0"] if order == "C" else arrays["kernel_l0"].T.copy()
        rows = np.repeat(rows[: len(rows) // times], times, axis=0)
        arrays["kernel_l0"] = rows if order == "C" else rows.T
        write_zip(npz, npz_members(configuration, arrays), zipfile.ZIP_DEFLATED)
        assert 0.9 * times < sum(array.nbytes for array in arrays.values()) / npz.stat().st_size < 1.2 * times
        if times < 3 and order == "C":
            assert_same_bits(_files.read(npz)[1], arrays)
            assert peak_memory(lambda: IndyGRU.load(npz)) < max_memory(npz)
        else:
            assert_refused(npz, RATIO)


def test_peak_memory_counts_large_and_short_lived_allocations():
    assert peak_memory(lambda: np.zeros(10**6, np.float64)) >= 8 * 10**6
    assert peak_memory(lambda: bytes(10**7)) >= 10**7
