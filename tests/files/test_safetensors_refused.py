"""Files of safetensors that are refused: for their header, for data that does not fit it, for a checksum.

"damaged file: " begins what the package safetensors refuses; its own words differ from version to version.
"""

from __future__ import annotations

import json

import pytest
import safetensors
from file_checks import ARRAYS, CONFIGURATION, assert_refused, without
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from weight_files import PLAIN, data_of, header_of, patched, tensors, text_of

from indygru_cpu import WeightsError, _files


@pytest.fixture
def st_path(tmp_path):
    return tmp_path / "layer.safetensors"


def changed_header(**entries):
    header = header_of(ARRAYS, text_of(PLAIN))
    for name, changes in entries.items():
        header[name] = header[name] | changes if isinstance(changes, dict) else changes
    return header


@pytest.mark.parametrize(
    "entry",
    [None, 1, [], "F32", {}, {"dtype": "F32"}, {"dtype": "F32", "shape": [21]}],
)  # fmt: skip
def test_entries_of_the_header(st_path, entry):
    header = header_of(ARRAYS, text_of(PLAIN))
    header["bias_l0"] = entry
    tensors(st_path, header, data_of(ARRAYS))
    assert_refused(st_path, "damaged file: ")


@pytest.mark.parametrize(
    "changes",
    [{"dtype": 4}, {"dtype": None}, {"shape": 21}, {"shape": [21.0]}, {"shape": [True]}, {"shape": [-21]},
     {"shape": ["21"]}, {"shape": [2**63]}, {"data_offsets": [0]}, {"data_offsets": [840, 924, 924]},
     {"data_offsets": [-1, 84]}, {"data_offsets": [840.0, 924]}, {"data_offsets": None}, {"data_offsets": [0, 2**64]}],
)  # fmt: skip
def test_fields_of_an_entry(st_path, changes):
    tensors(st_path, changed_header(bias_l0=changes), data_of(ARRAYS))
    assert_refused(st_path, "damaged file: ")


@pytest.mark.parametrize("dtype", ["f32", "BF16", "F64", "", "F" * 500])
def test_wrong_dtype_with_data_of_another_size_is_refused(st_path, dtype):
    tensors(st_path, changed_header(bias_l0={"dtype": dtype}), data_of(ARRAYS))
    assert_refused(st_path, "damaged file: ")


@pytest.mark.parametrize(("dtype", "shape"), [("BF16", [42]), ("F16", [42]), ("I32", [21]), ("U8", [84])])
def test_wrong_dtype_with_data_of_its_size_is_refused(st_path, dtype, shape):
    tensors(st_path, changed_header(bias_l0={"dtype": dtype, "shape": shape}), data_of(ARRAYS))
    assert_refused(st_path, "'bias_l0': expected dtype float32, got '")


KERNEL, VECTOR = 9 * 21 * 4, 21 * 4


@pytest.mark.parametrize(
    "offsets",
    [[KERNEL, KERNEL + VECTOR], [KERNEL + VECTOR + 4, KERNEL + 2 * VECTOR + 4], [KERNEL + VECTOR - 4,
     KERNEL + 2 * VECTOR - 4], [KERNEL + 2 * VECTOR, KERNEL + VECTOR], [0, VECTOR]],
)  # fmt: skip
def test_data_that_overlaps_or_leaves_gaps(st_path, offsets):
    tensors(st_path, changed_header(bias_l0={"data_offsets": offsets}), data_of(ARRAYS))
    assert_refused(st_path, "damaged file: ")


@pytest.mark.parametrize("n_bytes", [VECTOR - 4, VECTOR + 4, 0])
def test_an_entry_of_another_size(st_path, n_bytes):
    begin = KERNEL + VECTOR
    header = changed_header(bias_l0={"data_offsets": [begin, begin + n_bytes]})
    tensors(st_path, header, data_of(ARRAYS).ljust(begin + n_bytes, b"\0")[: begin + n_bytes])
    assert_refused(st_path, "damaged file: ")


@pytest.mark.parametrize("n_bytes", [1, 4, VECTOR])
def test_trailing_and_missing_bytes(st_path, n_bytes):
    data = data_of(ARRAYS)
    tensors(st_path, changed_header(), data + b"\0" * n_bytes)
    assert_refused(st_path, "damaged file: ")
    tensors(st_path, changed_header(), data[:-n_bytes])
    assert_refused(st_path, "damaged file: ")


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 10**6, 2000])
def test_a_header_longer_than_the_file(st_path, length):
    tensors(st_path, changed_header(), data_of(ARRAYS))
    st_path.write_bytes(length.to_bytes(8, "little") + st_path.read_bytes()[8:])
    assert_refused(st_path, f"a header of {length} bytes in a file of|damaged file: ")


