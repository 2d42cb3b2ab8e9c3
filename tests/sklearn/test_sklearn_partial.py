"""Streams of the estimators: a prefix of a sequence is answered as the same sequence is."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn, of the extra sklearn, is not installed")

from estimators import ESTIMATORS, answers, fitted, quick, sequences

from indygru_cpu.sklearn import IndyGRUClassifier, IndyGRURegressor


@pytest.mark.parametrize("pooling", ["mean", "last", "max", ("max", "last", "mean")], ids=str)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_partial_is_predict_on_the_prefix(estimator, pooling, dtype):
    X, slope = sequences(dtype=dtype)
    model = fitted(quick(estimator, pooling=pooling, num_layers=2), X, slope)
    partial = model.partial()
    for sequence in (each for each in X[:9] if len(each) > 4):
        cuts = [1, 2, 4, len(sequence)]  # a step, a chunk of one, of two, of the rest
        for begin, end in zip([0, *cuts], cuts, strict=False):
            partial.push(sequence[0] if end == 1 else sequence[begin:end])
            assert partial.n_steps == end
            found = partial.predict_proba() if estimator is IndyGRUClassifier else partial.predict()
            expected = answers(model, [sequence[:end]])[0]
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 if dtype == np.float64 else 5e-6)
            if estimator is IndyGRUClassifier:
                assert partial.predict() == model.predict([sequence[:end]])[0]
        partial.reset()


def test_partial_keeps_its_weights_and_can_be_pickled():
    X, slope = sequences()
    model = fitted(quick(IndyGRUClassifier), X, slope)
    sequence = max(X, key=len)
    partial = model.partial().push(sequence[:5])
    twin = pickle.loads(pickle.dumps(partial))
    expected = model.predict_proba([sequence])[0]
    fitted(model.set_params(random_state=1, pooling="max"), X, slope)
    for each in (partial, twin):
        np.testing.assert_allclose(each.push(sequence[5:]).predict_proba(), expected, atol=1e-12)


def test_partial_refuses():
    X, slope = sequences()
    partial = fitted(quick(IndyGRUClassifier), X, slope).partial()
    with pytest.raises(ValueError, match="at least one step"):
        partial.predict()
    partial.push(X[0])
    before = partial.predict_proba()
    for steps, error, words in [
        (np.full((2, 4), 0.5), ValueError, r"expected shape \(3,\) or \(T, 3\), got \(2, 4\)"),
        (np.full(3, 0.5, np.float32), TypeError, "expected float64, .* got float32"),
        (np.array([0.5, np.nan, 0.5]), ValueError, "finite"),
    ]:
        with pytest.raises(error, match=words):
            partial.push(steps)
    np.testing.assert_array_equal(partial.push(np.empty((0, 3))).predict_proba(), before)
    with pytest.raises(AttributeError, match="IndyGRURegressor has none"):
        fitted(quick(IndyGRURegressor), X, slope).partial().push(X[0]).predict_proba()
    with pytest.raises(ValueError, match="bidirectional=False"):
        fitted(quick(IndyGRUClassifier, bidirectional=True), X, slope).partial()
