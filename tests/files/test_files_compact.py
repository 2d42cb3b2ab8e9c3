"""Weight files with bfloat16 and int8 kernels: round trips, exchange with safetensors, and what is refused."""

from __future__ import annotations

import io
import json
import tracemalloc

import numpy as np
import pytest
import safetensors
from file_checks import assert_refused
from helpers import assert_same_bits
from weight_files import PLAIN, RICH, random_arrays

from indygru_cpu import IndyGRU, WeightsError, _files
from indygru_cpu._engine.quantization import quantize_int8, round_to_bfloat16, widen_bfloat16

FORMATS = ("bfloat16", "int8")
STACK = RICH | {"dtype": "float32", "bias": True}


def finite_arrays(configuration):
    return {name: np.nan_to_num(array) for name, array in random_arrays(configuration).items()}


def rounded(arrays, weights):
    """The arrays that a file of the format gives back."""

    def of(array):
        if array.ndim == 1:
            return array
        return widen_bfloat16(round_to_bfloat16(array)) if weights == "bfloat16" else np.multiply(*quantize_int8(array))

    return {name: of(array) for name, array in arrays.items()}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "layer.safetensors"


def header_of(path):
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return data, json.loads(data[8 : 8 + length]), data[8 + length :]


def rewrite(path, change):
    """Change the header of a file, without its checksum."""
    _, header, arrays = header_of(path)
    document = json.loads(header["__metadata__"]["configuration"])
    document.pop("crc32", None)
    change(header, document)
    header["__metadata__"]["configuration"] = json.dumps(document)
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + arrays)


@pytest.mark.parametrize("configuration", [PLAIN, STACK], ids=["plain", "stack"])
@pytest.mark.parametrize("weights", FORMATS)
def test_written_file_is_read_with_the_rounded_weights(path, weights, configuration):
    arrays = finite_arrays(configuration)
    _files.write(path, configuration, arrays, weights=weights)
    read_configuration, read_arrays = _files.read(path)
    assert read_configuration == configuration
    assert list(read_arrays) == list(arrays)
    assert_same_bits(read_arrays, rounded(arrays, weights))
    written = path.read_bytes()
    _files.write(path, configuration, arrays, weights=weights)
    assert path.read_bytes() == written
    memory = io.BytesIO()
    _files.write(memory, configuration, arrays, "safetensors", weights)
    assert memory.getvalue() == written


@pytest.mark.parametrize("weights", FORMATS)
def test_file_has_the_dtypes_of_safetensors_and_the_size_of_the_format(path, weights):
    arrays = finite_arrays(PLAIN | {"input_size": 256, "hidden_size": 64})
    layer = IndyGRU(256, 64)
    layer.load_state_dict(arrays)
    layer.save(path, weights=weights)
    tensors = dict(safetensors.deserialize(path.read_bytes()))
    dtypes = {name: tensor["dtype"] for name, tensor in tensors.items()}
    kernel = arrays["kernel_l0"]
    if weights == "bfloat16":
        assert dtypes == {"kernel_l0": "BF16", "recurrent_kernel_l0": "F32", "bias_l0": "F32"}
        assert bytes(tensors["kernel_l0"]["data"]) == round_to_bfloat16(kernel).astype("<u2").tobytes()
    else:
        assert dtypes == {"kernel_l0": "I8", "kernel_l0_scales": "F32", "recurrent_kernel_l0": "F32", "bias_l0": "F32"}
        integers, scales = quantize_int8(kernel)
        assert bytes(tensors["kernel_l0"]["data"]) == integers.tobytes()
        assert bytes(tensors["kernel_l0_scales"]["data"]) == scales.astype("<f4").tobytes()
    bytes_of_weights = kernel.size * (2 if weights == "bfloat16" else 1)
    assert bytes_of_weights < path.stat().st_size < bytes_of_weights + 4096


@pytest.mark.parametrize("weights", FORMATS)
def test_stream_of_a_loaded_layer_computes_what_the_saved_one_does(path, weights):
    layer, x = IndyGRU(30, 17, num_layers=2, seed=0), np.random.default_rng(0).standard_normal((5, 30), np.float32)
    expected = layer.stream(weights=weights).push_many(x)
    layer.save(path, weights=weights)
    loaded = IndyGRU.load(path)
    y = loaded.stream(weights=weights).push_many(x)
    if weights == "bfloat16":
        assert_same_bits(y, expected)
    else:  # a scale may change by a rounding
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-6)


def test_bfloat16_file_keeps_nan_and_infinity(path):
    arrays = finite_arrays(PLAIN)
    arrays["kernel_l0"][0, :3] = np.nan, np.inf, -np.inf
    _files.write(path, PLAIN, arrays, weights="bfloat16")
    assert_same_bits(_files.read(path)[1], rounded(arrays, "bfloat16"))


@pytest.mark.parametrize(
    ("weights", "text"),
    [
        ("float16", "weights: expected None, 'float32', 'bfloat16' or 'int8' for a layer of float32, got 'float16'"),
        (8, "weights: expected None, 'float32', 'bfloat16' or 'int8' for a layer of float32, got 8"),
    ],
)
def test_unknown_format_is_refused(path, weights, text):
    with pytest.raises(ValueError, match=text):
        IndyGRU(3, 5).save(path, weights=weights)
    assert not path.exists()


