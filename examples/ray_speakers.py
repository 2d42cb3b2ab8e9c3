"""Speaker classification on Ray: a layer with random weights over all utterances, a linear classifier on its states.

pip install "indygru_cpu[ray,sklearn]" && python examples/ray_speakers.py [WORKERS]

The layer is a reservoir, as in echo state networks: it is not trained, so that only its states are computed, in
any process. Japanese Vowels (doi 10.24432/C5NS47) comes with indygru_cpu.
"""

from __future__ import annotations

import sys

import numpy as np
import ray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from indygru_cpu import IndyGRU
from indygru_cpu.datasets import japanese_vowels
from indygru_cpu.ray import predict


def main() -> None:
    workers = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    data = japanese_vowels()
    rows = [
        {"part": name, "speaker": speaker, "x": part.x[:length, i]}  # (T_i, 12)
        for name, part in zip(("train", "test"), data, strict=True)
        for i, (length, speaker) in enumerate(zip(part.lengths, part.speakers, strict=True))
    ]
    layer = IndyGRU(12, 256, bidirectional=True, seed=0, reproducible=True)
    ray.init(num_cpus=workers, include_dashboard=False)
    actors = ray.data.ActorPoolStrategy(size=workers)
    states = predict(layer, ray.data.from_items(rows), output="state", last=True, compute=actors)
    frame = states.drop_columns(["x"]).to_pandas()
    ray.shutdown()
    X, is_train = np.stack(frame["state"]).reshape(len(frame), -1), frame["part"] == "train"
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    model.fit(X[is_train], frame["speaker"][is_train])
    print(f"Test accuracy: {100 * model.score(X[~is_train], frame['speaker'][~is_train]):.1f}%")


if __name__ == "__main__":
    main()
