"""Forms of X beside arrays and lists: columns, data frames, other dtypes; and the memory of predictions."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn, of the extra sklearn, is not installed")

from estimators import ESTIMATORS, concatenate, fit_estimator, predictions, random_sequences, small_estimator
from sklearn.metrics import r2_score
from sklearn.model_selection import cross_val_score

from indygru_cpu import IndyGRU
from indygru_cpu.sklearn import IndyGRUClassifier, IndyGRURegressor, _network

PANDAS = "pandas, of the extra test, is not installed"
POLARS = "polars, of the extra test, is not installed"
ARROW = "pyarrow, of the extra test, is not installed"


def pandas_objects(X):
    return pytest.importorskip("pandas", reason=PANDAS).Series(X, index=range(100, 100 + len(X)))


def pandas_arrow(X):
    pd, pa = pytest.importorskip("pandas", reason=PANDAS), pytest.importorskip("pyarrow", reason=ARROW)
    kind = pd.ArrowDtype(pa.list_(pa.list_(pa.from_numpy_dtype(X[0].dtype))))
    return pd.Series([x.tolist() for x in X], dtype=kind)


def pandas_nested_objects(X):
    """Arrays of arrays, as ``pandas.read_parquet`` returns lists of lists."""
    pytest.importorskip("pandas", reason=PANDAS)
    return arrow(X).to_pandas()


def polars_lists(X):
    pl = pytest.importorskip("polars", reason=POLARS)
    pytest.importorskip("pyarrow", reason=ARROW)
    return pl.Series([x.tolist() for x in X], dtype=pl.List(pl.Array(polars_type(pl, X), X[0].shape[1])))


def polars_objects(X):
    pl = pytest.importorskip("polars", reason=POLARS)
    return pl.Series(X, dtype=pl.Object)


def polars_type(pl, X):
    return {4: pl.Float32, 8: pl.Float64}[X[0].itemsize]


def arrow(X):
    pa = pytest.importorskip("pyarrow", reason=ARROW)
    return pa.array([x.tolist() for x in X], pa.list_(pa.list_(pa.from_numpy_dtype(X[0].dtype))))


def arrow_chunks(X):
    pa = pytest.importorskip("pyarrow", reason=ARROW)
    chunk = pa.array([x.tolist() for x in X], pa.large_list(pa.list_(pa.from_numpy_dtype(X[0].dtype), X[0].shape[1])))
    return pa.chunked_array([chunk[:5], chunk[5:5], chunk[5:]])


class CStream:
    """A column of another library, which only has Arrow's C stream interface."""

    def __init__(self, chunks):
        self._chunks = chunks

    def __arrow_c_stream__(self, requested_schema=None):
        return self._chunks.__arrow_c_stream__(requested_schema)


def arrow_c_stream(X):
    return CStream(arrow_chunks(X))


def pandas_frames(X):
    pd = pytest.importorskip("pandas", reason=PANDAS)
    return [pd.DataFrame(x, columns=["x", "y", "z"]) for x in X]


def polars_frames(X):
    pl = pytest.importorskip("polars", reason=POLARS)
    return [pl.DataFrame(x, schema=["x", "y", "z"]) for x in X]


def pandas_frame_and_offsets(X):
    pd = pytest.importorskip("pandas", reason=PANDAS)
    values, offsets = concatenate(X)
    return pd.DataFrame(values, columns=["x", "y", "z"]), offsets


def polars_frame_and_offsets(X):
    pl = pytest.importorskip("polars", reason=POLARS)
    values, offsets = concatenate(X)
    return pl.DataFrame(values, schema=["x", "y", "z"]), offsets


COLUMNS = [
    pandas_objects, pandas_arrow, pandas_nested_objects, polars_lists, polars_objects, arrow, arrow_chunks,
]  # fmt: skip
FRAMES = [pandas_frames, polars_frames, pandas_frame_and_offsets, polars_frame_and_offsets]


@pytest.mark.parametrize("form", [*COLUMNS, arrow_c_stream, *FRAMES], ids=lambda form: form.__name__)
def test_columns_and_frames_give_the_predictions_of_a_list(form, dtype):
    X, slope = random_sequences(dtype=dtype)
    expected = predictions(fit_estimator(small_estimator(IndyGRURegressor), X, slope), X)
    model = fit_estimator(small_estimator(IndyGRURegressor), form(X), slope)
    assert model.network_.layer.dtype == dtype
    np.testing.assert_array_equal(predictions(model, form(X)), expected)
    assert model.score(form(X), slope) == r2_score(slope, expected)


