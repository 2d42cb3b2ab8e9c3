"""The estimators of sequences: forms of X, training, and use with scikit-learn's tools."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn, of the extra sklearn, is not installed")

from estimators import ESTIMATORS, concatenate, fit_estimator, predictions, random_sequences, small_estimator
from sklearn.base import clone
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from indygru_cpu.sklearn import IndyGRUClassifier, IndyGRURegressor


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_form_of_x_gives_the_same_predictions(estimator, dtype):
    X, slope = random_sequences(dtype=dtype)
    values, offsets = concatenate(X)
    margin = np.full((2, 3), 7, dtype)
    objects = np.empty(len(X), object)
    objects[:] = X
    forms = [X, (values, offsets), (np.concatenate([margin, values, margin]), offsets + 2), objects, tuple(X)]
    expected = predictions(fit_estimator(small_estimator(estimator), X, slope), X)
    assert expected.dtype == dtype
    for form in forms:
        model = fit_estimator(small_estimator(estimator), form, slope)
        assert model.n_features_in_ == 3
        for other in forms:
            np.testing.assert_array_equal(predictions(model, other), expected)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_array_and_list_of_its_rows_give_the_same_predictions(estimator):
    X = np.random.default_rng(1).standard_normal((17, 7, 3))
    slope = X[:, :, 0].mean(axis=1)
    expected = predictions(fit_estimator(small_estimator(estimator), list(X), slope), list(X))
    for array in (X, np.asfortranarray(X), X.astype(">f8"), X.tolist()):
        np.testing.assert_array_equal(
            predictions(fit_estimator(small_estimator(estimator), array, slope), array), expected
        )


def test_integers_are_converted_to_float64():
    X = np.random.default_rng(2).integers(-9, 9, (17, 7, 3))
    a, b = (
        small_estimator(IndyGRUClassifier).fit(x, X[:, 0, 0] > 0).predict_proba(x) for x in (X, X.astype(np.float64))
    )
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "options", [{}, {"bidirectional": True}, {"num_layers": 2, "pooling": ["last", "max"]}], ids=str
)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_fit_learns_the_targets_of_new_sequences(estimator, options):
    X, slope = random_sequences(200)
    model = fit_estimator(
        small_estimator(estimator, **{"max_iter": 60, "pooling": ["mean", "last"], **options}), X[:150], slope[:150]
    )
    truth = slope[150:] if estimator is IndyGRURegressor else np.where(slope[150:] > 0, "up", "down")
    assert model.score(X[150:], truth) > 0.85
    assert model.n_iter_ == len(model.loss_curve_) == 60
    assert model.loss_curve_[-1] < model.loss_curve_[0] / 10


def test_regressor_learns_several_targets_of_any_scale():
    X, slope = random_sequences(200)
    y = np.stack([1e6 + 1e3 * slope, -slope, np.full(200, 7.0)], axis=1)
    model = small_estimator(IndyGRURegressor, max_iter=60, pooling=["mean", "last"]).fit(X[:150], y[:150])
    assert min(r2_score(y[150:, :2], model.predict(X[150:])[:, :2], multioutput="raw_values")) > 0.7
    np.testing.assert_allclose(model.predict(X[:5])[:, 2], 7, atol=0.3)
    assert small_estimator(IndyGRURegressor).fit(X, y[:, :1]).predict(X[:5]).shape == (5, 1)
    assert small_estimator(IndyGRURegressor).fit(X, y[:, 0]).predict(X[:5]).shape == (5,)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_fit_gives_the_same_bits_for_any_number_of_threads(estimator):
    X, slope = random_sequences(60)
    options = {"dropout": 0.3, "noise": 0.2, "num_layers": 2, "batch_size": 33}
    models = [fit_estimator(small_estimator(estimator, num_threads=n, **options), X, slope) for n in (1, 2, 2)]
    for model in models[1:]:
        np.testing.assert_array_equal(predictions(model, X), predictions(models[0], X))
    other = fit_estimator(small_estimator(estimator, random_state=1, **options), X, slope)
    assert (predictions(other, X) != predictions(models[0], X)).any()


@pytest.mark.parametrize("option", [
    {"alpha": 0.1}, {"dropout": 0.4}, {"noise": 0.5}, {"standardize": False}, {"batch_size": 5},
    {"learning_rate": 0.01}, {"pooling": "max"},
], ids=str)  # fmt: skip
def test_each_option_changes_the_predictions(option):
    X, slope = random_sequences()
    assert (predictions(fit_estimator(small_estimator(IndyGRURegressor), X, slope), X)
            != predictions(fit_estimator(small_estimator(IndyGRURegressor, **option), X, slope), X)).any()  # fmt: skip


def test_early_stopping_restores_the_best_weights():
    X, _ = random_sequences(60)
    noise = np.random.default_rng(3).standard_normal(60)  # not learnable
    predicted = []
    model = IndyGRURegressor(
        17, max_iter=200, early_stopping=True, n_iter_no_change=4, learning_rate=0.03, random_state=0
    )
    model.fit(X, noise, after_epoch=lambda fitted: predicted.append(fitted.predict(X[:1])[0]))
    held_out = model.validation_loss_curve_
    best = int(np.argmin(held_out))
    assert model.n_iter_ == len(held_out) == best + 5 < 200
    assert model.predict(X[:1])[0] == predicted[best] != predicted[-1]


def test_held_out_sequences_are_stratified_by_class():
    """Of two sequences of each class, one is held out."""
    X, _ = random_sequences(34)
    model = small_estimator(IndyGRUClassifier, early_stopping=True, validation_fraction=0.5).fit(X, np.arange(34) % 17)
    assert len(model.classes_) == 17
    assert len(model.validation_loss_curve_) == 3


def test_pickle_keeps_the_predictions_and_clone_the_parameters():
    X, slope = random_sequences()
    model = fit_estimator(small_estimator(IndyGRUClassifier, pooling=("mean", "max")), X, slope)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict_proba(X), model.predict_proba(X))
    unfitted = clone(model)
    assert not hasattr(unfitted, "network_")
    np.testing.assert_array_equal(fit_estimator(unfitted, X, slope).predict_proba(X), model.predict_proba(X))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_skops_round_trip_keeps_the_predictions(estimator):
    io = pytest.importorskip("skops.io", reason="skops, of the extra test, is not installed")
    X, slope = random_sequences()
    model = fit_estimator(small_estimator(estimator, num_layers=2, dropout=0.2), X, slope)
    data = io.dumps(model)
    trusted = io.get_untrusted_types(data=data)
    assert all(name.startswith(("indygru_cpu.", "numpy.")) for name in trusted)
    np.testing.assert_array_equal(predictions(io.loads(data, trusted=trusted), X), predictions(model, X))


def test_grid_search_of_a_pipeline_gives_the_same_scores_in_processes():
    X, slope = random_sequences(60)
    y = slope > 0
    doubled = FunctionTransformer(lambda X: [2 * sequence for sequence in X])
    pipeline = make_pipeline(doubled, small_estimator(IndyGRUClassifier, max_iter=20))
    grid = {"indygruclassifier__hidden_size": [1, 17], "indygruclassifier__pooling": ["mean", ("mean", "last")]}
    search = GridSearchCV(pipeline, grid, cv=2, n_jobs=2).fit(X, y)
    assert search.best_score_ > 0.6
    serial = GridSearchCV(pipeline, grid, cv=2).fit(X, y)
    np.testing.assert_array_equal(search.cv_results_["mean_test_score"], serial.cv_results_["mean_test_score"])


def test_verbose_shows_a_progress_bar(capsys):
    X, slope = random_sequences()
    fit_estimator(small_estimator(IndyGRUClassifier, verbose=True), X, slope)
    captured = capsys.readouterr()
    assert not captured.out
    assert "3/3" in captured.err
    assert "loss=" in captured.err
