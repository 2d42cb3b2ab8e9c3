"""`sample_weight`, `class_weight` and `warm_start`."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn, of the extra sklearn, is not installed")

from estimators import ESTIMATORS, fit_estimator, predictions, random_sequences, small_estimator

from indygru_cpu.sklearn import IndyGRUClassifier, IndyGRURegressor


def labels(estimator, slope):
    return np.where(slope > 0, "up", "down") if estimator is IndyGRUClassifier else slope


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_equal_weights_give_the_bits_of_none(estimator, dtype):
    X, slope = random_sequences(dtype=dtype)
    options = {"dropout": 0.2, "noise": 0.1, "early_stopping": True, "standardize": False}
    y = labels(estimator, slope)
    models = [small_estimator(estimator, **options).fit(X, y, weights) for weights in (None, np.full(len(X), 4.0))]
    np.testing.assert_array_equal(*(predictions(model, X) for model in models))
    assert models[0].loss_curve_ == models[1].loss_curve_
    assert models[0].validation_loss_curve_ == models[1].validation_loss_curve_


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_weights_equal_repetitions_in_one_batch(estimator):
    X, slope = random_sequences(20)
    y, weights = labels(estimator, slope), np.arange(20) % 4
    model = small_estimator(estimator, batch_size=1000, max_iter=20)
    repeated = [X[i] for i in range(20) for _ in range(weights[i])]
    expected = predictions(model.fit(repeated, y.repeat(weights)), X)
    np.testing.assert_allclose(predictions(model.fit(X, y, sample_weight=weights), X), expected, rtol=1e-6)


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_weight_0_leaves_a_sequence_out(estimator, early_stopping):
    X, slope = random_sequences(40)
    y, weights = labels(estimator, slope), np.r_[np.full(30, 0.5), np.zeros(10)]
    model = small_estimator(estimator, early_stopping=early_stopping)
    expected = predictions(model.fit(X[:30], y[:30], weights[:30]), X)
    # The mean and the scale of the targets are sums over more numbers.
    np.testing.assert_allclose(predictions(model.fit(X, y, weights), X), expected, rtol=1e-9)


def test_class_without_weight_stays_a_class():
    X, _ = random_sequences()
    y = np.arange(33) % 3
    model = small_estimator(IndyGRUClassifier, class_weight="balanced", max_iter=30).fit(X, y, y != 2)
    assert model.classes_.tolist() == [0, 1, 2]
    assert model.predict_proba(X).shape == (33, 3)
    assert (model.predict(X) != 2).all()


@pytest.mark.parametrize(("weights", "text"), [
    (np.ones(32), r"^sample_weight: expected shape \(33,\), one weight a sequence, got \(32,\)"),
    (np.ones((33, 1)), r"^sample_weight: expected shape \(33,\)"),
    (-np.eye(33)[0], "^sample_weight: expected no negative weight and not only zeros, got weights from -1.0 to"),
    (np.zeros(33), "^sample_weight: expected no negative weight and not only zeros"),
    (np.full(33, np.nan), "sample_weight contains NaN"),
])  # fmt: skip
def test_wrong_sample_weight_raises(weights, text):
    X, slope = random_sequences()
    with pytest.raises(ValueError, match=text):
        small_estimator(IndyGRURegressor).fit(X, slope, sample_weight=weights)


def test_class_weight_equals_sample_weight():
    X, slope = random_sequences()
    y = np.where(slope > 0.3, "up", "down")
    n_up = (y == "up").sum()
    options = {"standardize": False}  # sample_weight also weights the mean and scale of the inputs
    for class_weight, up, down in [
        ({"up": 3, "down": 0.5}, 3, 0.5), ("balanced", 33 / (2 * n_up), 33 / (2 * (33 - n_up))),
    ]:  # fmt: skip
        a = small_estimator(IndyGRUClassifier, class_weight=class_weight, **options).fit(X, y)
        b = small_estimator(IndyGRUClassifier, **options).fit(X, y, sample_weight=np.where(y == "up", up, down))
        np.testing.assert_allclose(a.predict_proba(X), b.predict_proba(X), rtol=1e-6)
        c = small_estimator(IndyGRUClassifier, **options).fit(X, y)
        assert (a.predict_proba(X) != c.predict_proba(X)).any()


def test_class_weight_multiplies_sample_weight():
    X, slope = random_sequences()
    y, weights = slope > 0, np.random.default_rng(1).uniform(0.5, 2, 33)
    options = {"standardize": False}
    a = small_estimator(IndyGRUClassifier, class_weight={True: 3}, **options).fit(X, y, weights)
    b = small_estimator(IndyGRUClassifier, **options).fit(X, y, weights * np.where(y, 3, 1))
    np.testing.assert_allclose(a.predict_proba(X), b.predict_proba(X), rtol=1e-6)


@pytest.mark.parametrize("class_weight", ["equal", {"sideways": 2}])
def test_wrong_class_weight_raises(class_weight):
    X, slope = random_sequences()
    with pytest.raises(ValueError, match="class_weight"):
        fit_estimator(small_estimator(IndyGRUClassifier, class_weight=class_weight), X, slope)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_warm_start_continues_from_the_weights(estimator, dtype):
    X, slope = random_sequences(60, dtype=dtype)
    y = labels(estimator, slope)
    model = small_estimator(estimator, warm_start=True, max_iter=20).fit(X, y)
    cold = small_estimator(estimator, max_iter=20).fit(X, y)
    np.testing.assert_array_equal(predictions(model, X), predictions(cold, X))
    first, before = model.network_, predictions(model, X)
    loss = model.loss_curve_[-1]
    partial = None if estimator is IndyGRURegressor else model.partial().push(X[0])
    model.set_params(max_iter=2, learning_rate=1e-3).fit([x.astype(np.float64) for x in X], y)
    assert model.n_iter_ == len(model.loss_curve_) == 2
    assert abs(model.loss_curve_[0] - loss) < 0.1 * cold.loss_curve_[0]
    assert model.network_.layer.dtype == dtype
    assert (predictions(model, X) != before).any()
    # The first network is unchanged: incremental predictions use it.
    cold.network_ = first
    np.testing.assert_array_equal(predictions(cold, X), before)
    if partial:
        np.testing.assert_allclose(partial.predict_proba(), before[0], atol=1e-5)


def test_warm_start_keeps_the_scale():
    X, slope = random_sequences()
    model = small_estimator(IndyGRURegressor, warm_start=True).fit(X, slope)
    mean, target_mean = model.network_.mean, model.target_mean_
    model.fit([2 * x + 1 for x in X], 5 * slope)
    assert model.network_.mean is mean
    assert model.target_mean_ is target_mean


@pytest.mark.parametrize(("options", "y", "text"), [
    ({"hidden_size": 8}, None, "^warm_start: expected hidden_size, num_layers, bidirectional and pooling of the prev"),
    ({"num_layers": 2}, None, "^warm_start: expected"),
    ({"pooling": "last"}, None, "^warm_start: expected"),
    ({}, np.arange(33) % 2, r"^y: expected the classes of the previous fit, array\(\['down', 'up'\]"),
])  # fmt: skip
def test_warm_start_with_another_structure_raises(options, y, text):
    X, slope = random_sequences()
    model = fit_estimator(small_estimator(IndyGRUClassifier, pooling="mean", warm_start=True), X, slope)
    before = model.predict_proba(X)
    with pytest.raises(ValueError, match=text):
        model.set_params(**options).fit(X, np.where(slope > 0, "up", "down") if y is None else y)
    np.testing.assert_array_equal(model.predict_proba(X), before)


def test_warm_start_with_other_inputs_or_targets_raises():
    X, slope = random_sequences()
    model = small_estimator(IndyGRURegressor, warm_start=True).fit(X, slope)
    with pytest.raises(ValueError, match="X has 2 features, but IndyGRURegressor is expecting 3"):
        model.fit([x[:, :2] for x in X], slope)
    with pytest.raises(ValueError, match=r"^y: expected 1 numbers a sequence.* got 2: set warm_start=False"):
        model.fit(X, np.c_[slope, slope])


@pytest.mark.parametrize("weights", [(-1, 1), (np.nan, 1), (np.inf, 1), (0, 0)])
def test_class_weight_without_a_finite_positive_weight_raises(weights):
    X, slope = random_sequences()
    model = small_estimator(IndyGRUClassifier, class_weight={"down": weights[0], "up": weights[1]})
    with pytest.raises(ValueError, match=r"^class_weight: expected finite weights, none negative and not only zeros"):
        model.fit(X, np.where(slope > 0, "up", "down"))
