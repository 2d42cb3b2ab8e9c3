"""The page docs/which_cell.md: its table matches the gate orders, and the layer computes its equations."""

from __future__ import annotations

import helpers
import numpy as np
import pytest
from foreign_cells import sigmoid, unroll
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
    layer = random_layer(batch_first=True)
    call, planes = random_call(layer), layer.parameters
    kernels, recurrent, biases = (
        np.split(row.from_native(planes[f"{kind}_l0"]), len(row.gates), axis=-1)
        for kind in ("kernel", "recurrent_kernel", "bias")
    )

    def step(i, h):
        values = {"tanh": np.tanh, "x": call["x"][:, i], "h": h}
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
