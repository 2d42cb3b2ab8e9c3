"""Archives (.npz) that are refused for what is in a member: its dtype, its .npy header, its length, its stream."""

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
from weight_files import PLAIN, change_entry, craft, members, text_of, zipped

from indygru_cpu import _files

npz = file_checks.npz


def test_object_arrays(npz):
    class Hostile:
        def __reduce__(self):
            return open, (str(npz.parent / "run"), "w")

    np.savez(npz, **ARRAYS | {"bias_l0": np.array([Hostile()] * 21)})
    with zipfile.ZipFile(npz, "a") as archive:
        archive.writestr("configuration.npy", members(PLAIN, {})["configuration.npy"])
    assert_refused(npz, r"'bias_l0': expected dtype float32, got '\|O'")
    assert not (npz.parent / "run").exists()


def test_structured_arrays(npz):
    craft(npz, text_of(PLAIN), ARRAYS | {"bias_l0": np.zeros(21, [("a", "f4")])})
    assert_refused(npz, "'bias_l0': expected a header of descr, fortran_order and shape")


@pytest.mark.parametrize(
    "configuration",
    [np.zeros(9, np.int8), np.zeros((9, 7), np.uint8), np.array(CONFIGURATION), np.array(7, np.uint8),
     np.zeros(5000, np.uint8)],
)  # fmt: skip
def test_configuration_of_another_kind(npz, configuration):
    np.savez(npz, configuration=configuration, **ARRAYS)
    assert_refused(npz, "'configuration': expected at most 4096 bytes as an array of uint8")


def test_a_configuration_that_is_no_text(npz):
    craft(npz, b"\xff" + text_of(PLAIN).encode(), ARRAYS)
    assert_refused(npz, "expected JSON: ")


def test_no_configuration(npz):
    np.savez(npz, **ARRAYS)
    assert_refused(npz, "no array 'configuration'")


@pytest.mark.parametrize(
    "header",
    ["{'descr': '<f4', 'fortran_order': False, 'shape': (21,), 'more': 1}\n", "{'descr': '<f4', 'shape': (21,), }\n",
     "{'descr': '<f4', 'fortran_order': 0, 'shape': (21,), }\n", "{'descr': '<f4', 'fortran_order': False, "
     "'shape': (-21,), }\n", "{'descr': '<f4', 'fortran_order': False, 'shape': (21L,), }\n", "x" * 2000, "", "\n",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (2 1,), }\n",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (,21), }\n",
     "{'descr': '<f4', 'fortran_order': False, 'shape': __import__('os'), }\n"],
)  # fmt: skip
def test_headers_of_npy_members(npz, header):
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + ARRAYS["bias_l0"].tobytes()
    zipped(npz, members(PLAIN, ARRAYS) | {"bias_l0.npy": content})
    assert_refused(npz, "'bias_l0': expected a (header of descr|.npy file of format 1.0)")


@pytest.mark.parametrize(
    "start", [b"", b"\x93NUMPY", b"\x93NUMPY\x02\x00\xff\xff\xff\x7f", b"\x93NUMPY\x03\x00", b"no"]
)
def test_other_npy_formats(npz, start):
    zipped(npz, members(PLAIN, ARRAYS) | {"bias_l0.npy": start + b"\xff" * 7})
    assert_refused(npz, "'bias_l0': expected a .npy file of format 1.0")


def test_a_header_of_an_npy_member_that_goes_on(npz):
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (21,), }"
    for length in (1024, 1025):
        padded = struct.pack("<H", length) + header.ljust(length - 1) + b"\n"
        content = b"\x93NUMPY\x01\x00" + padded + ARRAYS["bias_l0"].tobytes()
        zipped(npz, members(PLAIN, ARRAYS) | {"bias_l0.npy": content})
        if length == 1024:
            assert_same_bits(_files.read(npz)[1], ARRAYS)
        else:
            assert_refused(npz, "'bias_l0': expected a .npy file of format 1.0 with a header of up to 1024 bytes")


@pytest.mark.parametrize("n_bytes", [-84, -4, -1, 1, 4])
def test_members_with_more_or_less_data(npz, n_bytes):
    content = members(PLAIN, ARRAYS)["bias_l0.npy"]
    content = content[:n_bytes] if n_bytes < 0 else content + b"\0" * n_bytes
    zipped(npz, members(PLAIN, ARRAYS) | {"bias_l0.npy": content})
    assert_refused(npz, f"'bias_l0': expected 84 bytes of data, got {84 + n_bytes}")


def test_a_deflated_stream_that_ends_early(npz):
    """The directory declares what is expected, but less comes out."""
    contents = members(PLAIN, ARRAYS)
    whole = contents["bias_l0.npy"]
    zipped(npz, contents | {"bias_l0.npy": whole[:-4]}, zipfile.ZIP_DEFLATED)
    change_entry(npz, b"bias_l0.npy", 24, "<I", len(whole))
    assert_refused(npz, "damaged archive: (.*ends early|Bad CRC)")


def test_a_deflated_stream_that_goes_on(npz):
    """Only what is expected is taken out of it, and its checksum is another."""
    contents = members(PLAIN, ARRAYS)
    whole = contents["bias_l0.npy"]
    zipped(npz, contents | {"bias_l0.npy": whole + b"\0" * 10**7}, zipfile.ZIP_DEFLATED)
    change_entry(npz, b"bias_l0.npy", 24, "<I", len(whole))
    assert_refused(npz, "damaged archive: Bad CRC")


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(header=st.text(alphabet="{}()[]', <>f48descrOiu:TrueFals10L\\\n", max_size=80) | st.binary(max_size=80))
def test_any_header_of_an_npy_member(npz, header):
    header = header if isinstance(header, bytes) else header.encode()
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + ARRAYS["bias_l0"].tobytes()
    zipped(npz, members(PLAIN, ARRAYS) | {"bias_l0.npy": content})
    assert_refused(npz, "'bias_l0': expected")
