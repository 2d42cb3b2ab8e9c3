"""Weight files of both formats with a wrong configuration: the error names the entry."""

from __future__ import annotations

import file_checks
import pytest
from file_checks import ARRAYS, CONFIGURATION, INT32_MAX, assert_refused, without_key
from weight_files import PLAIN, craft, text_of

path = file_checks.path


@pytest.mark.parametrize("name", [name for name in PLAIN if name != "reset_gate"])
def test_missing_entry_raises_an_error_that_names_it(path, name):
    craft(path, text_of(without_key(PLAIN, name)), ARRAYS)
    assert_refused(path, rf"configuration: missing \['{name}'\], unknown \[\]")


@pytest.mark.parametrize("name", ["num_threads", "seed", "Bias", ""])
def test_unknown_entry_raises_an_error_that_names_it(path, name):
    craft(path, text_of(PLAIN | {name: 1}), ARRAYS)
    assert_refused(path, rf"configuration: missing \[\], unknown \['{name}'\]")


WRONG_SIZES = [0, -1, 2**31, 10**3000, 7.0, 1e999, True, None, "7", [7], {}]
WRONG_FLAGS = [0, 1, None, "true", []]
WRONG = {
    **dict.fromkeys(("input_size", "hidden_size", "num_layers", "groups"), WRONG_SIZES),
    **dict.fromkeys(("bias", "batch_first", "bidirectional", "reproducible", "reset_gate"), WRONG_FLAGS),
    "dropout": [1, 1.0, -0.25, 1e999, -1e999, True, None, "0", []],
    "activation": ["gelu", "Tanh", "", None, 0, ["tanh"], {}],
    "dtype": ["float16", "f4", "<f4", "single", "object", "", None, 32, ["float32"], {"float32": 1}],
}


def test_wrong_values_cover_every_entry():
    assert WRONG.keys() == PLAIN.keys()


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_wrong_value_raises_an_error_that_names_the_entry(path, name, value):
    craft(path, text_of(PLAIN | {name: value}).replace("Infinity", "1e999"), ARRAYS)
    assert_refused(path, f"configuration: {name}: ")


@pytest.mark.parametrize(("groups", "name"), [(2, "input_size 9"), (3, "hidden_size 7"), (63, "input_size 9")])
def test_groups_that_do_not_divide_the_sizes_raise(path, groups, name):
    craft(path, text_of(PLAIN | {"groups": groups}), ARRAYS)
    assert_refused(path, f"groups: expected a divisor of {name}, got {groups}")


@pytest.mark.parametrize(
    ("change", "message"),
    [({"input_size": 8}, "'kernel_l0': expected shape"), ({"hidden_size": 8}, "'kernel_l0': expected shape"),
     ({"num_layers": 2}, "missing arrays"), ({"bidirectional": True}, "missing arrays"),
     ({"bias": False}, "unknown arrays"), ({"dtype": "float64"}, "expected dtype float64, got 'float32'"),
     ({"input_size": INT32_MAX}, "expected shape"), ({"hidden_size": INT32_MAX}, "expected shape"),
     ({"num_layers": INT32_MAX}, f"num_layers: expected at most 3, .* got {INT32_MAX}"),
     ({"input_size": INT32_MAX, "hidden_size": INT32_MAX, "num_layers": INT32_MAX, "bidirectional": True},
      "num_layers: ")],
)  # fmt: skip
def test_configuration_of_another_layer_raises(path, change, message):
    craft(path, text_of(PLAIN | change), ARRAYS)
    assert_refused(path, message)


NESTED = "[" * 2000 + "]" * 2000
TEXTS = {
    "": "expected JSON", "{": "expected JSON", "\ufeff" + CONFIGURATION: "expected JSON",
    CONFIGURATION[:-1]: "expected JSON", CONFIGURATION + "x": "expected JSON",
    "[]": "format_version: expected .* without this entry",
    "1": "format_version: expected", "null": "format_version: expected", "{}": "format_version: expected",
    NESTED: "expected JSON|format_version: expected",
    CONFIGURATION.replace("0.0", "NaN"): "expected JSON, got NaN",
    CONFIGURATION.replace("0.0", "-Infinity"): "expected JSON, got -Infinity",
    CONFIGURATION.replace('"bias": true', '"bias": true, "bias": true'): "'bias' appears twice",
    CONFIGURATION.replace("{", '{"format_version": 1, ', 1): "'format_version' appears twice",
    CONFIGURATION.replace("tanh", "\\ud800"): "activation: expected one of",
    CONFIGURATION.replace('"tanh"', "'tanh'"): "expected JSON",
    CONFIGURATION + " " * 4096: "expected at most 4096 bytes",
    text_of(PLAIN, format_version=2): "format_version: expected at most 1, got 2, .*upgrade",
    text_of(PLAIN | {"new": 1}, format_version=2, more="of it"): "format_version: expected at most 1, got 2",
    text_of(PLAIN, format_version=0): "format_version: expected an integer of at least 1, got 0",
    text_of(PLAIN, format_version=True): "format_version: expected an integer of at least 1, got True",
    text_of(PLAIN, format_version=1.0): "format_version: expected an integer",
    text_of(PLAIN, format_version="1"): "format_version: expected an integer",
    text_of([1]): r"configuration: expected a JSON object, got \[1\]",
    '{"format_version": 1}': "configuration: expected a JSON object, got None",
    text_of(PLAIN, seed=1): r"unknown entries \['seed'\]",
    text_of(PLAIN, crc32="0"): "crc32: expected an integer",
    text_of(PLAIN, crc32=0): "crc32: expected [0-9]+, .* got 0:",
    text_of(PLAIN, crc32=10**30): "crc32: expected [0-9]+, .* got 10+:",
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), TEXTS.items(), ids=range(len(TEXTS)))
def test_text_that_is_no_configuration_raises(path, text, message):
    craft(path, text, ARRAYS)
    assert_refused(path, message)
