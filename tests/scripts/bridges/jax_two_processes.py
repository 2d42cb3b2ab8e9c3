"""Gradients of a batch divided over two processes of JAX: arguments are the coordinator's port and the rank.

The process of rank 0 starts the other one, and prints the largest error of the gradients of both.
"""

from __future__ import annotations

import subprocess
import sys

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from indygru_cpu import IndyGRU
from indygru_cpu.jax import indygru

port, rank = map(int, sys.argv[1:])
peer = None if rank else subprocess.Popen([sys.executable, __file__, str(port), "1"])
jax.distributed.initialize(f"localhost:{port}", 2, rank)
rng = np.random.default_rng(0)
x, initial = rng.standard_normal((9, 8, 4), dtype=np.float32), IndyGRU(4, 5, seed=0).parameters
params = {name: initial[f"{name}_l0"] for name in ("kernel", "recurrent_kernel", "bias")}
mesh = jax.make_mesh((2,), ("batch",))
whole, rows = PartitionSpec(), PartitionSpec(None, "batch")


def loss(params, x):
    return (indygru(params, x)[0] ** 2).sum()


def loss_of_all_rows(params, x):
    return jax.lax.psum(loss(params, x), "batch")


expected = jax.tree.map(np.asarray, jax.grad(loss)(params, x))
own = slice(4 * rank, 4 * rank + 4)
divided_x = jax.make_array_from_process_local_data(NamedSharding(mesh, rows), x[:, own], x.shape)
divided_params = {
    name: jax.make_array_from_process_local_data(NamedSharding(mesh, whole), array) for name, array in params.items()
}
mapped = jax.shard_map(loss_of_all_rows, mesh=mesh, in_specs=(whole, rows), out_specs=whole)
errors = [0.0]
for function in (loss, mapped):
    gradients = jax.jit(jax.grad(function))(divided_params, divided_x)
    errors += [np.abs(np.asarray(gradients[name].addressable_data(0)) - expected[name]).max() for name in params]
assert max(errors) < 1e-4, errors
jax.distributed.shutdown()
if peer is not None:
    assert peer.wait(60) == 0
    print(f"largest error {max(errors):.1e}")