@pytest.mark.parametrize("form", COLUMNS, ids=lambda form: form.__name__)
def test_columns_work_in_cross_validation(form):
    X, slope = random_sequences()
    y, column = np.where(slope > 0, "up", "down"), form(X)
    scores, expected = (cross_val_score(small_estimator(IndyGRUClassifier), each, y, cv=2) for each in (column, X))
    np.testing.assert_array_equal(scores, expected)


@pytest.mark.parametrize("form", FRAMES, ids=lambda form: form.__name__)
def test_names_of_inputs_are_kept_and_checked(form):
    X, slope = random_sequences()
    model = fit_estimator(small_estimator(IndyGRUClassifier), form(X), slope)
    assert model.feature_names_in_.tolist() == ["x", "y", "z"]

    def select(names):
        frames = form(X)
        return (frames[0][names], frames[1]) if isinstance(frames, tuple) else [frame[names] for frame in frames]

    with pytest.raises(ValueError, match="Feature names must be in the same order as they were in fit"):
        model.predict(select(["z", "y", "x"]))
    with pytest.raises(ValueError, match="Feature names seen at fit time, yet now missing:\n- y"):
        model.predict_proba(select(["x", "z"]))
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        model.predict(X)
    assert not hasattr(fit_estimator(model, X, slope), "feature_names_in_")


def test_frames_of_different_columns_raise():
    X, slope = random_sequences()
    frames = pandas_frames(X)
    frames[4] = frames[4][["z", "y", "x"]]
    text = r"^X\[4\]: expected the columns of X\[0\], \['x', 'y', 'z'\], got \['z', 'y', 'x'\]"
    with pytest.raises(ValueError, match=text):
        fit_estimator(small_estimator(IndyGRUClassifier), frames, slope)
    with pytest.raises(ValueError, match=r"^X\[1\]: expected the columns of X\[0\]"):
        fit_estimator(small_estimator(IndyGRUClassifier), [frames[0], *X[1:]], slope)


def test_frame_without_offsets_is_refused_as_an_array_is():
    X, slope = random_sequences()
    frame, _ = pandas_frame_and_offsets(X)
    with pytest.raises(ValueError, match=r"X: expected \(n, T, D\).* got shape \(\d+, 3\)"):
        fit_estimator(small_estimator(IndyGRUClassifier), frame, slope)


@pytest.mark.parametrize(("rows", "error", "text"), [
    ([[[1.0, 2.0]], []], ValueError, "expected at least one step per sequence, got none in sequence 1"),
    ([[[1.0, 2.0]], [[1.0]]], ValueError, "X: expected steps of 2 numbers, got one of 1"),
    ([[[1.0, 2.0]], None], ValueError, "X: expected no nulls, got 1"),
    ([[[1.0, 2.0]], [[1.0, None]]], ValueError, "the numbers of X: expected no nulls, got 1"),
    ([[1.0, 2.0]], TypeError, "a sequence of X: expected lists, got double"),
    ([[[1.0, np.nan]]], ValueError, "X contains NaN"),
    ([], ValueError, r"0 sample\(s\)"),
])  # fmt: skip
def test_wrong_arrow_column_raises(rows, error, text):
    pa = pytest.importorskip("pyarrow", reason=ARROW)
    kind = None if rows else pa.list_(pa.list_(pa.float64()))
    with pytest.raises(error, match=text):
        IndyGRURegressor(max_iter=1).fit(pa.array(rows, kind), np.arange(len(rows)))


@pytest.mark.parametrize("sequence", [[[1.0, 2.0], [3.0]], np.array([np.ones(2), np.ones(3)], object)], ids=type)
def test_steps_of_different_sizes_raise(sequence):
    with pytest.raises(ValueError, match=r"^X\[1\]: expected shape \(T, D\), got steps of different sizes"):
        IndyGRURegressor(max_iter=1).fit([np.ones((3, 2)), sequence], [0, 1])


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_predict_converts_to_the_dtype_of_the_weights(estimator, dtype):
    X, slope = random_sequences(dtype=dtype)
    model = fit_estimator(small_estimator(estimator), X, slope)
    other = np.float32 if dtype == np.float64 else np.float64
    mixed = [x.astype(other) if i % 2 else x for i, x in enumerate(X)]
    for given in ([x.astype(other) for x in X], mixed, concatenate([x.astype(other) for x in X])):
        result = predictions(model, given)
        assert result.dtype == dtype
        values, offsets = concatenate(given) if isinstance(given, list) else given
        np.testing.assert_array_equal(result, predictions(model, (values.astype(dtype), offsets)))
    truth = np.where(slope > 0, "up", "down") if estimator is IndyGRUClassifier else slope
    assert model.score(concatenate(mixed), truth) == pytest.approx(model.score(X, truth), abs=1e-4)


