"""One of two processes that train a module with DistributedDataParallel on half of the batch each.

Arguments: rank, a folder with x.npy (steps of training, T, 2 B, D), and the number of units. Saves its parameters.
"""

from __future__ import annotations

import sys
from datetime import timedelta

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from indygru_cpu.torch import IndyGRU

rank, folder, n_units = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
torch.distributed.init_process_group(
    "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2, timeout=timedelta(seconds=50)
)
torch.set_num_threads(1)
torch.manual_seed(rank)  # each process draws its own weights; rank 0's replace them
x = torch.from_numpy(np.load(f"{folder}/x.npy")).chunk(2, dim=2)[rank]
module = IndyGRU(x.shape[-1], n_units, num_layers=2, bidirectional=True, dtype=torch.float64)
model = DistributedDataParallel(module)
optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
for x_of_a_step in x:
    optimizer.zero_grad()
    y, h_n = model(x_of_a_step)
    (y.square().mean() + h_n.mean()).backward()
    optimizer.step()
np.savez(f"{folder}/{rank}.npz", **{name: value.detach().numpy() for name, value in module.named_parameters()})
torch.distributed.destroy_process_group()
