"""Weight files that are refused: each with a WeightsError that says why, before memory is taken for an array."""

from __future__ import annotations

import os
import pickle
import re
import struct
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
import safetensors.numpy
from helpers import assert_same_bits, same_bits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from weight_files import (
    PLAIN,
    SUFFIXES,
    TINY,
    craft,
    data_of,
    directory_end,
    directory_entry,
    header_of,
    members,
    npy,
    patched,
    random_arrays,
    tensors,
    text_of,
    zipped,
)

from indygru_cpu import IndyGRU, WeightsError, _files

ARRAYS = random_arrays(PLAIN)
HUGE = 2**31 - 1


@pytest.fixture(params=SUFFIXES)
def path(request, tmp_path):
    return tmp_path / f"layer{request.param}"


@pytest.fixture
def npz(tmp_path):
    return tmp_path / "layer.npz"


@pytest.fixture
def st_path(tmp_path):
    return tmp_path / "layer.safetensors"


def assert_refused(path, message):
    """Not read, and for the reason given."""
    with pytest.raises(WeightsError, match=message) as caught:
        _files.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    with pytest.raises(WeightsError, match=message):
        IndyGRU.load(path)


def without(mapping, name):
    return {key: value for key, value in mapping.items() if key != name}


# --- Either format: arrays -----------------------------------------------------------------------------------------


def test_the_crafted_files_are_sound(path):
    """Nothing below is refused because the crafting is wrong."""
    craft(path, text_of(PLAIN), ARRAYS)
    assert_same_bits(_files.read(path)[1], ARRAYS)
    if path.suffix == ".npz":
        zipped(path, members(PLAIN, ARRAYS))
    else:
        tensors(path, header_of(ARRAYS, text_of(PLAIN)), data_of(ARRAYS))
    assert_same_bits(_files.read(path)[1], ARRAYS)


@pytest.mark.parametrize("name", ARRAYS)
def test_missing_array(path, name):
    craft(path, text_of(PLAIN), without(ARRAYS, name))
    assert_refused(path, rf"missing arrays \['{name}'\], unknown arrays \[\]")


@pytest.mark.parametrize("name", ["bias_l1", "kernel_l0_reverse", "bias_L0", "bias_l0 ", "kernel", "été"])
def test_unknown_array(path, name):
    craft(path, text_of(PLAIN), ARRAYS | {name: ARRAYS["bias_l0"]})
    assert_refused(path, rf"missing arrays \[\], unknown arrays \['{name}'\]")


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize(
    "change",
    [lambda a: a[None], lambda a: a[..., :-1], lambda a: a.repeat(2, -1), lambda a: a.ravel()[0], lambda a: a[..., :0]],
)
def test_wrong_shape(path, name, change):
    changed = np.ascontiguousarray(change(ARRAYS[name])).reshape(change(ARRAYS[name]).shape)
    craft(path, text_of(PLAIN), ARRAYS | {name: changed})
    shapes = [re.escape(str(array.shape)) for array in (ARRAYS[name], changed)]
    assert_refused(path, f"'{name}': expected shape {shapes[0]}, got {shapes[1]}")


def test_transposed(path):
    kernel = ARRAYS["kernel_l0"]
    craft(path, text_of(PLAIN), ARRAYS | {"kernel_l0": np.ascontiguousarray(kernel.T)})
    assert_refused(path, r"'kernel_l0': expected shape \(9, 21\), got \(21, 9\)")


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32, np.uint8, np.bool_, np.int64])
def test_wrong_dtype(path, dtype):
    craft(path, text_of(PLAIN), ARRAYS | {"bias_l0": np.arange(21).astype(dtype)})
    assert_refused(path, "'bias_l0': expected dtype float32, got '")


# --- Either format: the configuration ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLAIN)
def test_missing_entry(path, name):
    craft(path, text_of(without(PLAIN, name)), ARRAYS)
    assert_refused(path, rf"configuration: missing \['{name}'\], unknown \[\]")


@pytest.mark.parametrize("name", ["num_threads", "seed", "Bias", ""])
def test_unknown_entry(path, name):
    craft(path, text_of(PLAIN | {name: 1}), ARRAYS)
    assert_refused(path, rf"configuration: missing \[\], unknown \['{name}'\]")


