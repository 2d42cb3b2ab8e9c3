"""Speaker classification on Spark: a layer with random weights over all utterances, a linear classifier on its states.

pip install "indygru_cpu[spark,sklearn]" && python examples/spark_speakers.py [WORKERS]      # needs Java

The layer is a reservoir, as in echo state networks: it is not trained, so that only its states are computed, in
any process. Japanese Vowels (doi 10.24432/C5NS47) comes with indygru_cpu.
"""

from __future__ import annotations

import sys

import numpy as np
from pyspark.sql import SparkSession
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from indygru_cpu import IndyGRU
from indygru_cpu.datasets import japanese_vowels
from indygru_cpu.spark import predict


def main() -> None:
    workers = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    data = japanese_vowels()
    rows = [
        (name, int(speaker), part.x[:length, i].ravel().tolist())  # 12 numbers a step
        for name, part in zip(("train", "test"), data, strict=True)
        for i, (length, speaker) in enumerate(zip(part.lengths, part.speakers, strict=True))
    ]
    layer = IndyGRU(12, 256, bidirectional=True, seed=0, reproducible=True)
    spark = SparkSession.builder.master(f"local[{workers}]").config("spark.ui.enabled", "false").getOrCreate()
    frame = spark.createDataFrame(rows, "part string, speaker int, x array<float>")
    states = predict(layer, frame, output="state", last=True).drop("x").collect()
    spark.stop()
    X = np.float32([row.state for row in states]).reshape(len(states), -1)
    speakers = np.array([row.speaker for row in states])
    is_train = np.array([row.part == "train" for row in states])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    model.fit(X[is_train], speakers[is_train])
    print(f"Test accuracy: {100 * model.score(X[~is_train], speakers[~is_train]):.1f}%")


if __name__ == "__main__":
    main()
