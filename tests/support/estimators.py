"""Shared by the tests of the estimators: learnable sequences, and small estimators."""

from __future__ import annotations

import numpy as np

from indygru_cpu.sklearn import IndyGRUClassifier, IndyGRURegressor

ESTIMATORS = [IndyGRUClassifier, IndyGRURegressor]


def random_sequences(n=33, dtype=np.float64, seed=0, width=3):
    """Sequences of 1 to 17 steps, and a learnable number for each."""
    rng = np.random.default_rng(seed)
    X = [rng.standard_normal((length, width)).astype(dtype) for length in rng.integers(1, 18, n)]
    return X, np.array([sequence[-1, 0] + sequence[:, 1].mean() for sequence in X])


def concatenate(X):
    """Values and offsets of a list of sequences."""
    return np.concatenate(X), np.cumsum([0, *map(len, X)])


def fit_estimator(estimator, X, slope):
    """Fit a classifier to the sign of `slope`, or a regressor to `slope`."""
    classifies = isinstance(estimator, IndyGRUClassifier)
    return estimator.fit(X, np.where(slope > 0, "up", "down") if classifies else slope)


def predictions(model, X):
    """Probabilities of a classifier, or predictions of a regressor."""
    return model.predict_proba(X) if isinstance(model, IndyGRUClassifier) else model.predict(X)


def small_estimator(estimator, **options):
    return estimator(9, **{"max_iter": 3, "learning_rate": 0.03, "random_state": 0, **options})
