"""Gate orders, checks that all converters share, and the ParaGRU of ParaRNN."""

from __future__ import annotations

from types import SimpleNamespace

import helpers
import numpy as np
import pytest
from foreign_cells import run_paragru
from interop_helpers import (
    N,
    assert_same_layer,
    expanded_kernel,
    layer_results,
    random_call,
    random_layer,
)

from indygru_cpu import IndyGRU, interop
from indygru_cpu.interop import _gate_orders as orders
from indygru_cpu.interop._weights import dense_kernel, import_optional

TO_CONVERTERS = [
    interop.to_torch,
    interop.to_keras,
    interop.to_onnx,
    interop.to_pararnn,
    interop.to_xma,
    interop.to_mingru,
]


# --- Gate orders -------------------------------------------------------------------------------------------


def test_gate_order_table_matches_the_documentation_of_each_library():
    assert [(row.gates, row.z_sign, row.bias_inside_reset) for row in orders.TABLE] == [
        ("rzc", 1, False),  # IndyGRU
        ("rzc", 1, True),  # torch
        ("zrc", 1, False), ("zrc", 1, True),  # Keras
        ("zrc", 1, False), ("zrc", 1, True),  # ONNX
        ("zrc", -1, False),  # ParaGRU
        ("czr", 1, False),  # XMA
        ("cz", -1, False), ("zc", -1, False),  # minGRU
    ]  # fmt: skip


@pytest.mark.parametrize("row", orders.TABLE, ids=lambda row: row.library)
def test_gate_order_round_trip_gives_the_same_bits(row):
    planes = np.random.default_rng(1).standard_normal((7, len(row.gates) * N))
    helpers.assert_same_bits(row.to_native(row.from_native(planes)), planes)
    helpers.assert_same_bits(row.from_native(row.to_native(planes)), planes)
    assert not np.shares_memory(row.to_native(planes), planes)
    assert row.to_native(planes.astype(np.float32)).dtype == np.float32


def test_gate_order_conversion_permutes_gates_and_negates_z():
    r, z, c = np.split(np.arange(2.0, 17), 3)
    np.testing.assert_array_equal(
        orders.KERAS_RESET_BEFORE.to_native(np.concatenate([z, r, c])), np.concatenate([r, z, c])
    )
    np.testing.assert_array_equal(orders.PARARNN.to_native(np.concatenate([z, r, c])), np.concatenate([r, -z, c]))
    np.testing.assert_array_equal(orders.PARARNN.from_native(np.concatenate([r, z, c])), np.concatenate([-z, r, c]))


# --- Layers without a reset gate ---------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "convert",
    [
        lambda layer: interop.from_torch(interop.to_torch(layer)),
        lambda layer: interop.from_keras(interop.to_keras(layer)[0]),
        lambda layer: interop.from_onnx(interop.to_onnx(layer)),
        lambda layer: interop.from_pararnn(**interop.to_pararnn(layer), batch_first=False),
        lambda layer: interop.from_xma(interop.to_xma(layer)),
    ],
    ids=["torch", "keras", "onnx", "pararnn", "xma"],
)
def test_layer_without_a_reset_gate_is_converted_to_one_whose_gate_is_open(convert, bias, dtype):
    layer = random_layer(dtype=dtype, bias=bias, reset_gate=False)
    converted = convert(layer)
    assert converted.reset_gate
    for name, array in converted.parameters.items():
        expected = 40 if name.startswith("bias") else 0
        np.testing.assert_array_equal(array[..., :N], np.full_like(array[..., :N], expected))
    call = random_call(layer)
    x = call["x"].swapaxes(0, 1) if converted.batch_first else call["x"]
    y, h_n = converted(x, call["h0"])
    y = y.swapaxes(0, 1) if converted.batch_first else y
    helpers.assert_close({"y": y, "h_n": h_n}, layer_results(layer, call), dtype)


