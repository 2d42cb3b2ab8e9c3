"""The page docs/which_cell.md: its table matches the gate orders, and the layer computes its equations."""

from __future__ import annotations

import re

import helpers
import numpy as np
import pytest
from foreign_cells import g, sigmoid, unroll
from interop_helpers import D, N, layer_results, random_call, random_layer

from indygru_cpu import interop
from indygru_cpu.interop._gate_orders import INDYGRU, TABLE

PAGE = (helpers.ROOT / "docs" / "which_cell.md").read_text(encoding="utf-8")


def symbol(row, gate):
    """The library's name of a gate or of the candidate, or None."""
    return dict(zip(row.gates, row.symbols, strict=True)).get(gate)


def test_table_of_the_page_matches_the_gate_orders():
    share = {1: "old state", -1: "new state"}
    rows = [
        [
            row.library,
            f"`{symbol(row, 'r')}`" if "r" in row.gates else "none",
            f"`{symbol(row, 'z')}`",
            f"`{symbol(row, 'c')} = {row.candidate}`",
            f"`{row.update}`",
            share[row.z_sign],
            f"`{row.importer}`" if row.importer else "",
        ]
        for row in TABLE
    ]
    table = PAGE.split("|---|---|---|---|---|---|---|\n")[1].split("\n\n")[0]
    assert table.splitlines() == [f"| {' | '.join(row)} |".replace("|  |", "| |") for row in rows]


def test_every_importer_has_a_row():
    importers = {name for name in interop.__all__ if name.startswith("from_")}
    assert {row.importer for row in TABLE if row is not INDYGRU} == importers


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.library)
def test_layer_computes_the_equations_of_every_row(row):
    """Weights are converted to the order of the library, and its expressions are evaluated step by step."""
    has_reset_gate = "r" in row.gates
    activation = "tanh" if has_reset_gate else "mingru" if "g(" in row.candidate else "identity"
    layer = random_layer(batch_first=True, reset_gate=has_reset_gate, activation=activation)
    call, planes = random_call(layer), layer.parameters
    if not has_reset_gate:  # the equations of minGRU have no recurrent kernel
        planes["recurrent_kernel_l0"][...] = 0
    if not re.search(r"\bb\b", row.candidate):
        planes["bias_l0"][...] = 0
    kernels, recurrent, biases = (
        np.split(row.from_native(planes[f"{kind}_l0"]), len(row.gates), axis=-1)
        for kind in ("kernel", "recurrent_kernel", "bias")
    )

    def step(i, h):
        values = {"tanh": np.tanh, "g": g, "x": call["x"][:, i], "h": h}
        for gate, name, W, u, b in zip(row.gates, row.symbols, kernels, recurrent, biases, strict=True):
            if gate == "c":
                values |= {"W": W, "u": u, "U": np.diag(u), "b": b, "d": np.zeros(N)}
            else:
                values[name] = sigmoid(values["x"] @ W + u * h + b)
        values[symbol(row, "c")] = eval(row.candidate, {}, values)
        return eval(row.update, {}, values)

    assert call["x"].shape[2] == D
    helpers.assert_close(layer_results(layer, call), unroll(step, call["h0"][0], call["x"].shape[1]), np.float64)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.library)
def test_a_large_bias_of_the_update_gate_keeps_the_share_that_the_table_names(row):
    values = dict.fromkeys(row.symbols, 0.0) | {"h": 1.0, symbol(row, "z"): sigmoid(20.0)}
    np.testing.assert_allclose(eval(row.update, {}, values), {1: 1, -1: 0}[row.z_sign], atol=1e-8)


def special_case(recurrent_kernel_of_z, activation):
    """A layer without a reset gate whose candidate does not depend on the state, and its weights (z, candidate)."""
    layer = random_layer(batch_first=True, reset_gate=False, activation=activation)
    u_z, u_c = np.split(layer.parameters["recurrent_kernel_l0"], 2)
    u_z *= recurrent_kernel_of_z
    u_c[...] = 0
    (W_z, W_c), (b_z, b_c) = (np.split(layer.parameters[f"{kind}_l0"], 2, axis=-1) for kind in ("kernel", "bias"))
    b_c[...] = 0
    return layer, (W_z, u_z, b_z, W_c)


@pytest.mark.parametrize(("cell", "recurrent", "activation"), [("SRU", 1, "identity"), ("QRNN", 0, "tanh")])
def test_layer_computes_the_recurrences_inside_sru_and_qrnn(cell, recurrent, activation):
    """SRU: f = sigmoid(W_f x + v_f c + b_f), c' = f c + (1 - f) W x. QRNN: the same with v_f = 0 and tanh(W x)."""
    layer, (W_f, v_f, b_f, W) = special_case(recurrent, activation)
    call = random_call(layer)

    def step(i, c):
        x = call["x"][:, i]
        f = sigmoid(x @ W_f + v_f * c + b_f)
        return f * c + (1 - f) * {"SRU": x @ W, "QRNN": np.tanh(x @ W)}[cell]

    helpers.assert_close(layer_results(layer, call), unroll(step, call["h0"][0], call["x"].shape[1]), np.float64)
