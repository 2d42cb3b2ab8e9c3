"""Memory that reading a weight file takes: a small multiple of the file's size, however hostile the file."""

from __future__ import annotations

import json
import struct
import tracemalloc
import zipfile

import file_checks
import numpy as np
import pytest
from file_checks import ARRAYS, HUGE, assert_refused, read_or_refused
from helpers import assert_same_bits
from weight_files import (
    PLAIN,
    change_entry,
    craft,
    data_of,
    directory_end,
    directory_entry,
    header_of,
    members,
    npy,
    random_arrays,
    tensors,
    text_of,
    zipped,
)

from indygru_cpu import IndyGRU, _files

path = file_checks.path
npz = file_checks.npz
BIG = PLAIN | {"input_size": 10_000, "hidden_size": 10_000}  # 1.2 GB


def zero_npy(shape):
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': %s, }" % str(shape).encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + header.ljust(117) + b"\n"


def bomb(path):
    """Sound in everything, deflated 1000 to 1."""
    n_zeros = 3 * 10**7
    configuration = PLAIN | {"input_size": 1, "hidden_size": n_zeros // 3, "bias": False}
    vector = zero_npy((n_zeros,)) + bytes(4 * n_zeros)
    kernel = zero_npy((1, n_zeros)) + bytes(4 * n_zeros)
    arrays = {"kernel_l0.npy": kernel, "recurrent_kernel_l0.npy": vector}
    zipped(path, members(configuration, {}) | arrays, zipfile.ZIP_DEFLATED)


def bomb_under_a_false_size(path):
    """The directory declares little, and the stream yields much."""
    zipped(path, members(PLAIN, ARRAYS) | {"bias_l0.npy": bytes(10**8)}, zipfile.ZIP_DEFLATED)
    change_entry(path, b"bias_l0.npy", 24, "<I", 212)


def bomb_for_a_configuration(path):
    content = zero_npy((10**8,)).replace(b"<f4", b"|u1") + bytes(10**8)
    zipped(path, members(PLAIN, ARRAYS) | {"configuration.npy": content}, zipfile.ZIP_DEFLATED)


def bomb_for_a_header(path):
    """A .npy member of format 2.0 may have a header of 4 GB."""
    content = b"\x93NUMPY\x02\x00" + struct.pack("<I", 10**8) + b" " * 10**8
    zipped(path, members(PLAIN, ARRAYS) | {"bias_l0.npy": content}, zipfile.ZIP_DEFLATED)


def directory_of_nothing(path):
    """Many entries of 46 bytes: as objects they take up much more."""
    entries = directory_entry(b"", 0) * 60_000
    path.write_bytes(entries + directory_end(60_000, len(entries), 0))


def directory_just_not_too_long(path):
    entries = directory_entry(b"", 0) * 2000
    path.write_bytes(entries + directory_end(2000, len(entries), 0))


def many_members(path):
    """As many as are looked at, each of the least size."""
    contents = [(f"{number}.npy", npy(np.zeros((), np.float32))) for number in range(1500)]
    zipped(path, [*members(PLAIN, ARRAYS).items(), *contents, ("y.npy", zero_npy(()) + bytes(10**6))])


def long_comment(path):
    zipped(path, members(PLAIN, ARRAYS))
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"PK\5\6" * 16_000
    path.write_bytes(path.read_bytes()[:-1])


def gigantic(path):
    arrays = members(PLAIN, ARRAYS)
    arrays |= {"kernel_l0.npy": zero_npy((10_000, 30_000)), "recurrent_kernel_l0.npy": zero_npy((30_000,)),
               "bias_l0.npy": zero_npy((30_000,))}  # fmt: skip
    zipped(path, arrays | {"configuration.npy": members(BIG, {})["configuration.npy"]})


def gigantic_layers(path):
    craft(path, text_of(PLAIN | {"num_layers": HUGE, "bidirectional": True}), ARRAYS)


def json_of(item, n):
    def build(path):
        text = b"[" + b",".join([item] * n) + b"]"
        tensors(path, b'{"x":' + text + b"}", bytes(len(text)))

    return build


def json_just_not_too_long(path):
    text = b"[" + b",".join([b'{"":[]}'] * 4000) + b"]"
    tensors(path, b'{"x":' + text + b"}", b"")


def json_in_a_big_file(path):
    text = b"[" + b",".join([b'{"":[]}'] * 30_000) + b"]"
    tensors(path, b'{"x":' + text + b"}", bytes(15 * len(text)))


def tensors_of_nothing(path):
    """As many entries as are read, and as small as they come, beside data of the same size as without them."""
    entries = b",".join(b'"%x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % number for number in range(50_000))
    data = bytes(16 * len(entries))
    whole = b'"x":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}' % (len(data), len(data))
    text = b'"__metadata__":{"configuration":%s}' % json.dumps(text_of(PLAIN)).encode()
    tensors(path, b"{" + b",".join([text, whole, entries]) + b"}", data)


def metadata_of_nothing(path):
    """As many entries of the metadata as are read, each as small as it comes."""
    entries = b",".join(b'"%x":""' % number for number in range(100_000))
    data = bytes(16 * len(entries))
    whole = b'"x":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}' % (len(data), len(data))
    tensors(path, b'{"__metadata__":{' + entries + b"}," + whole + b"}", data)


def gigantic_tensors(path):
    header = header_of(ARRAYS, text_of(BIG))
    for name, shape in {"kernel_l0": [10_000, 30_000], "recurrent_kernel_l0": [30_000], "bias_l0": [30_000]}.items():
        header[name]["shape"] = shape
    tensors(path, header, data_of(ARRAYS))


def long_text(path):
    craft(path, " " * 30_000, ARRAYS)


RATIO, LONG_DIRECTORY, LONG_HEADER = "more than 3 to 1", "a directory of more than", "at most .* are read"
BOMBS = [
    (".npz", bomb, RATIO),
    (".npz", bomb_under_a_false_size, "damaged archive: Bad CRC"),
    (".npz", bomb_for_a_configuration, RATIO),
    (".npz", bomb_for_a_header, "expected a .npy file of format 1.0"),
    (".npz", directory_of_nothing, LONG_DIRECTORY),
    (".npz", directory_just_not_too_long, "unknown member ''"),
    (".npz", many_members, "unknown arrays"),
    (".npz", long_comment, "damaged archive"),
    (".npz", gigantic, "'kernel_l0': expected 1200000000 bytes of data, got 0"),
    (".npz", gigantic_layers, "num_layers"),
    (".safetensors", json_of(b"[]", 10**6), LONG_HEADER),
    (".safetensors", json_of(b'{"":[]}', 4 * 10**5), LONG_HEADER),
    (".safetensors", json_of(b"1", 10**6), LONG_HEADER),
    (".safetensors", json_just_not_too_long, "damaged file: "),
    (".safetensors", json_in_a_big_file, "damaged file: "),
    (".safetensors", gigantic_tensors, "damaged file: "),
    (".safetensors", tensors_of_nothing, "unknown arrays"),
    (".safetensors", metadata_of_nothing, "no configuration"),
    (".safetensors", gigantic_layers, "num_layers"),
    (".safetensors", long_text, "expected at most 4096 bytes"),
]


def peak_memory(call):
    """Most bytes at once that Python and NumPy allocate in a call."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def most_memory(path):
    return 4 * path.stat().st_size + 2**20


@pytest.mark.parametrize(("path", "build", "message"), BOMBS, indirect=["path"])
def test_memory_for_hostile_files(path, build, message):
    build(path)
    assert_refused(path, message)  # and everything is imported
    assert peak_memory(lambda: read_or_refused(path, None, None)) < most_memory(path)
    with open(path, "rb") as file:  # whose bytes are read into memory first
        assert peak_memory(lambda: read_or_refused(file, None, None)) < most_memory(path) + path.stat().st_size


def test_memory_for_sound_files(path):
    configuration = PLAIN | {"input_size": 900, "hidden_size": 700}
    arrays = random_arrays(configuration)
    _files.write(path, configuration, arrays)
    IndyGRU.load(path)
    assert peak_memory(lambda: IndyGRU.load(path)) < 2.5 * path.stat().st_size


def test_deflated_at_most_three_to_one(npz):
    """Rows of random numbers, each two or four times in a row, and so the file half or a quarter of the arrays.

    In Fortran order half of that, because the layer copies the array.
    """
    configuration = PLAIN | {"input_size": 1000, "hidden_size": 330}
    for times, order in ((2, "C"), (4, "C"), (2, "F")):
        arrays = random_arrays(configuration)
        lines = arrays["kernel_l0"] if order == "C" else arrays["kernel_l0"].T.copy()
        lines = np.repeat(lines[: len(lines) // times], times, axis=0)
        arrays["kernel_l0"] = lines if order == "C" else lines.T
        zipped(npz, members(configuration, arrays), zipfile.ZIP_DEFLATED)
        assert 0.9 * times < sum(array.nbytes for array in arrays.values()) / npz.stat().st_size < 1.2 * times
        if times < 3 and order == "C":
            assert_same_bits(_files.read(npz)[1], arrays)
            assert peak_memory(lambda: IndyGRU.load(npz)) < most_memory(npz)
        else:
            assert_refused(npz, "bytes of arrays in a file of .*: more than 3 to 1 is not read")


def test_peak_memory_sees_arrays():
    """Both a big array and a short-lived one."""
    assert peak_memory(lambda: np.zeros(10**6, np.float64)) >= 8 * 10**6
    assert peak_memory(lambda: bytes(10**7)) >= 10**7