WRONG_SIZES = [0, -1, 2**31, 10**3000, 7.0, 1e999, True, None, "7", [7], {}]
WRONG_FLAGS = [0, 1, None, "true", []]
WRONG = {
    **dict.fromkeys(("input_size", "hidden_size", "num_layers", "groups"), WRONG_SIZES),
    **dict.fromkeys(("bias", "batch_first", "bidirectional", "reproducible"), WRONG_FLAGS),
    "dropout": [1, 1.0, -0.25, 1e999, -1e999, True, None, "0", []],
    "activation": ["gelu", "Tanh", "", None, 0, ["tanh"], {}],
    "dtype": ["float16", "f4", "<f4", "single", "object", "", None, 32, ["float32"], {"float32": 1}],
}


def test_every_entry_is_tried():
    assert WRONG.keys() == PLAIN.keys()


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_wrong_entry(path, name, value):
    craft(path, text_of(PLAIN | {name: value}).replace("Infinity", "1e999"), ARRAYS)
    assert_refused(path, f"configuration: {name}: ")


@pytest.mark.parametrize(("groups", "name"), [(2, "input_size 9"), (3, "hidden_size 7"), (63, "input_size 9")])
def test_groups_that_do_not_divide(path, groups, name):
    craft(path, text_of(PLAIN | {"groups": groups}), ARRAYS)
    assert_refused(path, f"groups: expected a divisor of {name}, got {groups}")


@pytest.mark.parametrize(
    ("change", "message"),
    [({"input_size": 8}, "'kernel_l0': expected shape"), ({"hidden_size": 8}, "'kernel_l0': expected shape"),
     ({"num_layers": 2}, "missing arrays"), ({"bidirectional": True}, "missing arrays"),
     ({"bias": False}, "unknown arrays"), ({"dtype": "float64"}, "expected dtype float64, got 'float32'"),
     ({"input_size": HUGE}, "expected shape"), ({"hidden_size": HUGE}, "expected shape"),
     ({"num_layers": HUGE}, f"num_layers: {HUGE} layers, but 3 arrays"),
     ({"input_size": HUGE, "hidden_size": HUGE, "num_layers": HUGE, "bidirectional": True}, "num_layers: ")],
)  # fmt: skip
def test_a_configuration_of_another_layer(path, change, message):
    craft(path, text_of(PLAIN | change), ARRAYS)
    assert_refused(path, message)


CONFIGURATION = text_of(PLAIN)
NESTED = "[" * 2000 + "]" * 2000
TEXTS = {
    "": "expected JSON", "{": "expected JSON", "\ufeff" + CONFIGURATION: "expected JSON",
    CONFIGURATION[:-1]: "expected JSON", CONFIGURATION + "x": "expected JSON", "[]": "no format_version",
    "1": "no format_version", "null": "no format_version", "{}": "no format_version",
    NESTED: "expected JSON|no format_version",
    CONFIGURATION.replace("0.0", "NaN"): "JSON, which knows no NaN",
    CONFIGURATION.replace("0.0", "-Infinity"): "JSON, which knows no -Infinity",
    CONFIGURATION.replace('"bias": true', '"bias": true, "bias": true'): "'bias' is given twice",
    CONFIGURATION.replace("{", '{"format_version": 1, ', 1): "'format_version' is given twice",
    CONFIGURATION.replace("tanh", "\\ud800"): "activation: expected one of",
    CONFIGURATION.replace('"tanh"', "'tanh'"): "expected JSON",
    CONFIGURATION + " " * 4096: "expected at most 4096 bytes",
    text_of(PLAIN, format_version=2): "written by a newer version of indygru_cpu .*upgrade",
    text_of(PLAIN | {"new": 1}, format_version=2, more="of it"): "written by a newer version",
    text_of(PLAIN, format_version=0): "format_version: expected an integer of at least 1, got 0",
    text_of(PLAIN, format_version=True): "format_version: expected an integer of at least 1, got True",
    text_of(PLAIN, format_version=1.0): "format_version: expected an integer",
    text_of(PLAIN, format_version="1"): "format_version: expected an integer",
    text_of([1]): r"configuration: expected its entries, got \[1\]",
    '{"format_version": 1}': "configuration: expected its entries, got None",
    text_of(PLAIN, seed=1): r"unknown \['seed'\]",
    text_of(PLAIN, crc32="0"): "crc32: expected an integer",
    text_of(PLAIN, crc32=0): "the checksum differs",
    text_of(PLAIN, crc32=10**30): "the checksum differs",
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), TEXTS.items(), ids=range(len(TEXTS)))
def test_a_text_that_is_no_configuration(path, text, message):
    craft(path, text, ARRAYS)
    assert_refused(path, message)


