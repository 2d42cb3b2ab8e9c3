"""The ParaGRU of the package pararnn-torch, against its own paths on the CPU: sequential, and parallel in time."""

from __future__ import annotations

import helpers
import numpy as np
import pytest
from interop_helpers import B, D, N, T

from indygru_cpu import interop

pytest.importorskip("triton", reason="triton is not installed, and pararnn-torch needs it")
pararnn = pytest.importorskip("pararnn", reason="pararnn-torch is not installed")
torch = pytest.importorskip("torch")


@pytest.mark.parametrize("bound", [0.5, None])
@pytest.mark.parametrize("solve", [pararnn.sequential_apply, pararnn.newton_apply], ids=["sequential", "newton"])
def test_from_pararnn_computes_what_pararnn_torch_computes(solve, bound, dtype):
    """The bound is pararnn-torch's on recurrent weights. Newton's iterations end within a tolerance of 1e-5."""
    rng = np.random.default_rng(3)
    cell = pararnn.ParaGRU(D, N, max_recurrent_norm=bound).to(torch.from_numpy(np.zeros(1, dtype)).dtype)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.copy_(torch.from_numpy(rng.uniform(-0.9, 0.9, parameter.shape)))
    layer = interop.from_pararnn(
        torch.stack(cell.clipped_a()),
        cell.W_x.weight.view(3, N, D).permute(2, 0, 1)[None],
        cell.W_x.bias.view(3, N),
    )
    x = rng.standard_normal((B, T, D)).astype(dtype)
    h0 = rng.uniform(-1, 1, (B, N)).astype(dtype)
    with torch.no_grad():
        expected = solve(cell, torch.from_numpy(x), h0=torch.from_numpy(h0)).numpy()
    y, _ = layer(x, h0[None])
    if solve is pararnn.newton_apply:
        np.testing.assert_allclose(y, expected, rtol=0, atol=2e-5)
    else:
        helpers.assert_close({"y": y}, {"y": expected}, dtype)
