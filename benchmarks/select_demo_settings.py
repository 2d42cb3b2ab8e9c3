"""Choose the demo's settings by cross-validation on the training utterances alone.

Run ``python benchmarks/select_demo_settings.py`` (half an hour); it prints the table in CONTRIBUTING.md. Five folds,
stratified by speaker; each is scored by networks that learned from the other four. The lowest cross-entropy of the
held-out utterances counts: the accuracies differ by a few utterances only. The test utterances are never used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from indygru_cpu._demo_model import Part
from indygru_cpu.datasets import japanese_vowels
from indygru_cpu.sklearn import IndyGRUClassifier

ONE, ALL, TWO = {}, {"pooling": ("mean", "last", "max")}, {"bidirectional": True, "pooling": ("mean", "max")}
GRID: list[dict[str, Any]] = []
NETWORKS = (1, 3, 5)
SEEDS = (0, 1)  # of the folds


class Score(NamedTuple):
    """What networks of some settings reach together on held-out utterances: means over SEEDS."""

    settings: dict[str, Any]
    networks: int
    cross_entropy: float
    accuracy: float

    def __str__(self) -> str:
        """Format a line of the table."""
        text = ", ".join(f"{name}={value!r}" for name, value in self.settings.items())
        return f"| {text} | {self.networks} | {self.cross_entropy:.4f} | {self.accuracy:.2%} |"


def held_out(part: Part, settings: dict[str, Any], network: int, seed: int) -> np.ndarray:
    """Probabilities of all utterances, each held out once."""
    model = IndyGRUClassifier(**settings, random_state=network, num_threads=1)
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    return cross_val_predict(model, part.X, part.y, cv=folds, method="predict_proba")


def scores(part: Part, settings: dict[str, Any]) -> Iterator[Score]:
    """Of each number of networks: the mean of their probabilities is what scikit-learn's soft vote makes of them."""
    p = np.array([[held_out(part, settings, n, seed) for n in range(max(NETWORKS))] for seed in SEEDS])
    for count in NETWORKS:
        means = p[:, :count].mean(axis=1)
        found = [(log_loss(part.y, each), accuracy_score(part.y, each.argmax(axis=1))) for each in means]
        yield Score(settings, count, *np.mean(found, axis=0))


if __name__ == "__main__":
    print("| settings | networks | held-out cross-entropy | held-out accuracy |\n|---|---|---|---|")
    part = Part.of(japanese_vowels().train)
    for settings in GRID:
        for each in scores(part, settings):
            print(each, flush=True)
