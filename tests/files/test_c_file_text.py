"""The text of C files: its numbers, sizes and constants; arguments that are refused; files that are replaced."""

from __future__ import annotations

import io
import re

import c_files
import helpers
import numpy as np
import pytest
from c_files import layer_of, text_of

from indygru_cpu import IndyGRU
from indygru_cpu._engine.quantization import quantize_int8, round_to_bfloat16, widen_bfloat16


def arrays_of(text):
    """(type, number of elements, texts of the numbers) of each array of a file, by name."""
    pattern = r"static const (\w+) (\w+)\[([\d *]+)\] = \{\n(.*?),\n\};"
    return {
        name: (c_type, np.prod([int(size) for size in sizes.split(" * ")]), re.split(r",\s+", numbers.strip()))
        for c_type, name, sizes, numbers in re.findall(pattern, text, re.S)
    }


@pytest.mark.parametrize("weights", ["float32", "bfloat16", "int8", "float64"])
def test_numbers_of_a_file_are_the_stored_ones(weights):
    dtype = np.float64 if weights == "float64" else np.float32
    layer = layer_of("stack", dtype)
    c_files.fill_with_extremes(layer)
    for name in layer.parameters if weights == "bfloat16" else ():
        np.clip(layer.parameters[name], -3e38, 3e38, layer.parameters[name])  # what bfloat16 can represent
    arrays = arrays_of(text_of(layer, weights=weights))
    for name, array in layer.parameters.items():
        array_name = f"model_{name.replace('recurrent_kernel', 'recurrent')}"
        c_type, size, numbers = arrays.pop(array_name)
        assert size == len(numbers) == array.size
        if name.startswith("kernel") and weights == "bfloat16":
            assert c_type == "uint16_t"
            stored = np.array([int(number, 16) for number in numbers], np.uint16)
            rounded = c_files.flushed(widen_bfloat16(round_to_bfloat16(array)))
            helpers.assert_same_bits(widen_bfloat16(stored), rounded.ravel())
        elif name.startswith("kernel") and weights == "int8":
            integers, scales = quantize_int8(array)
            assert c_type == "int8_t"
            helpers.assert_same_bits(np.array(numbers, np.int8), integers.ravel())
            c_type, size, numbers = arrays.pop(f"model_{name}_scales")
            assert (c_type, size) == ("float", scales.size)
            helpers.assert_same_bits(np.array([number.rstrip("f") for number in numbers], dtype), scales)
        else:
            assert c_type == c_files.NUMBERS[layer.dtype]
            expected = c_files.flushed(array).ravel()
            helpers.assert_same_bits(np.array([number.rstrip("f") for number in numbers], dtype), expected)
            assert all(("." in number or "e" in number) for number in numbers)
            assert all(number.endswith("f") == (dtype == np.float32) for number in numbers)
    assert not arrays


def test_recurrent_weights_of_64_units_take_less_than_1_kb():
    layer = IndyGRU(8, 64)
    sizes = {name: size * 4 for name, (_, size, _) in arrays_of(text_of(layer)).items()}
    assert sizes["model_recurrent_l0"] == 768


@pytest.mark.parametrize(("weights", "expected"), [("float32", 6144), ("bfloat16", 3072), ("int8", 1536 + 768)])
def test_first_comment_states_the_bytes_of_the_arrays(weights, expected):
    text = text_of(IndyGRU(8, 64), weights=weights)
    assert f"its arrays ({expected + 1536:,} bytes)" in text
    assert f"weights={weights}" in text
    assert max(map(len, text.splitlines())) <= 120


def test_equal_layers_give_equal_bytes_and_others_do_not():
    texts = [text_of(layer_of("stack", np.float32, seed)) for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]
    layer = layer_of("stack", np.float32)
    assert text_of(layer) == text_of(layer, weights="float32") == text_of(layer, name="model") == texts[0]


def test_weights_that_change_later_do_not_change_the_file(tmp_path):
    layer = layer_of("wide", np.float32)
    layer.to_c(tmp_path / "model.h")
    before = (tmp_path / "model.h").read_text()
    layer.parameters["kernel_l0"][...] = 0
    assert (tmp_path / "model.h").read_text() == before != text_of(layer)


