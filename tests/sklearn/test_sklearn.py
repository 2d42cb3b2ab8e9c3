"""The estimators of whole sequences: forms of input, training, and what scikit-learn does with them."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn, of the extra sklearn, is not installed")

from estimators import ESTIMATORS, answers, fitted, quick, ragged, sequences
from sklearn.base import clone
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from indygru_cpu.sklearn import IndyGRUClassifier, IndyGRURegressor


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_form_is_the_same(estimator, dtype):
    X, slope = sequences(dtype=dtype)
    values, offsets = ragged(X)
    margin = np.full((2, 3), 7, dtype)
    objects = np.empty(len(X), object)
    objects[:] = X
    forms = [X, (values, offsets), (np.concatenate([margin, values, margin]), offsets + 2), objects, tuple(X)]
    expected = answers(fitted(quick(estimator), X, slope), X)
    assert expected.dtype == dtype
    for form in forms:
        model = fitted(quick(estimator), form, slope)
        assert model.n_features_in_ == 3
        for other in forms:
            np.testing.assert_array_equal(answers(model, other), expected)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_an_array_is_a_list_of_its_rows(estimator):
    X = np.random.default_rng(1).standard_normal((17, 7, 3))
    slope = X[:, :, 0].mean(axis=1)
    expected = answers(fitted(quick(estimator), list(X), slope), list(X))
    for array in (X, np.asfortranarray(X), X.astype(">f8"), X.tolist()):
        np.testing.assert_array_equal(answers(fitted(quick(estimator), array, slope), array), expected)


def test_integers_become_float64():
    X = np.random.default_rng(2).integers(-9, 9, (17, 7, 3))
    a, b = (quick(IndyGRUClassifier).fit(x, X[:, 0, 0] > 0).predict_proba(x) for x in (X, X.astype(np.float64)))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "options", [{}, {"bidirectional": True}, {"num_layers": 2, "pooling": ["last", "max"]}], ids=str
)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_learns(estimator, options):
    X, slope = sequences(200)
    model = fitted(quick(estimator, **{"max_iter": 60, "pooling": ["mean", "last"], **options}), X[:150], slope[:150])
    truth = slope[150:] if estimator is IndyGRURegressor else np.where(slope[150:] > 0, "up", "down")
    assert model.score(X[150:], truth) > 0.85
    assert model.n_iter_ == len(model.loss_curve_) == 60
    assert model.loss_curve_[-1] < model.loss_curve_[0] / 10


def test_several_targets_of_any_scale():
    X, slope = sequences(200)
    y = np.stack([1e6 + 1e3 * slope, -slope, np.full(200, 7.0)], axis=1)
    model = quick(IndyGRURegressor, max_iter=60, pooling=["mean", "last"]).fit(X[:150], y[:150])
    assert min(r2_score(y[150:, :2], model.predict(X[150:])[:, :2], multioutput="raw_values")) > 0.7
    np.testing.assert_allclose(model.predict(X[:5])[:, 2], 7, atol=0.3)
    assert quick(IndyGRURegressor).fit(X, y[:, :1]).predict(X[:5]).shape == (5, 1)
    assert quick(IndyGRURegressor).fit(X, y[:, 0]).predict(X[:5]).shape == (5,)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_same_bits_for_any_number_of_threads(estimator):
    X, slope = sequences(60)
    options = {"dropout": 0.3, "noise": 0.2, "num_layers": 2, "batch_size": 33}
    models = [fitted(quick(estimator, num_threads=n, **options), X, slope) for n in (1, 2, 2)]
    for model in models[1:]:
        np.testing.assert_array_equal(answers(model, X), answers(models[0], X))
    other = fitted(quick(estimator, random_state=1, **options), X, slope)
    assert (answers(other, X) != answers(models[0], X)).any()


@pytest.mark.parametrize("option", [
    {"alpha": 0.1}, {"dropout": 0.4}, {"noise": 0.5}, {"standardize": False}, {"batch_size": 5},
    {"learning_rate": 0.01}, {"pooling": "max"},
], ids=str)  # fmt: skip
def test_every_option_counts(option):
    X, slope = sequences()
    assert (answers(fitted(quick(IndyGRURegressor), X, slope), X)
            != answers(fitted(quick(IndyGRURegressor, **option), X, slope), X)).any()  # fmt: skip


def test_early_stopping_keeps_the_best_weights():
    X, _ = sequences(60)
    noise = np.random.default_rng(3).standard_normal(60)  # nothing can be learned
    losses = []
    model = IndyGRURegressor(
        17, max_iter=200, early_stopping=True, n_iter_no_change=4, learning_rate=0.03, random_state=0
    )
    model.fit(X, noise, after_epoch=lambda each: losses.append(each.predict(X[:1])[0]))
    held_out = model.validation_loss_curve_
    best = int(np.argmin(held_out))
    assert model.n_iter_ == len(held_out) == best + 5 < 200
    assert model.predict(X[:1])[0] == losses[best] != losses[-1]


def test_held_out_are_of_each_class():
    """With two of each class, the one held out and the one learned from."""
    X, _ = sequences(34)
    model = quick(IndyGRUClassifier, early_stopping=True, validation_fraction=0.5).fit(X, np.arange(34) % 17)
    assert len(model.classes_) == 17
    assert len(model.validation_loss_curve_) == 3


def test_clone_and_pickle():
    X, slope = sequences()
    model = fitted(quick(IndyGRUClassifier, pooling=("mean", "max")), X, slope)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict_proba(X), model.predict_proba(X))
    fresh = clone(model)
    assert not hasattr(fresh, "network_")
    np.testing.assert_array_equal(fitted(fresh, X, slope).predict_proba(X), model.predict_proba(X))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_skops(estimator):
    io = pytest.importorskip("skops.io", reason="skops, of the extra test, is not installed")
    X, slope = sequences()
    model = fitted(quick(estimator, num_layers=2, dropout=0.2), X, slope)
    data = io.dumps(model)
    trusted = io.get_untrusted_types(data=data)
    assert all(name.startswith(("indygru_cpu.", "numpy.")) for name in trusted)
    np.testing.assert_array_equal(answers(io.loads(data, trusted=trusted), X), answers(model, X))


def test_grid_search_in_processes_and_pipelines():
    X, slope = sequences(60)
    y = slope > 0
    doubled = FunctionTransformer(lambda X: [2 * each for each in X])
    pipeline = make_pipeline(doubled, quick(IndyGRUClassifier, max_iter=20))
    grid = {"indygruclassifier__hidden_size": [1, 17], "indygruclassifier__pooling": ["mean", ("mean", "last")]}
    search = GridSearchCV(pipeline, grid, cv=2, n_jobs=2).fit(X, y)
    assert search.best_score_ > 0.6
    alone = GridSearchCV(pipeline, grid, cv=2).fit(X, y)
    np.testing.assert_array_equal(search.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"])


def test_verbose_shows_a_bar(capsys):
    X, slope = sequences()
    fitted(quick(IndyGRUClassifier, verbose=True), X, slope)
    captured = capsys.readouterr()
    assert not captured.out
    assert "3/3" in captured.err
    assert "loss=" in captured.err
