"""Archives (.npz) that are refused for their directory: unknown members, lying entries, members that overlap."""

from __future__ import annotations

import struct
import zipfile
import zlib

import file_checks
import numpy as np
import pytest
from file_checks import ARRAYS, assert_refused, without
from helpers import same_bits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from weight_files import PLAIN, change_entry, directory_end, directory_entry, members, npy, zipped

npz = file_checks.npz


@pytest.mark.parametrize(
    "name", ["readme.txt", "bias_l0", "bias_l0.NPY", "bias_l0.npy/", ".npy", "bias_l0.npy\0x"], ids=repr
)
def test_unknown_members(npz, name):
    """Also one that is read as if it were bias_l0.npy, because `zipfile` cuts off names at a zero byte."""
    zipped(npz, [*members(PLAIN, ARRAYS).items(), (name.replace("\0", "!"), b"")])
    npz.write_bytes(npz.read_bytes().replace(b"npy!x", b"npy\0x"))
    assert_refused(npz, "unknown member|in the archive twice|truncated|expected a .npy file")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["bias_l0.npy", "configuration.npy"])
def test_members_twice(npz, name):
    contents = members(PLAIN, ARRAYS)
    zipped(npz, [*contents.items(), (name, contents[name])])
    assert_refused(npz, "in the archive twice")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions(npz, method):
    zipped(npz, members(PLAIN, ARRAYS), method)
    assert_refused(npz, f"expected it stored or deflated, got method {method}")


@pytest.mark.parametrize(
    ("field", "fmt", "value", "message"),
    [
        (8, "<H", 0x01, "'bias_l0': encrypted"), (8, "<H", 0x40, "'bias_l0': encrypted"),
        (8, "<H", 0x20, "damaged archive"), (6, "<H", 99, "damaged archive"),
        (10, "<H", 99, "got method 99"), (10, "<H", 8, "damaged archive"),
        (16, "<I", 12345, "damaged archive: Bad CRC"),
        (20, "<I", 0, "'bias_l0': 212 bytes stored as 0"), (20, "<I", 10**9, "212 bytes stored as"),
        (24, "<I", 211, "211 bytes stored as 212"), (24, "<I", 2**32 - 2, "bytes stored as 212"),
        (42, "<I", 10**9, "overlaps what is before or is no member"), (42, "<I", 2**32 - 2, "or is no member"),
        (42, "<I", 3, "overlaps"), (42, "<I", 0, "overlaps"),
    ],
)  # fmt: skip
def test_a_directory_that_lies(npz, field, fmt, value, message):
    zipped(npz, members(PLAIN, ARRAYS))
    change_entry(npz, b"bias_l0.npy", field, fmt, value)
    assert_refused(npz, message)


@pytest.mark.parametrize("size", [100, 10**9, 2**32 - 2])
def test_a_directory_before_the_start(npz, size):
    npz.write_bytes(directory_end(1, size, 0))
    assert_refused(npz, "damaged archive")


@pytest.mark.parametrize("numbers", [(2**62, 0), (0, 2**62), (2**64 - 1, 2**64 - 1), (56, 0)])
def test_a_directory_of_a_big_archive(npz, numbers):
    """The fields of 64 bits, which a small archive does not need, but which count when they are there."""
    record = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, *numbers)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, 0, 1)
    npz.write_bytes(record + locator + directory_end(0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF))
    assert_refused(npz, "damaged archive|no array 'configuration'")


@pytest.mark.parametrize("offset", [2**31, 2**63, 2**64 - 1])
def test_a_member_behind_the_end(npz, offset):
    entry = directory_entry(b"bias_l0.npy", offset)
    npz.write_bytes(entry + directory_end(1, len(entry), 0))
    assert_refused(npz, f"'bias_l0': at byte {offset}, which overlaps what is before or is no member")


NUMBERS = st.sampled_from([0, 1, 26, 200, 212, 2**16, 2**31, 2**32 - 2, 2**32, 2**63 - 1, 2**63, 2**64 - 1])


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=NUMBERS,
    stored=NUMBERS,
    offset=NUMBERS,
    method=st.sampled_from([0, 8, 12, 99]),
    flags=st.integers(0, 2**16 - 1),
)
def test_any_entry_of_the_directory(npz, size, stored, offset, method, flags):
    """In place of the last member's."""
    zipped(npz, members(PLAIN, ARRAYS))
    data = npz.read_bytes()
    start, last = data.index(b"PK\1\2"), data.rindex(b"PK\1\2")
    directory = data[start:last] + directory_entry(b"bias_l0.npy", offset, size, stored, method, flags)
    npz.write_bytes(data[:start] + directory + directory_end(4, len(directory), start))
    assert_refused(npz, "'bias_l0'|damaged archive|truncated|more than 3 to 1")


@pytest.mark.parametrize("n_more", [1, 60, 3000])
def test_both_sizes_lie(npz, n_more):
    """By a byte or by many: data that reaches into the next member, or into the directory."""
    for name, message in [("kernel_l0", "overlaps what is before"), ("bias_l0", "truncated: data up to byte")]:
        contents = members(PLAIN, ARRAYS)
        zipped(npz, contents)
        for field in (20, 24):
            change_entry(npz, f"{name}.npy".encode(), field, "<I", len(contents[f"{name}.npy"]) + n_more)
        assert_refused(npz, message)


def test_overlapping_members(npz):
    """A second name for the same bytes, with a header of its own inside the first one's data."""
    contents = members(PLAIN, without(ARRAYS, "bias_l0"))
    inner = npy(ARRAYS["bias_l0"])
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 0, 0, 0, zlib.crc32(inner), len(inner), len(inner), 11, 0)
    kernel = bytearray(contents["kernel_l0.npy"])
    kernel[200 : 200 + 41 + len(inner)] = local + b"bias_l0.npy" + inner
    zipped(npz, contents | {"kernel_l0.npy": bytes(kernel)})
    data = npz.read_bytes()
    end = data.rindex(b"PK\5\6")
    size, start = struct.unpack("<2I", data[end + 12 : end + 20])
    entry = directory_entry(b"bias_l0.npy", data.index(local), len(inner), crc=zlib.crc32(inner))
    npz.write_bytes(data[:end] + entry + directory_end(4, size + len(entry), start))
    with np.load(npz) as file:
        assert same_bits(file["bias_l0"], ARRAYS["bias_l0"])
    assert_refused(npz, "'bias_l0': at byte .*, which overlaps what is before")


def test_names_that_differ(npz):
    zipped(npz, members(PLAIN, ARRAYS))
    data = npz.read_bytes()
    npz.write_bytes(data.replace(b"bias_l0.npy", b"bias_l1.npy", 1))
    assert_refused(npz, "damaged archive: File name in directory")
