"""What the tests of the estimators share: sequences with something to learn, and estimators that learn it quickly."""

from __future__ import annotations

import numpy as np

from indygru_cpu.sklearn import IndyGRUClassifier, IndyGRURegressor

ESTIMATORS = [IndyGRUClassifier, IndyGRURegressor]


def sequences(n=33, dtype=np.float64, seed=0, width=3):
    """Of 1 to 17 steps; and of each a number that is to be learned."""
    rng = np.random.default_rng(seed)
    X = [rng.standard_normal((length, width)).astype(dtype) for length in rng.integers(1, 18, n)]
    return X, np.array([each[-1, 0] + each[:, 1].mean() for each in X])


def ragged(X):
    return np.concatenate(X), np.cumsum([0, *map(len, X)])


def fitted(estimator, X, slope):
    classifies = isinstance(estimator, IndyGRUClassifier)
    return estimator.fit(X, np.where(slope > 0, "up", "down") if classifies else slope)


def answers(model, X):
    return model.predict_proba(X) if isinstance(model, IndyGRUClassifier) else model.predict(X)


def quick(estimator, **options):
    return estimator(9, **{"max_iter": 3, "learning_rate": 0.03, "random_state": 0, **options})
