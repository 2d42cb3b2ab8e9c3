"""Archives (.npz) with a wrong member: dtype, .npy header, length, compressed stream."""

from __future__ import annotations

import struct
import zipfile

import file_checks
import numpy as np
import pytest
from file_checks import ARRAYS, CONFIGURATION, assert_refused
from helpers import assert_same_bits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from weight_files import PLAIN, change_entry, craft, npz_members, text_of, write_zip

from indygru_cpu import _files

npz = file_checks.npz


def test_object_array_is_refused_and_not_unpickled(npz):
    class Malicious:
        def __reduce__(self):
            return open, (str(npz.parent / "run"), "w")

    np.savez(npz, **ARRAYS | {"bias_l0": np.array([Malicious()] * 21)})
    with zipfile.ZipFile(npz, "a") as archive:
        archive.writestr("configuration.npy", npz_members(PLAIN, {})["configuration.npy"])
    assert_refused(npz, r"'bias_l0': expected dtype float32, got '\|O'")
    assert not (npz.parent / "run").exists()


def test_structured_array_raises(npz):
    craft(npz, text_of(PLAIN), ARRAYS | {"bias_l0": np.zeros(21, [("a", "f4")])})
    assert_refused(npz, "'bias_l0': expected a header of descr, fortran_order and shape")


@pytest.mark.parametrize(
    "configuration",
    [np.zeros(9, np.int8), np.zeros((9, 7), np.uint8), np.array(CONFIGURATION), np.array(7, np.uint8),
     np.zeros(5000, np.uint8)],
)  # fmt: skip
def test_configuration_of_another_dtype_or_shape_raises(npz, configuration):
    np.savez(npz, configuration=configuration, **ARRAYS)
    assert_refused(npz, "'configuration': expected at most 4096 bytes as an array of uint8")


def test_configuration_that_is_not_utf8_raises(npz):
    craft(npz, b"\xff" + text_of(PLAIN).encode(), ARRAYS)
    assert_refused(npz, "expected JSON: ")


def test_missing_configuration_raises(npz):
    np.savez(npz, **ARRAYS)
    assert_refused(npz, "expected an array 'configuration'")


@pytest.mark.parametrize(
    "header",
    ["{'descr': '<f4', 'fortran_order': False, 'shape': (21,), 'more': 1}\n", "{'descr': '<f4', 'shape': (21,), }\n",
     "{'descr': '<f4', 'fortran_order': 0, 'shape': (21,), }\n", "{'descr': '<f4', 'fortran_order': False, "
     "'shape': (-21,), }\n", "{'descr': '<f4', 'fortran_order': False, 'shape': (21L,), }\n", "x" * 2000, "", "\n",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (2 1,), }\n",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (,21), }\n",
     "{'descr': '<f4', 'fortran_order': False, 'shape': __import__('os'), }\n"],
)  # fmt: skip
def test_wrong_header_of_an_npy_member_raises(npz, header):
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + ARRAYS["bias_l0"].tobytes()
    write_zip(npz, npz_members(PLAIN, ARRAYS) | {"bias_l0.npy": content})
    assert_refused(npz, "'bias_l0': expected a (header of descr|.npy file of format 1.0)")


@pytest.mark.parametrize(
    "start", [b"", b"\x93NUMPY", b"\x93NUMPY\x02\x00\xff\xff\xff\x7f", b"\x93NUMPY\x03\x00", b"no"]
)
def test_other_npy_format_raises(npz, start):
    write_zip(npz, npz_members(PLAIN, ARRAYS) | {"bias_l0.npy": start + b"\xff" * 7})
    assert_refused(npz, "'bias_l0': expected a .npy file of format 1.0")


def test_header_of_an_npy_member_above_the_limit_raises(npz):
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (21,), }"
    for length in (1024, 1025):
        padded = struct.pack("<H", length) + header.ljust(length - 1) + b"\n"
        content = b"\x93NUMPY\x01\x00" + padded + ARRAYS["bias_l0"].tobytes()
        write_zip(npz, npz_members(PLAIN, ARRAYS) | {"bias_l0.npy": content})
        if length == 1024:
            assert_same_bits(_files.read(npz)[1], ARRAYS)
        else:
            assert_refused(npz, "'bias_l0': expected a .npy file of format 1.0 with a header of at most 1024 bytes")


@pytest.mark.parametrize("n_bytes", [-84, -4, -1, 1, 4])
def test_member_with_more_or_less_data_raises(npz, n_bytes):
    content = npz_members(PLAIN, ARRAYS)["bias_l0.npy"]
    content = content[:n_bytes] if n_bytes < 0 else content + b"\0" * n_bytes
    write_zip(npz, npz_members(PLAIN, ARRAYS) | {"bias_l0.npy": content})
    assert_refused(npz, f"'bias_l0': expected 84 bytes of data, got {84 + n_bytes}")


def test_deflated_stream_shorter_than_declared_raises(npz):
    contents = npz_members(PLAIN, ARRAYS)
    whole = contents["bias_l0.npy"]
    write_zip(npz, contents | {"bias_l0.npy": whole[:-4]}, zipfile.ZIP_DEFLATED)
    change_entry(npz, b"bias_l0.npy", 24, "<I", len(whole))
    assert_refused(npz, "damaged archive: (.*ends early|Bad CRC)")


def test_deflated_stream_longer_than_declared_raises(npz):
    """Reading stops at the declared size, where the checksum differs."""
    contents = npz_members(PLAIN, ARRAYS)
    whole = contents["bias_l0.npy"]
    write_zip(npz, contents | {"bias_l0.npy": whole + b"\0" * 10**7}, zipfile.ZIP_DEFLATED)
    change_entry(npz, b"bias_l0.npy", 24, "<I", len(whole))
    assert_refused(npz, "damaged archive: Bad CRC")


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(header=st.text(alphabet="{}()[]', <>f48descrOiu:TrueFals10L\\\n", max_size=80) | st.binary(max_size=80))
def test_random_header_of_an_npy_member_raises(npz, header):
    header = header if isinstance(header, bytes) else header.encode()
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + ARRAYS["bias_l0"].tobytes()
    write_zip(npz, npz_members(PLAIN, ARRAYS) | {"bias_l0.npy": content})
    assert_refused(npz, "'bias_l0': expected")