def test_constants_are_those_of_the_kernels(dtype):
    """Coefficients, log(2) and limits are hexadecimal in the sources of the kernels: C++11 has no such numbers."""
    csrc = helpers.ROOT / "indygru_cpu" / "_engine" / "csrc"
    suffix = "f32" if dtype == np.float32 else "f64"
    body = (csrc / "kernel_body.inc.h").read_text()
    (section,) = re.findall(rf"#define SUFFIX {suffix}\n(.*?)#include", body, re.S)
    hexadecimal = {abs(float(dtype(float.fromhex(number)))) for number in re.findall(r"0x[\da-f.]+p[-+]?\d+", section)}
    limits = (csrc / "activation_limits.c").read_text()
    (numbers,) = re.findall(rf"indygru_activation_limits_{suffix} = \{{(.*?)\}}", limits)
    exp_low, sigmoid_low, sigmoid_high, tanh_high = (float(dtype(number.rstrip("f"))) for number in numbers.split(", "))
    assert exp_low == -sigmoid_high
    text = text_of(IndyGRU(1, 1, dtype=dtype))
    code = text[text.index("model_split_exp(") :]
    written = {float(dtype(number)) for number in re.findall(r"\d+\.\d+(?:e[-+]\d+)?", code)}
    assert len(hexadecimal) == (7 if dtype == np.float32 else 12)
    rounder = 1.5 * 2.0 ** np.finfo(dtype).nmant + np.finfo(dtype).maxexp - 1
    expected = hexadecimal | {-sigmoid_low, sigmoid_high, tanh_high, float(dtype(1 / np.log(2))), rounder}
    assert written == expected | {float(np.finfo(dtype).maxexp - 1)}


def assert_refused(error, arguments, *words, layer=None, **refusal):
    with pytest.raises(error) as caught:
        text_of(layer or IndyGRU(3, 4), **arguments)
    helpers.assert_refusal(str(caught.value), *words, **refusal)


@pytest.mark.parametrize(
    ("name", "requirement"),
    [
        ("", "letter first"), ("1model", "letter first"), ("_model", "letter first"), ("a*/b", "ASCII letters"),
        ("my model", "ASCII letters"), ("my-model", "ASCII letters"), ("modèle", "ASCII letters"),
        ("model\n", "ASCII letters"),
        ("float", "keywords"), ("restrict", "keywords"), ("namespace", "keywords"), ("co_await", "keywords"),
        ("my__model", "without __"), ("model_", "without __"), ("m" * 32, "at most 31 characters"),
    ],
)  # fmt: skip
def test_name_that_is_no_identifier_is_refused(name, requirement):
    assert_refused(
        ValueError, {"name": name}, "name", f"C identifier {requirement}", got=repr(name), fix="such as 'model'"
    )


def test_error_text_of_a_long_name_is_short():
    with pytest.raises(ValueError, match="at most 31 characters") as caught:
        text_of(IndyGRU(3, 4), name="m" * 10**6)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("name", [None, b"model", 3])
def test_name_that_is_no_str_is_refused(name):
    assert_refused(TypeError, {"name": name}, "name", "a str", got=type(name).__name__)


def names_of(code):
    """The arrays, functions and types of a file, and its macros."""
    globals_ = re.findall(r"^static (?:const|inline) [\w ]*?\*?(\w+)[\[(]|^} (\w+);", code, re.M)
    return [name or type_name for name, type_name in globals_], re.findall(r"#define (\w+)", code)


def test_no_name_of_a_file_ends_in_an_underscore_and_another_one():
    """So that files of two names have no identifier in common: a + "_" + one end = a_b + "_" + another end."""
    ends = set()
    for dtype, formats in c_files.FORMATS.items():
        for layer in c_files.LAYERS:
            for weights in formats:
                globals_, macros = names_of(text_of(layer_of(layer, dtype), weights=weights))
                ends |= {name.partition("_")[2] for name in globals_ + macros}
    assert {"step", "recurrent_l2", "kernel_l2_scales", "kernel_l0", "bias_l0", "widen", "number", "H"} <= ends
    assert [(a, b) for a in ends for b in ends if a.endswith(f"_{b}")] == []


@pytest.mark.parametrize("name", ["m", "Model", "int8_model", "m" * 31, "a_b_c1", "REAL", "ARRAYS", "model_2", "MODEL"])
def test_name_begins_all_identifiers_of_the_file(name):
    code = re.sub(r"/\*.*?\*/|\"[^\"]*\"", "", text_of(IndyGRU(3, 4), name=name), flags=re.S)
    globals_, macros = names_of(code)
    assert len(globals_) > 9
    assert all(each.startswith(f"{name}_") for each in globals_)
    assert all(macro.startswith(f"{name.upper()}_") for macro in macros)
    assert {f"{name.upper()}_{end}" for end in ("H", "INPUT_SIZE", "OUTPUT_SIZE", "STATE_SIZE")} == set(macros)
    assert name == "model" or "model_" not in code.replace(f"{name}_", "")