def test_fit_of_float32_and_float64_sequences_raises():
    """The dtype of the weights would be ambiguous."""
    X, slope = random_sequences()
    with pytest.raises(TypeError, match="X: expected sequences of one dtype, got float32 and float64"):
        fit_estimator(small_estimator(IndyGRURegressor), [*X[:-1], X[-1].astype(np.float32)], slope)


def test_number_too_large_for_float32_weights_raises():
    X, slope = random_sequences(dtype=np.float32)
    model = fit_estimator(small_estimator(IndyGRURegressor), X, slope)
    with pytest.raises(ValueError, match=r"infinity or a value too large for dtype\('float32'\)"):
        model.predict([np.full((2, 3), 1e300)])


@pytest.mark.parametrize("convert", [np.sort, list, np.asarray], ids=["sorted", "list", "array"])
def test_lengths_in_the_place_of_offsets_raise(convert):
    X, slope = random_sequences()
    values, lengths = np.concatenate(X), convert([len(x) for x in X])
    text = rf"^X: expected offsets \(n \+ 1,\), from 0 to .*, {len(values)}, got 33 integers .*cumsum\(lengths\)"
    with pytest.raises(ValueError, match=text):
        fit_estimator(small_estimator(IndyGRUClassifier), (values, lengths), slope)
    with pytest.raises(ValueError, match=text):
        fit_estimator(small_estimator(IndyGRUClassifier), X, slope).predict((values, lengths))


def test_offsets_whose_sum_is_the_number_of_steps_are_offsets():
    """Offsets of one sequence."""
    X, slope = random_sequences()
    model = fit_estimator(small_estimator(IndyGRURegressor), X, slope)
    np.testing.assert_array_equal(model.predict((X[0], [0, len(X[0])])), model.predict(X[:1]))


@pytest.fixture
def calls(monkeypatch):
    """The number of steps of each call of a layer's inference, whose memory is bounded for 100 steps of 12 numbers."""
    counted, ragged = [], IndyGRU.ragged

    def counting(layer, values, offsets, *args, **options):
        if not options.get("tape"):
            counted.append(len(values))
        return ragged(layer, values, offsets, *args, **options)

    monkeypatch.setattr(IndyGRU, "ragged", counting)
    monkeypatch.setattr(_network, "MAX_BATCH_BYTES", 100 * 12 * 8)
    return counted


@pytest.mark.parametrize("method", ["predict", "predict_proba", "score", "fit"])
def test_methods_run_batches_of_bounded_size(calls, method):
    """A step has 3 inputs and 9 states."""
    X, slope = random_sequences(99)
    y = slope > 0
    model = small_estimator(IndyGRUClassifier, pooling=("mean", "last", "max"), max_iter=1).fit(X, y)
    assert not calls
    if method == "fit":  # runs the held-out sequences
        model.set_params(early_stopping=True, validation_fraction=0.5).fit(X, y)
    else:
        getattr(model, method)(*((X, y) if method == "score" else (X,)))
        assert sum(calls) == sum(map(len, X))
    assert len(calls) > 3
    assert max(calls) <= 100
    assert all(a + b > 100 - 17 for a, b in pairwise(calls))  # batches are not tiny


@pytest.mark.parametrize("options", [{}, {"num_layers": 2}, {"bidirectional": True}], ids=str)
def test_batches_do_not_change_the_predictions(calls, monkeypatch, options, dtype):
    """Of sequences shorter and longer than a batch."""
    X, slope = random_sequences(40, dtype=dtype)
    X[3], X[20] = (np.random.default_rng(n).standard_normal((n, 3)).astype(dtype) for n in (1001, 350))
    model = small_estimator(IndyGRURegressor, pooling=("mean", "last", "max"), **options).fit(X, slope)
    bounded = model.predict(X)
    most = {4: 200, 8: 100}[np.dtype(dtype).itemsize]
    is_bidirectional = "bidirectional" in options
    assert max(calls) == 1001 if is_bidirectional else max(calls) <= most
    calls.clear()
    monkeypatch.setattr(_network, "MAX_BATCH_BYTES", 2**40)
    np.testing.assert_allclose(model.predict(X), bounded, rtol=0, atol=1e-12 if dtype == np.float64 else 1e-5)
    assert calls == [sum(map(len, X))]


def test_tuple_of_two_frames_is_two_sequences():
    X, slope = random_sequences()
    frames = pandas_frames(X)
    model = fit_estimator(small_estimator(IndyGRURegressor), frames, slope)
    np.testing.assert_array_equal(model.predict((frames[0], frames[1])), model.predict(frames[:2]))
    with pytest.raises(ValueError, match=r"^X\[1\]: expected the columns of X\[0\]"):
        model.predict((frames[0], X[1]))
