"""DistributedDataParallel: two processes with half of the batch each take the steps of one with all of it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import helpers
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: the extra `torch` brings it")

if not torch.distributed.is_available():
    pytest.skip("torch was built without torch.distributed", allow_module_level=True)

from indygru_cpu.torch import IndyGRU  # noqa: E402

STEPS, T, B, D, N = 20, 9, 4, 3, 8


def test_two_processes_take_the_steps_of_one_with_the_whole_batch(run_script, tmp_path):
    x = np.random.default_rng(7).standard_normal((STEPS, T, 2 * B, D))
    np.save(tmp_path / "x.npy", x)

    def process(rank):
        run_script("torch/ddp_process.py", rank, tmp_path, N, GLOO_SOCKET_IFNAME="lo", MASTER_ADDR="127.0.0.1")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(process, range(2)))
    torch.manual_seed(0)
    module = IndyGRU(D, N, num_layers=2, bidirectional=True, dtype=torch.float64)
    before = {name: value.detach().clone() for name, value in module.named_parameters()}
    optimizer = torch.optim.SGD(module.parameters(), lr=0.3)
    for x_of_a_step in torch.from_numpy(x):
        optimizer.zero_grad()
        y, h_n = module(x_of_a_step)
        (y.square().mean() + h_n.mean()).backward()
        optimizer.step()
    results = [dict(np.load(tmp_path / f"{rank}.npz")) for rank in range(2)]
    helpers.assert_same_bits(results[0], results[1])
    for name, value in module.named_parameters():
        assert helpers.scaled_error(results[0][name], value.detach().numpy()) < 1e-6
        assert (value - before[name]).abs().max() > 0.01, name
