"""Inputs and options that the estimators refuse, with errors that name them; what they need and do not import."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn, of the extra sklearn, is not installed")

from estimators import fitted, quick, ragged, sequences

from indygru_cpu.sklearn import IndyGRUClassifier, IndyGRURegressor

BAD = {
    "2-D": (lambda X: np.ones((33, 3)), ValueError, r"X: expected \(n, T, D\).* got shape \(33, 3\)"),
    "no steps": (lambda X: np.ones((33, 0, 3)), ValueError, "at least one step a sequence"),
    "an empty one": (lambda X: [*X[:-1], X[0][:0]], ValueError, r"X\[32\]: expected at least one step"),
    "another width": (lambda X: [*X[:-1], X[0][:, :2]], ValueError,
                      r"X\[32\]: expected shape \(T, 3\), got \(\d+, 2\)"),
    "a vector": (lambda X: [*X[:-1], X[0][:, 0]], ValueError, r"X\[32\]: expected shape \(T, 3\)"),
    "mixed": (lambda X: [*X[:-1], X[0].astype(np.float32)], TypeError, "dtypes are never mixed"),
    "NaN": (lambda X: [*X[:-1], X[0] * np.nan], ValueError, "Input X contains NaN"),
    "infinity": (lambda X: [*X[:-1], X[0] + np.inf], ValueError, "infinity"),
    "none": (lambda X: [], ValueError, r"0 sample\(s\)"),
    "falling offsets": (lambda X: (ragged(X)[0], ragged(X)[1][::-1]), ValueError, "X: offsets"),
    "float offsets": (lambda X: (ragged(X)[0], ragged(X)[1] / 1), TypeError, "X: offsets: expected integers"),
    "offsets beyond": (lambda X: (ragged(X)[0][:-1], ragged(X)[1]), ValueError, "offsets: expected values from 0 to"),
    "equal offsets": (lambda X: (ragged(X)[0], np.insert(ragged(X)[1], 3, ragged(X)[1][3])), ValueError,
                      "none in sequence 3"),
    "flat values": (lambda X: (ragged(X)[0][:, 0], ragged(X)[1]), ValueError, "values of shape"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_bad_inputs_are_named(kind):
    X, slope = sequences()
    make, error, words = BAD[kind]
    with pytest.raises(error, match=words):
        fitted(quick(IndyGRURegressor), make(X), slope)
    model = fitted(quick(IndyGRURegressor), X, slope)
    with pytest.raises(error, match=words):
        model.predict(make(X))


def test_other_inputs_than_those_of_fit():
    X, slope = sequences()
    model = fitted(quick(IndyGRUClassifier), X, slope)
    with pytest.raises(ValueError, match="X has 2 features, but IndyGRUClassifier is expecting 3"):
        model.predict([each[:, :2] for each in X])
    with pytest.raises(TypeError, match="X has dtype float32, but IndyGRUClassifier was fitted with float64"):
        model.predict([each.astype(np.float32) for each in X])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        model.fit(X, slope[:-1] > 0)


@pytest.mark.parametrize(("option", "value"), [
    ("hidden_size", 0), ("hidden_size", 2.5), ("dropout", 1.0), ("alpha", -1e-3), ("max_iter", 0), ("batch_size", 0),
    ("learning_rate", 0.0), ("validation_fraction", 1.0), ("pooling", "median"), ("pooling", ()),
    ("pooling", ("mean", "mean")), ("noise", "much"), ("num_threads", 0),
])  # fmt: skip
def test_bad_options_are_named(option, value):
    X, slope = sequences()
    with pytest.raises((TypeError, ValueError), match=option):
        fitted(quick(IndyGRUClassifier, **{option: value}), X, slope)


def test_divergence_is_an_error():
    X, slope = sequences(dtype=np.float32)
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=r"diverged in epoch .* lower learning_rate"):
        fitted(quick(IndyGRURegressor, learning_rate=1e38), X, slope)


def test_a_bar_needs_tqdm(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)  # then importing it fails
    X, slope = sequences()
    with pytest.raises(ImportError, match=r'^verbose=True needs tqdm .*: pip install "indygru_cpu\[sklearn\]"$'):
        fitted(quick(IndyGRUClassifier, verbose=True), X, slope)


def test_only_who_uses_it_imports_it(run_python):
    code = """
        import sys, indygru_cpu
        assert not {"sklearn", "scipy", "joblib"} & sys.modules.keys()
        sys.modules["sklearn"] = None
        try:
            import indygru_cpu.sklearn
        except ImportError as error:
            print(error)
        """
    printed = run_python(code, PYTHONPATH=os.pathsep.join(sys.path))
    assert 'pip install "indygru_cpu[sklearn]"' in printed
