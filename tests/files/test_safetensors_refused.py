"""Files of safetensors with a wrong header, data that does not fit it, or a wrong checksum.

Errors of the package safetensors start with "damaged file: "; their texts differ from version to version.
"""

from __future__ import annotations

import json

import pytest
import safetensors
from file_checks import ARRAYS, CONFIGURATION, assert_refused, without_key
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from weight_files import PLAIN, patch_bytes, tensor_bytes, text_of, valid_header, write_safetensors

from indygru_cpu import WeightsError, _files


@pytest.fixture
def st_path(tmp_path):
    return tmp_path / "layer.safetensors"


def changed_header(**entries):
    header = valid_header(ARRAYS, text_of(PLAIN))
    for name, changes in entries.items():
        header[name] = header[name] | changes if isinstance(changes, dict) else changes
    return header


@pytest.mark.parametrize(
    "entry",
    [None, 1, [], "F32", {}, {"dtype": "F32"}, {"dtype": "F32", "shape": [21]}],
)  # fmt: skip
def test_wrong_entry_of_the_header_raises(st_path, entry):
    header = valid_header(ARRAYS, text_of(PLAIN))
    header["bias_l0"] = entry
    write_safetensors(st_path, header, tensor_bytes(ARRAYS))
    assert_refused(st_path, "damaged file: ")


@pytest.mark.parametrize(
    "changes",
    [{"dtype": 4}, {"dtype": None}, {"shape": 21}, {"shape": [21.0]}, {"shape": [True]}, {"shape": [-21]},
     {"shape": ["21"]}, {"shape": [2**63]}, {"data_offsets": [0]}, {"data_offsets": [840, 924, 924]},
     {"data_offsets": [-1, 84]}, {"data_offsets": [840.0, 924]}, {"data_offsets": None}, {"data_offsets": [0, 2**64]}],
)  # fmt: skip
def test_wrong_field_of_an_entry_raises(st_path, changes):
    write_safetensors(st_path, changed_header(bias_l0=changes), tensor_bytes(ARRAYS))
    assert_refused(st_path, "damaged file: ")


@pytest.mark.parametrize("dtype", ["f32", "BF16", "F64", "", "F" * 500])
def test_wrong_dtype_with_data_of_another_size_is_refused(st_path, dtype):
    write_safetensors(st_path, changed_header(bias_l0={"dtype": dtype}), tensor_bytes(ARRAYS))
    assert_refused(st_path, "damaged file: ")


@pytest.mark.parametrize(("dtype", "shape"), [("BF16", [42]), ("F16", [42]), ("I32", [21]), ("U8", [84])])
def test_wrong_dtype_with_data_of_its_size_is_refused(st_path, dtype, shape):
    write_safetensors(st_path, changed_header(bias_l0={"dtype": dtype, "shape": shape}), tensor_bytes(ARRAYS))
    assert_refused(st_path, "'bias_l0': expected dtype float32, got '")


KERNEL, VECTOR = 9 * 21 * 4, 21 * 4


@pytest.mark.parametrize(
    "offsets",
    [[KERNEL, KERNEL + VECTOR], [KERNEL + VECTOR + 4, KERNEL + 2 * VECTOR + 4], [KERNEL + VECTOR - 4,
     KERNEL + 2 * VECTOR - 4], [KERNEL + 2 * VECTOR, KERNEL + VECTOR], [0, VECTOR]],
)  # fmt: skip
def test_tensors_that_overlap_or_leave_gaps_raise(st_path, offsets):
    write_safetensors(st_path, changed_header(bias_l0={"data_offsets": offsets}), tensor_bytes(ARRAYS))
    assert_refused(st_path, "damaged file: ")


@pytest.mark.parametrize("n_bytes", [VECTOR - 4, VECTOR + 4, 0])
def test_entry_of_another_size_than_its_shape_raises(st_path, n_bytes):
    begin = KERNEL + VECTOR
    header = changed_header(bias_l0={"data_offsets": [begin, begin + n_bytes]})
    write_safetensors(st_path, header, tensor_bytes(ARRAYS).ljust(begin + n_bytes, b"\0")[: begin + n_bytes])
    assert_refused(st_path, "damaged file: ")


@pytest.mark.parametrize("n_bytes", [1, 4, VECTOR])
def test_trailing_or_missing_bytes_raise(st_path, n_bytes):
    data = tensor_bytes(ARRAYS)
    write_safetensors(st_path, changed_header(), data + b"\0" * n_bytes)
    assert_refused(st_path, "damaged file: ")
    write_safetensors(st_path, changed_header(), data[:-n_bytes])
    assert_refused(st_path, "damaged file: ")


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 10**6, 2000])
def test_header_longer_than_the_file_raises(st_path, length):
    write_safetensors(st_path, changed_header(), tensor_bytes(ARRAYS))
    st_path.write_bytes(length.to_bytes(8, "little") + st_path.read_bytes()[8:])
    assert_refused(st_path, f"header: expected at most .* got {length}|damaged file: ")


