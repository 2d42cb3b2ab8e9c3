"""Choose the demo's settings by cross-validation on the training utterances alone.

Run ``python benchmarks/select_demo_settings.py`` (half an hour); it prints the table in docs/verification.md. Five
folds, stratified by speaker; each is scored by networks trained on the other four. The criterion is the cross-entropy
of the held-out utterances, because the accuracies differ by a few utterances only. The test utterances are never used.
"""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

import numpy as np
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from indygru_cpu._cli.demo_model import SpeakerData
from indygru_cpu.datasets import japanese_vowels
from indygru_cpu.sklearn import IndyGRUClassifier

Settings = dict[str, Any]

ALL: Settings = {"pooling": ("mean", "last", "max")}
BOTH: Settings = {"bidirectional": True, "pooling": ("mean", "max")}
NOISY: Settings = {"dropout": 0.3, "noise": 0.3}
#: First pass, two networks each: pooling and directions; then size, penalty, training, dropout and noise.
FIRST: list[Settings] = [
    *({"pooling": pooling} for pooling in ("mean", "last", ("mean", "last"), ("mean", "max"))),
    *({"bidirectional": True, "pooling": pooling} for pooling in ("mean", ("mean", "last"), ("mean", "last", "max"))),
    *({"hidden_size": 128, "pooling": pooling} for pooling in ("mean", ("mean", "last"), ("mean", "last", "max"))),
    {"bidirectional": True, "pooling": "mean", "hidden_size": 128},
    {"pooling": ("mean", "last"), "alpha": 1e-3},
    *({**ALL, "alpha": alpha} for alpha in (1e-3, 1e-5)),
    *({**ALL, name: 0.3} for name in ("dropout", "noise")),
    *({**ALL, **each} for each in ({"max_iter": 100}, {"num_layers": 2}, {"hidden_size": 32}, {"batch_size": 16})),
    {**ALL, "max_iter": 100, "learning_rate": 0.003},
    {**ALL, "dropout": 0.3, "noise": 0.5},
    {**ALL, "dropout": 0.5},
    *({**BOTH, "alpha": alpha} for alpha in (1e-3, 1e-5)),
    *({**BOTH, name: 0.3} for name in ("dropout", "noise")),
    {**BOTH, "hidden_size": 32},
    {"bidirectional": True, "pooling": "mean", "dropout": 0.3},
]
#: Second pass, five networks each: the best settings of the first pass and similar ones.
SECOND: list[Settings] = [
    ALL,
    BOTH,
    {"bidirectional": True, "pooling": "mean"},
    {**ALL, **NOISY},
    {**ALL, **NOISY, "dropout": 0.5},
    {**ALL, **NOISY, "max_iter": 100},
    {**ALL, **NOISY, "batch_size": 16},
    {**ALL, **NOISY, "dropout": 0.5, "batch_size": 16},
    {**ALL, **NOISY, "noise": 0.5, "batch_size": 16},
    {**BOTH, **NOISY},
]
SEEDS = (0, 1)  # of the folds


class Score(NamedTuple):
    """Scores on held-out utterances: means over SEEDS."""

    cross_entropy: float
    accuracy: float

    def __str__(self) -> str:
        """Format two columns of the table."""
        return f"{self.cross_entropy:.4f} | {100 * self.accuracy:.2f} %"


def held_out(part: SpeakerData, settings: Settings, network: int, seed: int) -> np.ndarray:
    """Probabilities (270, 9) of all utterances, each held out once."""
    model = IndyGRUClassifier(**settings, random_state=network, num_threads=1)
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    return cross_val_predict(model, part.X, part.y, cv=folds, method="predict_proba")


def scores(y: np.ndarray, p: np.ndarray) -> tuple[Score, Score]:
    """Scores of p (seeds, networks, 270, 9): mean over single networks, and of their mean probability (soft vote)."""

    def score(candidates: np.ndarray) -> Score:
        return Score(*np.mean([(log_loss(y, p), accuracy_score(y, p.argmax(axis=1))) for p in candidates], axis=0))

    return score(p.reshape(-1, *p.shape[2:])), score(p.mean(axis=1))


def line(settings: Settings, networks: int, y: np.ndarray, p: np.ndarray) -> str:
    """Format a line of the table."""
    text = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    alone, together = scores(y, p)
    return f"| {text} | {alone} | {networks} | {together} |"


if __name__ == "__main__":
    part = SpeakerData.from_utterances(japanese_vowels().train)
    print("| settings | alone: cross-entropy | accuracy | networks | together: cross-entropy | accuracy |")
    print("|---|---|---|---|---|---|")
    for settings, networks in (*product(FIRST, [2]), *product(SECOND, [5])):
        p = np.array([[held_out(part, settings, n, seed) for n in range(networks)] for seed in SEEDS])
        print(line(settings, networks, part.y, p), flush=True)