# --- Shared checks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [1, 2])
def test_dense_kernel_of_groups_is_block_diagonal(groups):
    kernel = random_layer(groups=groups).parameters["kernel_l0"]
    helpers.assert_same_bits(dense_kernel(kernel, groups), expanded_kernel(kernel, groups))
    if groups == 2:
        assert (dense_kernel(kernel, groups) == 0).mean() == 0.5


@pytest.mark.parametrize("convert", TO_CONVERTERS)
@pytest.mark.parametrize("wrong", [None, {"kernel_l0": 3}, IndyGRU])
def test_converter_of_something_else_than_a_layer_raises_type_error(convert, wrong):
    with pytest.raises(TypeError, match="layer: expected an IndyGRU, got "):
        convert(wrong)


PARAGRU = interop.to_pararnn(random_layer(groups=2))


def test_options_are_passed_to_the_layer_and_unknown_ones_raise():
    layer = interop.from_pararnn(**PARAGRU, num_threads=1, reproducible=True, dropout=0.25, batch_first=False)
    assert (layer.num_threads, layer.reproducible, layer.dropout, layer.batch_first) == (1, True, 0.25, False)
    with pytest.raises(TypeError, match=r"^hidden_size: unknown; "):
        interop.from_pararnn(**PARAGRU, hidden_size=N)


@pytest.mark.parametrize(
    ("wrong", "error", "text"),
    [
        ({"tolerance": "no"}, TypeError, "tolerance: expected a number, got 'no'"),
        ({"tolerance": True}, TypeError, "tolerance: expected a number, got True"),
        ({"tolerance": -0.1}, ValueError, "tolerance: expected at least 0, got -0.1"),
        ({"tolerance": float("nan")}, ValueError, "tolerance: expected at least 0, got nan"),
        ({"project": "rows"}, ValueError, "project: expected None or \"diagonal\", got 'rows'"),
    ],
)
def test_wrong_tolerance_or_project_raises(wrong, error, text):
    for convert in (interop.from_torch, interop.from_keras):
        with pytest.raises(error, match=f"^{text}$"):
            convert({}, **wrong)


def test_import_of_interop_imports_no_optional_library(run_script):
    assert run_script("interop/import_without_libraries.py") == "set()"


@pytest.mark.parametrize(("package", "convert"), [("torch", "to_torch"), ("onnx", "to_onnx")])
def test_missing_library_raises_import_error_that_names_the_extra(package, convert, run_script):
    text = run_script("interop/convert_without_package.py", package, convert, status=1)
    assert text.endswith(f'ImportError: {package} is missing: pip install "indygru_cpu[interop]"')


def test_library_whose_own_import_fails_raises_that_error(tmp_path, monkeypatch):
    (tmp_path / "broken_library.py").write_text("import missing_dependency")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="No module named 'missing_dependency'"):
        import_optional("broken_library")


# --- ParaGRU -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("direction", ["from", "to"])
def test_pararnn_conversion_computes_the_published_equations(heads, direction, dtype):
    layer = random_layer(groups=heads, dtype=dtype, batch_first=True)
    weights = interop.to_pararnn(layer)
    if direction == "from":
        rng = np.random.default_rng(heads)
        weights = {name: rng.uniform(-1, 1, array.shape).astype(dtype) for name, array in weights.items()}
        layer = interop.from_pararnn(**weights)
    assert (layer.groups, layer.batch_first) == (heads, True)
    x = random_call(layer)["x"]
    expected = run_paragru(x.astype(np.float64), **{name: array.astype(np.float64) for name, array in weights.items()})
    helpers.assert_close(layer_results(layer, {"x": x}), expected, dtype)


@pytest.mark.parametrize("heads", [1, 2])
def test_pararnn_round_trip_gives_the_same_bits(heads, dtype):
    layer = random_layer(groups=heads, dtype=dtype, activation="elu")
    weights = interop.to_pararnn(layer)
    back = interop.from_pararnn(**weights, activation="elu")
    assert_same_layer(back, layer)
    helpers.assert_same_bits(interop.to_pararnn(back), weights)
    weights["A"][...] = 3
    assert_same_layer(back, layer)