# --- Either format: the file ---------------------------------------------------------------------------------------


def test_missing_file(path):
    for read in (_files.read, IndyGRU.load):
        with pytest.raises(FileNotFoundError):
            read(path)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file(path, make):
    """Nor does it wait for somebody to write into it."""
    make(path)
    assert_refused(path, "expected a regular file")


def test_a_file_of_the_other_format(path):
    other = path.with_suffix(next(suffix for suffix in SUFFIXES if suffix != path.suffix))
    _files.write(other, PLAIN, ARRAYS)
    other.rename(path)
    assert_refused(path, "damaged archive: File is not a zip file|truncated: a header of")


NOTHING = "damaged archive: File is not a zip file|truncated: a header of|expected JSON|no array 'configuration'"


@pytest.mark.parametrize("data", [b"", b"\0", b"PK", b"PK\5\6" + b"\0" * 18, b"\x80\x04N.", b"\0" * 22, b"\xff" * 2000])
def test_a_file_of_nothing(path, data):
    path.write_bytes(data)
    assert_refused(path, NOTHING)


def test_a_pickle_is_never_run(path):
    class Hostile:
        def __reduce__(self):
            return open, (str(path.parent / "run"), "w")

    path.write_bytes(pickle.dumps(Hostile()))
    assert_refused(path, NOTHING)
    assert not (path.parent / "run").exists()


def read_or_refused(path, configuration, arrays):
    """Whatever the file: all of the layer as it was written, or a WeightsError. Says which."""
    try:
        found_configuration, found = _files.read(path)
    except WeightsError:
        return False
    assert found_configuration == configuration
    assert_same_bits(found, arrays)
    return True


@pytest.fixture
def tiny(path):
    """A file as small as they come, and what is in it."""
    arrays = random_arrays(TINY)
    _files.write(path, TINY, arrays)
    return path, TINY, arrays


def test_cut_off_anywhere(tiny):
    data = tiny[0].read_bytes()
    for length in range(len(data)):
        tiny[0].write_bytes(data[:length])
        assert not read_or_refused(*tiny), f"{length} of {len(data)} bytes"


@pytest.mark.parametrize("flipped", [0x01, 0x04, 0x20, 0x80, 0xFF])
def test_a_byte_changed_anywhere(tiny, flipped):
    data = bytearray(tiny[0].read_bytes())
    n_read = 0
    for place in range(len(data)):
        data[place] ^= flipped
        tiny[0].write_bytes(data)
        data[place] ^= flipped
        n_read += read_or_refused(*tiny)
    # Dates and other fields of the archive that say nothing about the arrays; a space that becomes a zero.
    assert n_read <= (0.25 * len(data) if tiny[0].suffix == ".npz" else 0)


EDITS = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 40), st.binary(max_size=40)), min_size=1, max_size=3
)


@pytest.mark.parametrize("kind", [".npz", "deflated.npz", ".safetensors"])
@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=EDITS)
def test_pieces_replaced_anywhere(tmp_path, kind, edits):
    path, arrays = tmp_path / f"layer{kind}", random_arrays(TINY)
    if kind == "deflated.npz":
        zipped(path, members(TINY, arrays), zipfile.ZIP_DEFLATED)
    else:
        _files.write(path, TINY, arrays)
    data = path.read_bytes()
    for place, n_gone, new in edits:
        start = int(place * len(data))
        data = data[:start] + new + data[start + n_gone :]
    path.write_bytes(data)
    read_or_refused(path, TINY, arrays)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300))