def test_formats_that_a_file_or_a_layer_cannot_have_are_refused(tmp_path, path):
    with pytest.raises(ValueError, match=r"weights: expected None for a \.npz file, got 'int8': write a \.safetensors"):
        IndyGRU(3, 5).save(tmp_path / "layer.npz", weights="int8")
    with pytest.raises(ValueError, match=r"weights: expected None or 'float64' .*got 'bfloat16'"):
        IndyGRU(3, 5, dtype=np.float64).save(path, weights="bfloat16")
    layer = IndyGRU(3, 5)
    layer.parameters["kernel_l0"][1, 1] = np.nan
    with pytest.raises(ValueError, match="kernel_l0: expected finite weights"):
        layer.save(path, weights="int8")
    assert list(tmp_path.iterdir()) == []
    layer.save(path, weights="float32")
    assert_same_bits(IndyGRU.load(path).parameters["kernel_l0"], layer.parameters["kernel_l0"])


CHANGES = {
    "another format": (lambda header, document: document.update(weights="int4"), "weights: expected 'bfloat16' or"),
    "a list": (lambda header, document: document.update(weights=["int8"]), "weights: expected 'bfloat16' or"),
    "no format": (lambda header, document: document.pop("weights"), "unknown arrays|expected dtype float32, got"),
    "float64": (
        lambda header, document: document["configuration"].update(dtype="float64"),
        "weights: expected none in a file of float64",
    ),
    "another dtype": (
        lambda header, document: header["kernel_l0"].update(
            dtype="U16" if header["kernel_l0"]["dtype"] != "I8" else "U8"
        ),
        "'kernel_l0': expected dtype (bfloat16|int8), got '?U",
    ),
    "no scales": (lambda header, document: header.pop("kernel_l0_scales"), "damaged file|missing arrays"),
    "another shape": (
        lambda header, document: header["kernel_l0"].update(shape=header["kernel_l0"]["shape"][::-1]),
        "'kernel_l0': expected shape",
    ),
}


@pytest.mark.parametrize(
    ("weights", "change"),
    [(w, change) for w in FORMATS for change in CHANGES if (w, change) != ("bfloat16", "no scales")],
)
def test_changed_file_is_refused(path, weights, change):
    IndyGRU(9, 7, seed=0).save(path, weights=weights)
    function, text = CHANGES[change]
    rewrite(path, function)
    assert_refused(path, text)


@pytest.mark.parametrize("checksum", [True, False], ids=["with a checksum", "without a checksum"])
@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("kernel_l1", -128, "'kernel_l1': expected integers from -127 to 127, got -128"),
        *(
            ("kernel_l1_scales", value, rf"'kernel_l1_scales': expected scales from 1\.18e-38 to 2\.68e\+36, got {got}")
            for value, got in [
                (np.nan, "nan"), (np.inf, "inf"), (-0.5, "-0.5"), (0, "0"), (1e-40, "1e-40"), (3e36, r"3e\+36"),
            ]
        ),
    ],
)  # fmt: skip
def test_int8_file_with_values_that_no_kernel_has_is_refused(path, monkeypatch, name, value, text, checksum):
    def changed(arrays, weights):
        stored = to_stored(arrays, weights)
        stored[name].flat[5] = value
        return stored

    to_stored = _files.compact.to_stored
    monkeypatch.setattr(_files.compact, "to_stored", changed)
    IndyGRU(9, 7, num_layers=2, seed=0).save(path, weights="int8")
    if not checksum:
        rewrite(path, lambda header, document: None)
    assert_refused(path, text)


def test_int8_file_of_the_largest_and_smallest_weights_is_read(path):
    layer = IndyGRU(3, 5, seed=0)
    limits = np.finfo(np.float32)
    layer.parameters["kernel_l0"][0, :4] = limits.max, -limits.max, limits.tiny, limits.smallest_subnormal
    layer.parameters["kernel_l0"][1:, :4] = 0
    layer.save(path, weights="int8")
    kernel = IndyGRU.load(path).parameters["kernel_l0"]
    np.testing.assert_allclose(kernel[0, :3], layer.parameters["kernel_l0"][0, :3], rtol=1e-6)
    assert kernel[0, 3] == 0


@pytest.mark.parametrize("weights", FORMATS)
def test_reading_takes_at_most_eight_times_the_size_of_the_file_and_a_mebibyte(path, weights):
    IndyGRU(1000, 700, seed=0).save(path, weights=weights)
    IndyGRU.load(path)
    tracemalloc.start()
    try:
        IndyGRU.load(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * path.stat().st_size + 2**20


@pytest.mark.parametrize("weights", FORMATS)
def test_any_changed_byte_of_the_arrays_is_refused_by_the_checksum(path, weights):
    IndyGRU(9, 7, seed=0).save(path, weights=weights)
    data, _, arrays = header_of(path)
    for position in range(len(data) - len(arrays), len(data), 37):
        changed = bytearray(data)
        changed[position] ^= 1
        path.write_bytes(changed)
        with pytest.raises(WeightsError, match="crc32: expected"):
            IndyGRU.load(path)
