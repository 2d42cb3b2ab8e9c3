"""One of two processes that train a model with each mode of torch.distributed on half of the batch.

Arguments: rank, an empty folder, the name of the recurrent class, and modes. Prints a line of losses for each mode,
then one of a single model with the whole batch.
"""

from __future__ import annotations

import sys
import warnings
from datetime import timedelta

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.nn.parallel import DistributedDataParallel

from indygru_cpu.torch import IndyGRU

rank, folder, modes = int(sys.argv[1]), sys.argv[2], sys.argv[4:]
kind = {"IndyGRU": IndyGRU, "GRU": torch.nn.GRU}[sys.argv[3]]
warnings.simplefilter("ignore")  # FSDP warns on CPUs
torch.set_num_threads(1)
torch.distributed.init_process_group(
    "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2, timeout=timedelta(seconds=100)
)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = kind(4, 8, 2, bidirectional=True), torch.nn.Linear(16, 1)

    def forward(self, x):
        return self.head(self.rnn(x)[0])


def prepared(net, mode):
    """The model of a mode."""
    if mode == "ddp":
        return DistributedDataParallel(net)
    if mode == "fsdp1":
        policy = ModuleWrapPolicy({kind})
        return FullyShardedDataParallel(net, auto_wrap_policy=policy, device_id=torch.device("cpu"))
    mesh = init_device_mesh("cpu", (2,))
    fully_shard(net.rnn, mesh=mesh)
    fully_shard(net, mesh=mesh)
    return net


def losses(mode, x):
    """The losses of three steps."""
    torch.manual_seed(0)
    net = Net()
    model = net if mode is None else prepared(net, mode)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    values = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = (model(x) - 1).square().mean()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    return values


inputs = torch.randn(5, 4, 4, generator=torch.Generator().manual_seed(1))
for mode in modes:
    print(*losses(mode, inputs.chunk(2, dim=1)[rank]))
print(*losses(None, inputs))
torch.distributed.barrier()
torch.distributed.destroy_process_group()