def test_any_bytes(path, data):
    path.write_bytes(data)
    assert_refused(path, NOTHING)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 300) | st.floats(allow_nan=False) | st.sampled_from(["F32", "bias_l0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["dtype", "shape", "x"]), inner),
    max_leaves=6,
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from([*ARRAYS, "__metadata__", "x"]), field=st.sampled_from([None, "shape", "data_offsets"]),
       value=JSON)  # fmt: skip
def test_any_json_in_the_header(st_path, name, field, value):
    header = header_of(ARRAYS, text_of(PLAIN))
    if field is None or field not in header.get(name, {}):
        header[name] = value
    else:
        header[name][field] = value
    if header != header_of(ARRAYS, text_of(PLAIN)):
        tensors(st_path, header, data_of(ARRAYS))
        assert_refused(st_path, "expected|no configuration among the metadata|unknown arrays|truncated|trailing bytes")


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(header=st.text(alphabet="{}()[]', <>f48descrOiu:TrueFals10L\\\n", max_size=80) | st.binary(max_size=80))
def test_any_header_of_an_npy_member(npz, header):
    header = header if isinstance(header, bytes) else header.encode()
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + ARRAYS["bias_l0"].tobytes()
    zipped(npz, members(PLAIN, ARRAYS) | {"bias_l0.npy": content})
    assert_refused(npz, "'bias_l0': expected")


# --- npz -----------------------------------------------------------------------------------------------------------


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


def change_entry(path, name, field, fmt, value):
    """Set a field of a member's entry in the archive's directory, at its offset there."""
    data = bytearray(path.read_bytes())
    start = data.rindex(b"PK\1\2", 0, data.rindex(name))
    struct.pack_into(fmt, data, start + field, value)
    path.write_bytes(data)


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


# --- safetensors ---------------------------------------------------------------------------------------------------


def changed_header(**entries):
    header = header_of(ARRAYS, text_of(PLAIN))
    for name, changes in entries.items():
        header[name] = header[name] | changes if isinstance(changes, dict) else changes
    return header


@pytest.mark.parametrize(
    "entry",
    [None, 1, [], "F32", {}, {"dtype": "F32"}, {"dtype": "F32", "shape": [21]},
     {"dtype": "F32", "shape": [21], "data_offsets": [0, 84], "more": 1}],
)  # fmt: skip
def test_entries_of_the_header(st_path, entry):
    header = header_of(ARRAYS, text_of(PLAIN))
    header["bias_l0"] = entry
    tensors(st_path, header, data_of(ARRAYS))
    assert_refused(st_path, "'bias_l0': expected dtype, shape and two data_offsets")


@pytest.mark.parametrize(
    "changes",
    [{"dtype": 4}, {"dtype": None}, {"shape": 21}, {"shape": [21.0]}, {"shape": [True]}, {"shape": [-21]},
     {"shape": ["21"]}, {"shape": [2**63]}, {"data_offsets": [0]}, {"data_offsets": [840, 924, 924]},
     {"data_offsets": [-1, 84]}, {"data_offsets": [840.0, 924]}, {"data_offsets": None}, {"data_offsets": [0, 2**64]}],
)  # fmt: skip
def test_fields_of_an_entry(st_path, changes):
    tensors(st_path, changed_header(bias_l0=changes), data_of(ARRAYS))
    assert_refused(st_path, "'bias_l0': expected dtype, shape and two data_offsets")


@pytest.mark.parametrize("changes", [{"dtype": "f32"}, {"dtype": "BF16"}, {"dtype": "F64"}, {"dtype": ""}])
def test_dtypes_of_an_entry(st_path, changes):
    tensors(st_path, changed_header(bias_l0=changes), data_of(ARRAYS))
    assert_refused(st_path, "'bias_l0': expected dtype float32, got '")


KERNEL, VECTOR = 9 * 21 * 4, 21 * 4


@pytest.mark.parametrize(
    "offsets",
    [[KERNEL, KERNEL + VECTOR], [KERNEL + VECTOR + 4, KERNEL + 2 * VECTOR + 4], [KERNEL + VECTOR - 4,
     KERNEL + 2 * VECTOR - 4], [KERNEL + 2 * VECTOR, KERNEL + VECTOR], [0, VECTOR]],
)  # fmt: skip
def test_data_that_overlaps_or_leaves_gaps(st_path, offsets):
    tensors(st_path, changed_header(bias_l0={"data_offsets": offsets}), data_of(ARRAYS))
    assert_refused(st_path, "expected data from byte")


@pytest.mark.parametrize("n_bytes", [VECTOR - 4, VECTOR + 4, 0])
def test_an_entry_of_another_size(st_path, n_bytes):
    begin = KERNEL + VECTOR
    header = changed_header(bias_l0={"data_offsets": [begin, begin + n_bytes]})
    tensors(st_path, header, data_of(ARRAYS).ljust(begin + n_bytes, b"\0")[: begin + n_bytes])
    assert_refused(st_path, f"'bias_l0': expected {VECTOR} bytes of data, got {n_bytes}")


@pytest.mark.parametrize("n_bytes", [1, 4, VECTOR])
def test_trailing_and_missing_bytes(st_path, n_bytes):
    data = data_of(ARRAYS)
    tensors(st_path, changed_header(), data + b"\0" * n_bytes)
    assert_refused(st_path, "trailing bytes: arrays of 924 bytes, and")
    tensors(st_path, changed_header(), data[:-n_bytes])
    assert_refused(st_path, "truncated: arrays of 924 bytes, and")


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 10**6, 2000])
def test_a_header_longer_than_the_file(st_path, length):
    tensors(st_path, changed_header(), data_of(ARRAYS))
    st_path.write_bytes(length.to_bytes(8, "little") + st_path.read_bytes()[8:])
    assert_refused(st_path, f"truncated: a header of {length} bytes in a file of")