def test_pararnn_of_a_layer_without_bias_has_a_bias_of_zeros():
    layer = random_layer(bias=False)
    weights = interop.to_pararnn(layer)
    assert not weights["b"].any()
    call = {"x": random_call(layer)["x"]}
    again = interop.from_pararnn(**weights, batch_first=False)
    helpers.assert_same_bits(layer_results(again, call), layer_results(layer, call))


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"A": np.ones((2, 10))}, ValueError, r"A: expected shape \(3, N\), got \(2, 10\)"),
        ({"b": np.ones((3, 9))}, ValueError, r"b: expected shape \(3, 10\), got \(3, 9\)"),
        ({"B": np.ones((2, 3, 3, 4))}, ValueError, r"B: expected shape \(2, 3, 3, 5\), got \(2, 3, 3, 4\)"),
        ({"B": np.ones((4, 3, 3, 2))}, ValueError,
         "B: expected a number of heads that divides the 10 units of A, got 4"),
        ({"B": np.ones((0, 3, 3, 2))}, ValueError, r"B: expected an array with values, got shape \(0, 3, 3, 2\)"),
        ({"B": np.ones((6, 30))}, ValueError, r"B: expected shape \(heads, D/heads, 3, N/heads\), got \(6, 30\)"),
        ({"b": np.ones((3, 10), np.float32)}, TypeError, "b has dtype float32, but A has float64: dtypes"),
        ({"A": np.ones((3, 10), np.float16)}, TypeError, "A: expected an array of float32 or float64, got float16"),
        ({"A": "no"}, TypeError, "A: expected an array of float32 or float64"),
        ({"activation": "gelu"}, ValueError, "activation: expected one of tanh, "),
    ],
)  # fmt: skip
def test_from_pararnn_of_wrong_weights_raises(changes, error, text):
    with pytest.raises(error, match=f"^{text}"):
        interop.from_pararnn(**PARAGRU | changes)


@pytest.mark.parametrize("source", ["mapping", "prefix", "module"])
def test_from_pararnn_of_a_state_dict_gives_the_layer_of_its_arrays(source):
    state_dict = {f"cell.{name}": value for name, value in PARAGRU.items()} if source == "prefix" else PARAGRU
    prefix = "cell." if source == "prefix" else ""
    cell = SimpleNamespace(state_dict=lambda: PARAGRU) if source == "module" else state_dict
    assert_same_layer(interop.from_pararnn(cell, prefix=prefix), interop.from_pararnn(**PARAGRU))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"A": PARAGRU["A"]}, "A, B, b: expected three arrays, or a mapping as A; got A alone$"),
        (
            PARAGRU | {"A": PARAGRU},
            "A, B, b: expected three arrays, or a mapping as A; got B and b beside dict$",
        ),
        ({"A": PARAGRU["A"], "B": PARAGRU["B"]}, "A, B, b: expected three arrays, or a mapping as A; got no b$"),
        ({"A": PARAGRU, "b": PARAGRU["b"]}, "A, B, b: expected three arrays, or a mapping as A; got no B$"),
        ({"A": 7}, "A: expected a mapping of names or a ParaGRU, got int"),
    ],
)
def test_from_pararnn_of_other_arguments_raises(arguments, text):
    with pytest.raises(TypeError, match=f"^{text}"):
        interop.from_pararnn(**arguments)


def test_from_pararnn_of_three_arrays_with_a_prefix_raises():
    with pytest.raises(ValueError, match=r"^prefix: expected '' for three arrays, got 'cell\.'$"):
        interop.from_pararnn(**PARAGRU, prefix="cell.")


@pytest.mark.parametrize("options", [{"num_layers": 2}, {"bidirectional": True}])
def test_to_pararnn_of_a_stack_or_bidirectional_layer_raises(options):
    with pytest.raises(
        ValueError,
        match=r"^layer: expected num_layers=1 and bidirectional=False, .* got num_layers=. and bidirectional=",
    ):
        interop.to_pararnn(random_layer(**options))
