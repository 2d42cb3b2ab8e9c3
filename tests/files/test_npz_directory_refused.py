"""Archives (.npz) with a wrong directory: unknown members, false entries, overlapping members."""

from __future__ import annotations

import struct
import zipfile
import zlib

import file_checks
import numpy as np
import pytest
from file_checks import ARRAYS, assert_refused, without_key
from helpers import same_bits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from weight_files import PLAIN, change_entry, directory_end, directory_entry, npy_bytes, npz_members, write_zip

npz = file_checks.npz


@pytest.mark.parametrize(
    "name", ["readme.txt", "bias_l0", "bias_l0.NPY", "bias_l0.npy/", ".npy", "bias_l0.npy\0x"], ids=repr
)
def test_unknown_member_raises(npz, name):
    """Including a name with a zero byte, at which `zipfile` truncates names: it becomes bias_l0.npy."""
    write_zip(npz, [*npz_members(PLAIN, ARRAYS).items(), (name.replace("\0", "!"), b"")])
    npz.write_bytes(npz.read_bytes().replace(b"npy!x", b"npy\0x"))
    assert_refused(npz, "members: expected|appears twice in the archive|expected a .npy file")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["bias_l0.npy", "configuration.npy"])
def test_duplicate_member_raises(npz, name):
    contents = npz_members(PLAIN, ARRAYS)
    write_zip(npz, [*contents.items(), (name, contents[name])])
    assert_refused(npz, "appears twice in the archive")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unsupported_compression_raises(npz, method):
    write_zip(npz, npz_members(PLAIN, ARRAYS), method)
    assert_refused(npz, f"expected compression method 0 or 8, .* got {method}")


@pytest.mark.parametrize(
    ("field", "fmt", "value", "message"),
    [
        (8, "<H", 0x01, "'bias_l0': expected no encryption"), (8, "<H", 0x40, "'bias_l0': expected no encryption"),
        (8, "<H", 0x20, "damaged archive"), (6, "<H", 99, "damaged archive"),
        (10, "<H", 99, "expected compression method .* got 99"), (10, "<H", 8, "damaged archive"),
        (16, "<I", 12345, "damaged archive: Bad CRC"),
        (20, "<I", 0, "'bias_l0': expected 212 stored bytes, got 0"),
        (20, "<I", 10**9, "expected 212 stored bytes, got 1000000000"),
        (24, "<I", 211, "expected 211 stored bytes, got 212"),
        (24, "<I", 2**32 - 2, "expected 4294967294 stored bytes, got 212"),
        (42, "<I", 10**9, "expected an offset from .* got 1000000000"),
        (42, "<I", 2**32 - 2, "expected an offset from .* got 4294967294"),
        (42, "<I", 3, "expected an offset from .* got 3"), (42, "<I", 0, "expected an offset from .* got 0"),
    ],
)  # fmt: skip
def test_false_field_of_a_directory_entry_raises(npz, field, fmt, value, message):
    write_zip(npz, npz_members(PLAIN, ARRAYS))
    change_entry(npz, b"bias_l0.npy", field, fmt, value)
    assert_refused(npz, message)


@pytest.mark.parametrize("size", [100, 10**9, 2**32 - 2])
def test_directory_that_starts_before_the_file_raises(npz, size):
    npz.write_bytes(directory_end(1, size, 0))
    assert_refused(npz, "damaged archive")


@pytest.mark.parametrize("numbers", [(2**62, 0), (0, 2**62), (2**64 - 1, 2**64 - 1), (56, 0)])
def test_false_zip64_directory_raises(npz, numbers):
    """A small archive does not need the 64-bit fields, but readers use them where they are present."""
    record = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, *numbers)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, 0, 1)
    npz.write_bytes(record + locator + directory_end(0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF))
    assert_refused(npz, "damaged archive|expected an array 'configuration'")


@pytest.mark.parametrize("offset", [2**31, 2**63, 2**64 - 1])
def test_member_beyond_the_end_raises(npz, offset):
    entry = directory_entry(b"bias_l0.npy", offset)
    npz.write_bytes(entry + directory_end(1, len(entry), 0))
    assert_refused(npz, f"'bias_l0': expected an offset from .* got {offset}")


NUMBERS = st.sampled_from([0, 1, 26, 200, 212, 2**16, 2**31, 2**32 - 2, 2**32, 2**63 - 1, 2**63, 2**64 - 1])


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=NUMBERS,
    stored=NUMBERS,
    offset=NUMBERS,
    method=st.sampled_from([0, 8, 12, 99]),
    flags=st.integers(0, 2**16 - 1),
)
def test_random_entry_of_the_directory_raises(npz, size, stored, offset, method, flags):
    """The entry replaces that of the last member."""
    write_zip(npz, npz_members(PLAIN, ARRAYS))
    data = npz.read_bytes()
    start, last = data.index(b"PK\1\2"), data.rindex(b"PK\1\2")
    directory = data[start:last] + directory_entry(b"bias_l0.npy", offset, size, stored, method, flags)
    npz.write_bytes(data[:start] + directory + directory_end(4, len(directory), start))
    assert_refused(npz, "'bias_l0'|damaged archive|members: expected|arrays: expected")


@pytest.mark.parametrize("n_more", [1, 60, 3000])
def test_member_that_overlaps_the_next_one_or_the_directory_raises(npz, n_more):
    for name, message in [("kernel_l0", "expected an offset from"), ("bias_l0", "members: expected an end")]:
        contents = npz_members(PLAIN, ARRAYS)
        write_zip(npz, contents)
        for field in (20, 24):
            change_entry(npz, f"{name}.npy".encode(), field, "<I", len(contents[f"{name}.npy"]) + n_more)
        assert_refused(npz, message)


def test_member_inside_the_data_of_another_raises(npz):
    contents = npz_members(PLAIN, without_key(ARRAYS, "bias_l0"))
    inner = npy_bytes(ARRAYS["bias_l0"])
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 0, 0, 0, zlib.crc32(inner), len(inner), len(inner), 11, 0)
    kernel = bytearray(contents["kernel_l0.npy"])
    kernel[200 : 200 + 41 + len(inner)] = local + b"bias_l0.npy" + inner
    write_zip(npz, contents | {"kernel_l0.npy": bytes(kernel)})
    data = npz.read_bytes()
    end = data.rindex(b"PK\5\6")
    size, start = struct.unpack("<2I", data[end + 12 : end + 20])
    entry = directory_entry(b"bias_l0.npy", data.index(local), len(inner), crc=zlib.crc32(inner))
    npz.write_bytes(data[:end] + entry + directory_end(4, size + len(entry), start))
    with np.load(npz) as file:
        assert same_bits(file["bias_l0"], ARRAYS["bias_l0"])
    assert_refused(npz, "'bias_l0': expected an offset from")


def test_member_name_that_differs_from_the_directory_raises(npz):
    write_zip(npz, npz_members(PLAIN, ARRAYS))
    data = npz.read_bytes()
    npz.write_bytes(data.replace(b"bias_l0.npy", b"bias_l1.npy", 1))
    assert_refused(npz, "damaged archive: File name in directory")
