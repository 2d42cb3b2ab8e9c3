"""DistributedDataParallel: two processes, each with half of the batch, take the steps that one takes with all of it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import helpers
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed, and DistributedDataParallel is its own")

if not torch.distributed.is_available():
    pytest.skip("torch was built without torch.distributed", allow_module_level=True)

from indygru_cpu.torch import IndyGRU  # noqa: E402

STEPS, T, B, D, N = 20, 9, 4, 3, 8

PROCESS = """
    import sys
    from datetime import timedelta
    import numpy as np
    import torch
    from torch.nn.parallel import DistributedDataParallel
    from indygru_cpu.torch import IndyGRU

    rank, here, n = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{here}/meeting", rank=rank, world_size=2, timeout=timedelta(seconds=50))
    torch.set_num_threads(1)
    torch.manual_seed(rank)  # each has its own weights, until rank 0 gives its to all
    x = torch.from_numpy(np.load(f"{here}/x.npy")).chunk(2, dim=2)[rank]
    module = IndyGRU(x.shape[-1], n, num_layers=2, bidirectional=True, dtype=torch.float64)
    model = DistributedDataParallel(module)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    for x_of_a_step in x:
        optimizer.zero_grad()
        y, h_n = model(x_of_a_step)
        (y.square().mean() + h_n.mean()).backward()
        optimizer.step()
    np.savez(f"{here}/{rank}.npz", **{name: value.detach().numpy() for name, value in module.named_parameters()})
    torch.distributed.destroy_process_group()
"""


def test_two_processes_train_as_one(tmp_path):
    x = np.random.default_rng(7).standard_normal((STEPS, T, 2 * B, D))
    np.save(tmp_path / "x.npy", x)

    def process(rank):
        helpers.run_python(
            PROCESS, rank, tmp_path, N, folder=tmp_path, GLOO_SOCKET_IFNAME="lo", MASTER_ADDR="127.0.0.1"
        )

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
    found = [dict(np.load(tmp_path / f"{rank}.npz")) for rank in range(2)]
    helpers.assert_same_bits(found[0], found[1])
    for name, value in module.named_parameters():
        assert helpers.scaled_error(found[0][name], value.detach().numpy()) < 1e-6
        assert (value - before[name]).abs().max() > 0.01, name