def test_a_header_of_most_of_the_file(st_path):
    tensors(st_path, changed_header(bias_l0={"dtype": "F" * 40_000}), data_of(ARRAYS))
    assert_refused(st_path, "a header of .* bytes in a file of .*: at most .* are read")


@pytest.mark.parametrize("header", [b"", b"[]", b"1", b'"x"', b"null", b"{", b"{}}", b"\xff{}", b"{}\0"])
def test_a_header_of_another_kind(st_path, header):
    tensors(st_path, header, data_of(ARRAYS))
    assert_refused(st_path, "expected JSON|expected a header of names|no configuration among the metadata")


@pytest.mark.parametrize("metadata", [None, {}, [], "x", {"configuration": 1}, {"configuration": PLAIN}])
def test_no_configuration_in_the_metadata(st_path, metadata):
    tensors(st_path, changed_header(__metadata__=None) | {"__metadata__": metadata}, data_of(ARRAYS))
    assert_refused(st_path, "no configuration among the metadata")
    tensors(st_path, without(changed_header(), "__metadata__"), data_of(ARRAYS))
    assert_refused(st_path, "no configuration among the metadata")


def test_a_configuration_that_cannot_be_encoded(st_path):
    tensors(st_path, header_of(ARRAYS, "\ud800"), data_of(ARRAYS))
    assert_refused(st_path, "expected JSON")


def test_names_twice_in_the_header(st_path):
    tensors(st_path, changed_header(), data_of(ARRAYS))
    patched(st_path, b'"recurrent_kernel_l0"', b'"kernel_l0"          ')
    assert_refused(st_path, "'kernel_l0' is given twice")


def test_the_package_has_the_last_word(st_path, monkeypatch):
    """What it refuses after all, say because the file has just become shorter, is refused with our error."""
    _files.write(st_path, PLAIN, ARRAYS)
    load = safetensors.numpy.load
    monkeypatch.setattr(safetensors.numpy, "load", lambda data: load(data[:-1]))
    assert_refused(st_path, "MetadataIncompleteBuffer|incomplete metadata")


def test_changed_data_fails_the_checksum(st_path):
    _files.write(st_path, PLAIN, ARRAYS)
    data = st_path.read_bytes()
    st_path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert_refused(st_path, "the checksum differs: .* leave out crc32")


def test_a_changed_configuration_fails_the_checksum(st_path):
    _files.write(st_path, PLAIN, ARRAYS)
    patched(st_path, b'\\"dropout\\": 0.0', b'\\"dropout\\": 0.5')
    assert_refused(st_path, "the checksum differs")


# --- Memory --------------------------------------------------------------------------------------------------------

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
    (".safetensors", json_just_not_too_long, "no configuration"),
    (".safetensors", json_in_a_big_file, "no configuration"),
    (".safetensors", gigantic_tensors, "'kernel_l0': expected 1200000000 bytes of data, got 756"),
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
    return 4 * path.stat().st_size + 1.25 * 2**20


@pytest.mark.parametrize(("path", "build", "message"), BOMBS, indirect=["path"])
def test_memory_for_hostile_files(path, build, message):
    build(path)
    assert_refused(path, message)  # and everything is imported
    assert peak_memory(lambda: read_or_refused(path, None, None)) < most_memory(path)


def test_memory_for_sound_files(path):
    configuration = PLAIN | {"input_size": 900, "hidden_size": 700}
    arrays = random_arrays(configuration)
    _files.write(path, configuration, arrays)
    IndyGRU.load(path)
    assert peak_memory(lambda: IndyGRU.load(path)) < 2.5 * path.stat().st_size


def test_peak_memory_sees_arrays():
    """Both a big array and a short-lived one."""
    assert peak_memory(lambda: np.zeros(10**6, np.float64)) >= 8 * 10**6
    assert peak_memory(lambda: bytes(10**7)) >= 10**7