@pytest.mark.parametrize("weights", ["float16", "", "INT8", 8, ["int8"]])
def test_unknown_weights_are_refused(weights):
    expected = "None, 'float32', 'bfloat16' or 'int8' for a layer of float32"
    assert_refused(ValueError, {"weights": weights}, "weights", expected, got=repr(weights))


def test_weights_of_another_dtype_are_refused():
    assert_refused(
        ValueError, {"weights": "float64"}, "weights", "'int8' for a layer of float32", got="'float64'",
        fix="make a layer with dtype='float64'",
    )  # fmt: skip
    layer = IndyGRU(3, 4, dtype=np.float64)
    assert_refused(
        ValueError, {"weights": "float32"}, "weights", "'float64' for a layer of float64", got="'float32'",
        fix="make a layer with dtype='float32'", layer=layer,
    )  # fmt: skip
    assert_refused(ValueError, {"weights": "int8"}, "weights", "'float64'", got="'int8'", layer=layer)


def test_bidirectional_layer_is_refused():
    layer = IndyGRU(3, 4, bidirectional=True)
    assert_refused(ValueError, {}, "to_c", "reverse direction bidirectional=False", layer=layer)


@pytest.mark.parametrize("parameter", ["kernel_l1", "recurrent_kernel_l0", "bias_l1"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weight_that_is_not_finite_is_refused(dtype, parameter, value):
    layer = IndyGRU(3, 4, num_layers=2, dtype=dtype)
    layer.parameters[parameter].flat[5] = value
    for weights in c_files.FORMATS[dtype]:
        assert_refused(ValueError, {"weights": weights}, parameter, "finite weights", got=str(value), layer=layer)


def test_weight_beyond_bfloat16_is_refused():
    layer = IndyGRU(3, 4)
    layer.parameters["kernel_l0"][1, 2] = np.finfo(np.float32).max
    assert_refused(
        ValueError, {"weights": "bfloat16"}, "kernel_l0", "magnitudes bfloat16", got="3.40282e+38",
        fix="use float32", layer=layer,
    )  # fmt: skip


def test_error_leaves_the_file_and_the_folder_unchanged(tmp_path):
    path = tmp_path / "model.h"
    IndyGRU(3, 4, seed=0).to_c(path)
    before = path.read_bytes()
    layer = IndyGRU(3, 4, seed=1)
    layer.parameters["bias_l0"][0] = np.nan
    with pytest.raises(ValueError, match="finite"):
        layer.to_c(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_existing_file_is_replaced_with_its_permissions(tmp_path):
    path = tmp_path / "model.h"
    path.write_text("other")
    path.chmod(0o640)
    layer = IndyGRU(3, 4, seed=0)
    layer.to_c(str(path))
    assert path.read_text() == text_of(layer)
    assert path.stat().st_mode & 0o777 == 0o640
    with pytest.raises(OSError, match=re.escape(str(tmp_path))):
        layer.to_c(tmp_path)
    with pytest.raises(TypeError, match="path: expected a path, or a file object open in binary mode"):
        layer.to_c(io.StringIO())
    assert list(tmp_path.iterdir()) == [path]


def test_unchanged_template_is_a_c_file(tmp_path):
    """Linters and formatters read it as it is."""
    template = helpers.ROOT / "indygru_cpu" / "_files" / "c_template.h"
    source = tmp_path / "template.c"
    source.write_text(f'#include "{template}"\n')
    c_files.compile_c(c_files.toolchain("c"), source, tmp_path / "template.o", "-c")


def test_words_of_the_template_are_all_replaced(dtype):
    """No word in capitals is left that the template defines before the exported part."""
    template = (helpers.ROOT / "indygru_cpu" / "_files" / "c_template.h").read_text()
    words = set(re.findall(r"^#define (\w+)", template.partition("/* begin */")[0], re.M))
    assert len(words) > 20
    for name in c_files.LAYERS:
        for weights in c_files.FORMATS[dtype]:
            text = text_of(layer_of(name, dtype), weights=weights)
            assert not words & set(re.findall(r"\w+", text))


def test_first_comment_names_the_licence_of_the_code_and_excludes_the_weights():
    comment = " ".join(text_of(IndyGRU(2, 3)).partition("*/")[0].replace("\n *", "\n").split())
    assert "SPDX-License-Identifier: BSD-3-Clause" in comment
    assert "weights of the user's layer, to which this licence does not apply" in comment
    assert (
        (helpers.ROOT / "LICENSE").read_text().startswith("BSD 3-Clause License\n\nCopyright (c) 2026, the indygru_cpu")
    )


def test_error_of_two_models_of_one_name_has_that_name():
    file = io.BytesIO()
    IndyGRU(2, 3, seed=0).to_c(file, name="amp")
    assert b'#error "two different models have the name AMP"' in file.getvalue()
