"""Incremental prediction: `Partial` gives the predictions of the estimator for the steps so far."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn, of the extra sklearn, is not installed")

from estimators import ESTIMATORS, fit_estimator, predictions, random_sequences, small_estimator

from indygru_cpu.sklearn import IndyGRUClassifier, IndyGRURegressor


@pytest.mark.parametrize("pooling", ["mean", "last", "max", ("max", "last", "mean")], ids=str)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_partial_gives_the_predictions_of_each_prefix(estimator, pooling, dtype):
    X, slope = random_sequences(dtype=dtype)
    model = fit_estimator(small_estimator(estimator, pooling=pooling, num_layers=2), X, slope)
    partial = model.partial()
    for sequence in (sequence for sequence in X[:9] if len(sequence) > 4):
        cuts = [1, 2, 4, len(sequence)]  # one step, then chunks of 1, 2 and all remaining steps
        for begin, end in zip([0, *cuts], cuts, strict=False):
            partial.push(sequence[0] if end == 1 else sequence[begin:end])
            assert partial.n_steps == end
            actual = partial.predict_proba() if estimator is IndyGRUClassifier else partial.predict()
            expected = predictions(model, [sequence[:end]])[0]
            np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12 if dtype == np.float64 else 5e-6)
            if estimator is IndyGRUClassifier:
                assert partial.predict() == model.predict([sequence[:end]])[0]
        partial.reset()


def test_partial_keeps_its_weights_after_a_fit_and_a_pickle_round_trip():
    X, slope = random_sequences()
    model = fit_estimator(small_estimator(IndyGRUClassifier), X, slope)
    sequence = max(X, key=len)
    partial = model.partial().push(sequence[:5])
    twin = pickle.loads(pickle.dumps(partial))
    expected = model.predict_proba([sequence])[0]
    fit_estimator(model.set_params(random_state=1, pooling="max"), X, slope)
    for prediction in (partial, twin):
        np.testing.assert_allclose(prediction.push(sequence[5:]).predict_proba(), expected, atol=1e-12)


def test_partial_of_wrong_steps_raises_and_stays_unchanged():
    X, slope = random_sequences()
    partial = fit_estimator(small_estimator(IndyGRUClassifier), X, slope).partial()
    with pytest.raises(ValueError, match="at least one step"):
        partial.predict()
    partial.push(X[0])
    before = partial.predict_proba()
    for steps, error, text in [
        (np.full((2, 4), 0.5), ValueError, r"steps: expected shape \(3,\) or \(T, 3\), got \(2, 4\)"),
        (np.full(3, 0.5 + 1j), TypeError, "steps: expected real numbers, got dtype complex128"),
        (np.array([0.5, np.nan, 0.5]), ValueError, "steps: expected finite numbers, got NaN"),
    ]:
        with pytest.raises(error, match=text):
            partial.push(steps)
    np.testing.assert_array_equal(partial.push(np.empty((0, 3))).predict_proba(), before)
    with pytest.raises(AttributeError, match="predict_proba: expected a classifier, got IndyGRURegressor"):
        fit_estimator(small_estimator(IndyGRURegressor), X, slope).partial().push(X[0]).predict_proba()
    with pytest.raises(ValueError, match="bidirectional=False"):
        fit_estimator(small_estimator(IndyGRUClassifier, bidirectional=True), X, slope).partial()


def test_partial_converts_steps_to_the_dtype_of_the_weights(dtype):
    X, slope = random_sequences(dtype=dtype)
    model = fit_estimator(small_estimator(IndyGRURegressor), X, slope)
    for steps in (np.arange(9).reshape(3, 3), np.full((3, 3), 0.25, np.float32), np.full((3, 3), 0.25), [[1, 0, 1]]):
        prediction = model.partial().push(steps).predict()
        assert prediction.dtype == dtype
        assert prediction == model.partial().push(np.asarray(steps, dtype)).predict()
    if dtype == np.float32:
        with pytest.raises(ValueError, match="expected finite numbers, got NaN or infinity in float32"):
            model.partial().push(np.full(3, 1e300))