def test_header_of_most_of_the_file_raises(st_path):
    write_safetensors(st_path, changed_header(bias_l0={"dtype": "F" * 40_000}), tensor_bytes(ARRAYS))
    assert_refused(st_path, "header: expected at most .* bytes in a file of .*, got")


@pytest.mark.parametrize("header", [b"", b"[]", b"1", b'"x"', b"null", b"{", b"{}}", b"\xff{}", b"{}\0"])
def test_header_that_is_no_json_object_raises(st_path, header):
    write_safetensors(st_path, header, tensor_bytes(ARRAYS))
    assert_refused(st_path, "damaged file: ")


@pytest.mark.parametrize("metadata", [[], "x", {"configuration": 1}, {"configuration": PLAIN}])
def test_metadata_of_another_type_is_refused(st_path, metadata):
    write_safetensors(st_path, changed_header(__metadata__=None) | {"__metadata__": metadata}, tensor_bytes(ARRAYS))
    assert_refused(st_path, "damaged file: ")


@pytest.mark.parametrize("metadata", [None, {}, {"Configuration": CONFIGURATION}])
def test_missing_configuration_in_the_metadata_raises(st_path, metadata):
    write_safetensors(st_path, changed_header(__metadata__=None) | {"__metadata__": metadata}, tensor_bytes(ARRAYS))
    assert_refused(st_path, "metadata: expected an entry 'configuration'")
    write_safetensors(st_path, without_key(changed_header(), "__metadata__"), tensor_bytes(ARRAYS))
    assert_refused(st_path, "metadata: expected an entry 'configuration'")


def test_configuration_that_cannot_be_encoded_raises(st_path):
    write_safetensors(st_path, valid_header(ARRAYS, "\ud800"), tensor_bytes(ARRAYS))
    assert_refused(st_path, "damaged file: ")


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("bias_l0", json.dumps(changed_header()["bias_l0"])),
        ("x", '{"dtype":"F32","shape":[0],"data_offsets":[924,924]}'),
    ],
)
def test_duplicate_name_in_the_header_raises(st_path, name, entry):
    """The package uses the last entry of a name, and raises only if that leaves a gap in the data."""
    header = json.dumps(changed_header())
    write_safetensors(st_path, f'{header[:-1]}, "{name}": {entry}, "{name}": {entry}}}'.encode(), tensor_bytes(ARRAYS))
    assert safetensors.deserialize(st_path.read_bytes())
    assert_refused(st_path, f"'{name}' appears twice")


def test_duplicate_configuration_in_the_metadata_raises(st_path):
    write_safetensors(st_path, changed_header(), tensor_bytes(ARRAYS))
    patch_bytes(st_path, b'{"configuration"', b'{"configuration": "", "configuration"')
    data = st_path.read_bytes()
    st_path.write_bytes((int.from_bytes(data[:8], "little") + 21).to_bytes(8, "little") + data[8:])
    assert safetensors.deserialize(st_path.read_bytes())
    assert_refused(st_path, "'configuration' appears twice")


def test_error_text_for_a_long_name_is_short(st_path):
    """Both for errors of the package and of this library."""
    for n_more in (0, 4):
        header = without_key(changed_header(), "bias_l0") | {"n" * 30_000: changed_header()["bias_l0"]}
        header["n" * 30_000]["data_offsets"][0] += n_more
        write_safetensors(st_path, header, tensor_bytes(ARRAYS))
        with pytest.raises(WeightsError, match="damaged file: " if n_more else "unknown arrays") as caught:
            _files.read(st_path)
        assert len(str(caught.value)) <= 2000
        assert str(caught.value).startswith(f"{st_path}: ")


def test_changed_data_raises_a_checksum_error(st_path):
    _files.write(st_path, PLAIN, ARRAYS)
    data = st_path.read_bytes()
    st_path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert_refused(st_path, "crc32: expected [0-9]+, .* got [0-9]+: .* remove crc32")


def test_changed_configuration_raises_a_checksum_error(st_path):
    _files.write(st_path, PLAIN, ARRAYS)
    patch_bytes(st_path, b'\\"dropout\\": 0.0', b'\\"dropout\\": 0.5')
    assert_refused(st_path, "crc32: expected [0-9]+, .* got [0-9]+:")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 300) | st.floats(allow_nan=False) | st.sampled_from(["F32", "bias_l0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["dtype", "shape", "x"]), inner),
    max_leaves=6,
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from([*ARRAYS, "__metadata__", "x"]), field=st.sampled_from([None, "shape", "data_offsets"]),
       value=JSON)  # fmt: skip
def test_random_json_in_the_header_raises(st_path, name, field, value):
    header = valid_header(ARRAYS, text_of(PLAIN))
    if field is None or field not in header.get(name, {}):
        header[name] = value
    else:
        header[name][field] = value
    if header != valid_header(ARRAYS, text_of(PLAIN)):
        write_safetensors(st_path, header, tensor_bytes(ARRAYS))
        assert_refused(st_path, "damaged file: |expected|unknown arrays")
