"""Print Dask's token of a layer, and the names of its results on an array and a bag."""

from __future__ import annotations

import dask
import dask.array
import dask.bag
import numpy as np

from indygru_cpu import IndyGRU
from indygru_cpu.dask import predict

layer = IndyGRU(9, 7, dropout=0.5, num_layers=2, seed=5)
x = dask.array.ones((17, 33, 9), chunks=(17, 8, 9), dtype=np.float32)
print(dask.base.tokenize(layer), predict(layer, x).name, predict(layer, dask.bag.from_sequence([1])).name)