def test_a_header_of_most_of_the_file(st_path):
    tensors(st_path, changed_header(bias_l0={"dtype": "F" * 40_000}), data_of(ARRAYS))
    assert_refused(st_path, "a header of .* bytes in a file of .*: at most .* are read")


@pytest.mark.parametrize("header", [b"", b"[]", b"1", b'"x"', b"null", b"{", b"{}}", b"\xff{}", b"{}\0"])
def test_a_header_of_another_kind(st_path, header):
    tensors(st_path, header, data_of(ARRAYS))
    assert_refused(st_path, "damaged file: ")


@pytest.mark.parametrize("metadata", [[], "x", {"configuration": 1}, {"configuration": PLAIN}])
def test_metadata_of_another_type_is_refused(st_path, metadata):
    tensors(st_path, changed_header(__metadata__=None) | {"__metadata__": metadata}, data_of(ARRAYS))
    assert_refused(st_path, "damaged file: ")


@pytest.mark.parametrize("metadata", [None, {}, {"Configuration": CONFIGURATION}])
def test_no_configuration_in_the_metadata(st_path, metadata):
    tensors(st_path, changed_header(__metadata__=None) | {"__metadata__": metadata}, data_of(ARRAYS))
    assert_refused(st_path, "no configuration among the metadata")
    tensors(st_path, without(changed_header(), "__metadata__"), data_of(ARRAYS))
    assert_refused(st_path, "no configuration among the metadata")


def test_a_configuration_that_cannot_be_encoded(st_path):
    tensors(st_path, header_of(ARRAYS, "\ud800"), data_of(ARRAYS))
    assert_refused(st_path, "damaged file: ")


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("bias_l0", json.dumps(changed_header()["bias_l0"])),
        ("x", '{"dtype":"F32","shape":[0],"data_offsets":[924,924]}'),
    ],
)
def test_names_twice_in_the_header(st_path, name, entry):
    """The package takes the last entry of a name, and so refuses only where the first one leaves a gap."""
    header = json.dumps(changed_header())
    tensors(st_path, f'{header[:-1]}, "{name}": {entry}, "{name}": {entry}}}'.encode(), data_of(ARRAYS))
    assert safetensors.deserialize(st_path.read_bytes())
    assert_refused(st_path, f"'{name}' is given twice")


def test_two_configurations_in_the_metadata(st_path):
    tensors(st_path, changed_header(), data_of(ARRAYS))
    patched(st_path, b'{"configuration"', b'{"configuration": "", "configuration"')
    data = st_path.read_bytes()
    st_path.write_bytes((int.from_bytes(data[:8], "little") + 21).to_bytes(8, "little") + data[8:])
    assert safetensors.deserialize(st_path.read_bytes())
    assert_refused(st_path, "'configuration' is given twice")


def test_names_of_any_length_make_short_error_texts(st_path):
    """Whoever makes the text: the package or this library."""
    for n_more in (0, 4):
        header = without(changed_header(), "bias_l0") | {"n" * 30_000: changed_header()["bias_l0"]}
        header["n" * 30_000]["data_offsets"][0] += n_more
        tensors(st_path, header, data_of(ARRAYS))
        with pytest.raises(WeightsError, match="damaged file: " if n_more else "unknown arrays") as caught:
            _files.read(st_path)
        assert len(str(caught.value)) <= 2000
        assert str(caught.value).startswith(f"{st_path}: ")


def test_changed_data_fails_the_checksum(st_path):
    _files.write(st_path, PLAIN, ARRAYS)
    data = st_path.read_bytes()
    st_path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert_refused(st_path, "the checksum differs: .* leave out crc32")


def test_a_changed_configuration_fails_the_checksum(st_path):
    _files.write(st_path, PLAIN, ARRAYS)
    patched(st_path, b'\\"dropout\\": 0.0', b'\\"dropout\\": 0.5')
    assert_refused(st_path, "the checksum differs")


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
        assert_refused(st_path, "damaged file: |expected|no configuration among the metadata|unknown arrays")
