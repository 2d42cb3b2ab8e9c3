"""Speaker classification on Dask: a layer with random weights over all utterances, a linear classifier on its states.

pip install "indygru_cpu[dask,sklearn]" && python examples/dask_speakers.py [WORKERS]

The layer is a reservoir, as in echo state networks: it is not trained, so that only its states are computed, in
any process. Japanese Vowels (doi 10.24432/C5NS47) comes with indygru_cpu.
"""

from __future__ import annotations

import sys

import dask.bag
import numpy as np
from distributed import Client, LocalCluster
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from indygru_cpu import IndyGRU
from indygru_cpu.dask import predict
from indygru_cpu.datasets import Utterances, japanese_vowels


def states(layer: IndyGRU, part: Utterances, workers: int) -> np.ndarray:
    utterances = [part.x[:length, i] for i, length in enumerate(part.lengths)]  # each (T_i, 12)
    bag = dask.bag.from_sequence(utterances, npartitions=4 * workers)
    last_states = predict(layer, bag, last=True).compute()
    return np.stack(last_states).reshape(len(last_states), -1)


def main() -> None:
    workers = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    train, test = japanese_vowels()
    layer = IndyGRU(12, 256, bidirectional=True, seed=0, reproducible=True)
    with LocalCluster(workers, threads_per_worker=1, dashboard_address=":0") as cluster, Client(cluster):
        features = [states(layer, part, workers) for part in (train, test)]
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    model.fit(features[0], train.speakers)
    print(f"Test accuracy: {100 * model.score(features[1], test.speakers):.1f}%")


if __name__ == "__main__":
    main()
