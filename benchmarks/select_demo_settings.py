"""Choose the demo's width, penalty and iterations by cross-validation on the training utterances alone.

Run ``python benchmarks/select_demo_settings.py`` (four minutes); it prints the table in CONTRIBUTING.md.
Five folds, stratified by speaker; each is scored by a model of the other four, which also give the mean and
deviation of the standardisation. The lowest cross-entropy of the held-out utterances wins: the accuracies
differ by a few utterances only. The test utterances are never used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from indygru_cpu._demo_model import SpeakerModel, cross_entropy, standardised, train
from indygru_cpu.datasets import JapaneseVowels, Utterances, japanese_vowels

WIDTHS = (32, 64, 128)
PENALTIES = (1e-6, 1e-5, 1e-4, 1e-3)
ITERATIONS = (25, 50, 100)
SEEDS = (0, 1, 2)


class Score(NamedTuple):
    """What a setting reaches on held-out utterances: means over folds and seeds."""

    hidden_size: int
    penalty: float
    iterations: int
    cross_entropy: float
    accuracy: float


def folds(part: Utterances, n_folds: int, seed: int) -> Iterator[JapaneseVowels]:
    """Split the utterances into those to train on and those held out, each speaker alike."""
    shuffled = np.random.default_rng(seed).permutation(len(part.speakers))
    by_speaker = shuffled[np.argsort(part.speakers[shuffled], kind="stable")]
    for fold in range(n_folds):
        held_out = np.isin(np.arange(len(shuffled)), by_speaker[fold::n_folds])
        yield JapaneseVowels(part.select(~held_out), part.select(held_out))


def path(
    split: JapaneseVowels, hidden_size: int, penalty: float, iterations: Sequence[int], seed: int
) -> list[tuple[float, float]]:
    """Held-out cross-entropy and accuracy of one training run after so many iterations."""
    data, _ = standardised(split, np.float64)
    model = SpeakerModel((12, hidden_size, 9), dtype=np.float64, seed=seed, num_threads=1)
    seen: list[tuple[float, float]] = []

    def after_each(_: float) -> None:
        logits = model.logits(data.test)
        loss, _gradient = cross_entropy(logits, data.test.speakers)
        seen.append((loss, float((logits.argmax(axis=1) == data.test.speakers).mean())))

    train(model, data.train, penalty, max(iterations), after_each)
    return [seen[min(count, len(seen)) - 1] for count in iterations]


def scores(part: Utterances) -> list[Score]:
    """All settings of the grid, best first."""
    found = []
    grid = list(product(WIDTHS, PENALTIES))
    for hidden_size, penalty in tqdm(grid, disable=None):
        runs = [
            path(split, hidden_size, penalty, ITERATIONS, seed)
            for seed in SEEDS
            for split in folds(part, n_folds=5, seed=seed)
        ]
        for iterations, (loss, accuracy) in zip(ITERATIONS, np.mean(runs, axis=0), strict=True):
            found.append(Score(hidden_size, penalty, iterations, loss, accuracy))
    return sorted(found, key=lambda score: score.cross_entropy)


if __name__ == "__main__":
    print("| hidden_size | penalty | iterations | held-out cross-entropy | held-out accuracy |")
    print("|---|---|---|---|---|")
    for size, penalty, iterations, loss, accuracy in scores(japanese_vowels().train):
        print(f"| {size} | {penalty:g} | {iterations} | {loss:.4f} | {accuracy:.2%} |")
