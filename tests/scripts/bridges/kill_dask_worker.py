"""Run a layer on two Dask workers and kill one that holds results.

Prints the number of blocks, the number of new workers, and whether the results have the bits of a single process.
"""

from __future__ import annotations

import os
import signal
import time

import dask.array
import numpy as np
from distributed import Client, LocalCluster

from indygru_cpu import IndyGRU
from indygru_cpu.dask import predict


def delay_block(block):
    """Most blocks are then usually pending when the worker is killed."""
    time.sleep(0.2)
    return block


def result_bytes(layer, x):
    return layer(x, num_threads=1)[0].tobytes()


if __name__ == "__main__":
    layer = IndyGRU(9, 33, num_layers=2, bidirectional=True, seed=0, reproducible=True)
    x = np.random.default_rng(0).standard_normal((40, 100, 9), dtype=np.float32)
    lengths = np.random.default_rng(1).integers(0, 41, 100)
    expected = layer(x, lengths=lengths)[0]
    with LocalCluster(2, threads_per_worker=1, dashboard_address=":0") as cluster, Client(cluster) as client:
        client.wait_for_workers(2)
        assert set(client.run(result_bytes, layer, x).values()) == {layer(x)[0].tobytes()}
        before = client.run(os.getpid)
        blocks = dask.array.from_array(x, chunks=(40, 9, 9)).map_blocks(delay_block, dtype=x.dtype)
        y = predict(layer, blocks, lengths=lengths).persist(optimize_graph=False)
        futures = client.futures_of(y)
        while not (holders := [workers for workers in client.who_has(futures).values() if workers]):
            time.sleep(0.01)
        os.kill(before[holders[0][0]], signal.SIGKILL)
        actual = y.compute()
        client.wait_for_workers(2)
        n_new = len(set(client.run(os.getpid).values()) - set(before.values()))
        print(len(futures), n_new, actual.shape == expected.shape and actual.tobytes() == expected.tobytes())
