"""The estimators of whole sequences: forms of input, training, streaming, and what scikit-learn does with them."""

from __future__ import annotations

import os
import pickle
import sys

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn, of the extra sklearn, is not installed")

from sklearn.base import clone
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

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


def test_verbose_shows_a_bar(capsys):
    X, slope = sequences()
    fitted(quick(IndyGRUClassifier, verbose=True), X, slope)
    captured = capsys.readouterr()
    assert not captured.out
    assert "3/3" in captured.err
    assert "loss=" in captured.err


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
