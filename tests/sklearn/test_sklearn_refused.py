"""Wrong inputs, options and missing packages: errors of the estimators."""

from __future__ import annotations

import sys

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn, of the extra sklearn, is not installed")

from estimators import concatenate, fit_estimator, random_sequences, small_estimator

from indygru_cpu.sklearn import IndyGRUClassifier, IndyGRURegressor

WRONG_X = {
    "2-D": (lambda X: np.ones((33, 3)), ValueError, r"X: expected \(n, T, D\).* got shape \(33, 3\)"),
    "no steps": (lambda X: np.ones((33, 0, 3)), ValueError,
                 r"X: expected at least one step per sequence, got shape \(33, 0, 3\)"),
    "an empty sequence": (lambda X: [*X[:-1], X[0][:0]], ValueError, r"X\[32\]: expected at least one step"),
    "different widths": (lambda X: [*X[:-1], X[0][:, :2]], ValueError,
                         r"X\[32\]: expected shape \(T, 3\), got \(\d+, 2\)"),
    "a vector": (lambda X: [*X[:-1], X[0][:, 0]], ValueError, r"X\[32\]: expected shape \(T, 3\)"),
    "NaN": (lambda X: [*X[:-1], X[0] * np.nan], ValueError, "Input X contains NaN"),
    "infinity": (lambda X: [*X[:-1], X[0] + np.inf], ValueError, "infinity"),
    "no sequences": (lambda X: [], ValueError, r"0 sample\(s\)"),
    "decreasing offsets": (lambda X: (concatenate(X)[0], concatenate(X)[1][::-1]), ValueError, "X: offsets"),
    "float offsets": (lambda X: (concatenate(X)[0], concatenate(X)[1] / 1), TypeError, "X: offsets: expected integers"),
    "offsets beyond the end": (lambda X: (concatenate(X)[0][:-1], concatenate(X)[1]), ValueError,
                               "offsets: expected values from 0 to"),
    "equal offsets": (lambda X: (concatenate(X)[0], np.insert(concatenate(X)[1], 3, concatenate(X)[1][3])), ValueError,
                      "X: expected at least one step per sequence, got none in sequence 3"),
    "flat values": (lambda X: (concatenate(X)[0][:, 0], concatenate(X)[1]), ValueError,
                    r"X: expected values of shape \(S, D\) beside offsets, got"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG_X)
def test_wrong_x_raises_in_fit_and_predict(kind):
    X, slope = random_sequences()
    change, error, text = WRONG_X[kind]
    with pytest.raises(error, match=text):
        fit_estimator(small_estimator(IndyGRURegressor), change(X), slope)
    model = fit_estimator(small_estimator(IndyGRURegressor), X, slope)
    with pytest.raises(error, match=text):
        model.predict(change(X))


def test_inputs_that_differ_from_those_of_fit_raise():
    X, slope = random_sequences()
    model = fit_estimator(small_estimator(IndyGRUClassifier), X, slope)
    with pytest.raises(ValueError, match="X has 2 features, but IndyGRUClassifier is expecting 3"):
        model.predict([sequence[:, :2] for sequence in X])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        model.fit(X, slope[:-1] > 0)


@pytest.mark.parametrize(("option", "value"), [
    ("hidden_size", 0), ("hidden_size", 2.5), ("dropout", 1.0), ("alpha", -1e-3), ("max_iter", 0), ("batch_size", 0),
    ("learning_rate", 0.0), ("validation_fraction", 1.0), ("pooling", "median"), ("pooling", ()),
    ("pooling", ("mean", "mean")), ("noise", "much"), ("num_threads", 0),
])  # fmt: skip
def test_wrong_option_raises_an_error_that_names_it(option, value):
    X, slope = random_sequences()
    with pytest.raises((TypeError, ValueError), match=option):
        fit_estimator(small_estimator(IndyGRUClassifier, **{option: value}), X, slope)


def test_divergence_raises_value_error():
    X, slope = random_sequences(dtype=np.float32)
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=r"diverged in epoch .* lower learning_rate"):
        fit_estimator(small_estimator(IndyGRURegressor, learning_rate=1e38), X, slope)


def test_verbose_without_tqdm_raises_import_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)  # importing it raises ImportError
    X, slope = random_sequences()
    with pytest.raises(ImportError, match=r'^verbose=True needs tqdm .*: pip install "indygru_cpu\[sklearn\]"$'):
        fit_estimator(small_estimator(IndyGRUClassifier, verbose=True), X, slope)


def test_import_of_the_package_does_not_import_sklearn_and_the_error_names_the_extra(run_script):
    assert 'pip install "indygru_cpu[sklearn]"' in run_script("sklearn/import_without_sklearn.py")
