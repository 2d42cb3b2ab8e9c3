"""Inference on Dask: the layer's bits on arrays and bags, also after a worker is killed."""

from __future__ import annotations

import doctest
import pickle

import helpers
import numpy as np
import pytest
from bridge_layers import D, bridge_layer, random_rows

from indygru_cpu import IndyGRU
from indygru_cpu._engine import _core
from indygru_cpu._engine import threads as thread_counts

dask = pytest.importorskip("dask", reason="dask is not installed: the extra `dask` brings it")
pytest.importorskip("dask.array", reason="dask.array is not installed: the extra `dask` brings it")

from indygru_cpu import dask as bridge  # noqa: E402  (needs dask)
from indygru_cpu.dask import predict  # noqa: E402

T, B = 17, 33
BATCH_CHUNKS = (7, 1, 8, 17)
OPTIONS = [{}, {"num_layers": 2, "bidirectional": True}, {"batch_first": True}, {"activation": "relu", "bias": False}]


@pytest.fixture(autouse=True)
def run_serially():
    with dask.config.set(scheduler="sync"):
        yield


def random_x_and_lengths(layer, seed=1):
    """x in the layer's layout, and lengths."""
    rng = np.random.default_rng(seed)
    shape = (B, T, D) if layer.batch_first else (T, B, D)
    return rng.standard_normal(shape).astype(layer.dtype), helpers.random_lengths(rng, T, B)


def split_batch(layer, x):
    return dask.array.from_array(x, chunks=(BATCH_CHUNKS, T, D) if layer.batch_first else (T, BATCH_CHUNKS, D))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("form", ["no lengths", "NumPy", "Dask"])
def test_predict_of_an_array_gives_the_bits_of_the_layer(dtype, options, form):
    layer = bridge_layer(dtype, **options)
    x, lengths = random_x_and_lengths(layer)
    argument = {"no lengths": None, "NumPy": lengths, "Dask": dask.array.from_array(lengths, chunks=10)}[form]
    results = layer(x, lengths=None if argument is None else lengths)
    for expected, last in zip(results, (False, True), strict=True):
        lazy = predict(layer, split_batch(layer, x), lengths=argument, last=last)
        assert (lazy.shape, lazy.dtype) == (expected.shape, expected.dtype)
        assert lazy.chunks[0 if layer.batch_first and not last else 1] == BATCH_CHUNKS
        helpers.assert_same_bits(lazy.compute(), expected)


def bag_sequences(dtype=np.float32):
    return random_rows([7, 1, 0, 33, 8, 17, 9], dtype)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_predict_of_a_bag_gives_the_bits_of_the_layer(dtype, options):
    layer, sequences = bridge_layer(dtype, **options), bag_sequences(dtype)
    bag = dask.bag.from_sequence(sequences, npartitions=3)
    bag = dask.bag.concat([bag, bag.filter(lambda x: len(x) > 99)])  # with empty partitions
    y, h_n = predict(layer, bag).compute(), predict(layer, bag, last=True).compute()
    assert len(y) == len(h_n) == len(sequences)
    for x, y_x, h_x in zip(sequences, y, h_n, strict=True):
        helpers.assert_same_bits(y_x, layer(x)[0])
        helpers.assert_same_bits(h_x, layer(x)[1])


def test_predict_of_read_only_blocks_and_weights_gives_the_bits_of_the_layer(dtype):
    layer = bridge_layer(dtype)
    x, _ = random_x_and_lengths(layer)
    expected = layer(x)[0]
    x.flags.writeable = False
    received = pickled_out_of_band(layer)
    helpers.assert_same_bits(predict(received, split_batch(layer, x)).compute(), expected)
    sequences = bag_sequences(dtype)
    for sequence in sequences:
        sequence.flags.writeable = False
    lazy = predict(received, dask.bag.from_sequence(sequences))
    helpers.assert_same_bits(lazy.compute()[3], layer(sequences[3])[0])


def pickled_out_of_band(layer):
    """The layer as a worker receives it: its arrays are views of read-only bytes."""
    buffers = []
    data = pickle.dumps(layer, protocol=5, buffer_callback=buffers.append)
    received = pickle.loads(data, buffers=[bytes(buffer) for buffer in buffers])
    assert not received.parameters["kernel_l0"].flags.writeable
    return received


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_pickled_layer_after_calls_has_a_single_copy_of_the_weights(dtype, options):
    """No caches and no scratch memory."""
    layer = IndyGRU(65, 40, dtype=dtype, seed=0, **options)
    x = np.random.default_rng(0).standard_normal((200, 33, 65)).astype(dtype)
    layer(x)
    layer.forward(x)
    weights = sum(array.nbytes for array in layer.parameters.values())
    zero_bias = 0 if layer.bias else 120 * layer.dtype.itemsize
    assert len(pickle.dumps(layer, protocol=5)) < weights + zero_bias + 2500


def test_later_changes_of_the_weights_do_not_change_lazy_results():
    layer = bridge_layer()
    x, _ = random_x_and_lengths(layer)
    y, lazy = layer(x)[0], predict(layer, split_batch(layer, x))
    layer.parameters["kernel_l0"][...] *= 0.5
    helpers.assert_same_bits(lazy.compute(), y)
    again = predict(layer, split_batch(layer, x))
    assert again.name != lazy.name
    assert not helpers.same_bits(again.compute(), y)


def test_names_of_results_are_equal_in_every_process(run_script):
    names = {run_script("bridges/print_dask_names.py", PYTHONHASHSEED=seed) for seed in ("1", "2")}
    assert len(names) == 1


def test_token_depends_on_weights_and_configuration_only(tmp_path):
    tokenize = dask.base.tokenize
    layer = bridge_layer(num_layers=2)
    token = tokenize(layer)
    layer.save(tmp_path / "layer.npz")
    assert tokenize(IndyGRU.load(tmp_path / "layer.npz", num_threads=2)) == token
    assert tokenize(pickled_out_of_band(layer)) == token
    different = [
        bridge_layer(num_layers=2, seed=4), bridge_layer(), bridge_layer(num_layers=2, activation="relu"),
        bridge_layer(np.float64, num_layers=2),
    ]  # fmt: skip
    layer.parameters["bias_l1"][-1] += 1
    assert len({token, tokenize(layer), *map(tokenize, different)}) == 6


@pytest.mark.skipif(not _core.openmp_threads(), reason="built without OpenMP")
@pytest.mark.parametrize(("options", "expected"), [({}, 1), ({"num_threads": 2}, 2)])
def test_task_runs_on_one_thread_unless_num_threads_is_passed(monkeypatch, options, expected):
    """Whatever `num_threads` of the layer is. The calls are large enough for several threads."""
    layer, used = IndyGRU(D, 130, seed=0, num_threads=8), []
    x = np.random.default_rng(0).standard_normal((90, B, D), dtype=np.float32)
    monkeypatch.setattr(thread_counts, "count", lambda num_threads, work: used.append(num_threads) or 1)
    predict(layer, dask.array.from_array(x, chunks=(90, 17, D)), **options).compute()
    predict(layer, dask.bag.from_sequence([x[:, i] for i in range(B)], npartitions=2), **options).compute()
    assert len(used) >= 4
    assert set(used) == {expected}


X = dask.array.zeros((T, B, D), chunks=(T, 8, D), dtype=np.float32)
REFUSED = [
    (ValueError, r"x: expected one block along T, .* got 2: x.rechunk\(\{0: -1\}\)", X.rechunk((9, 8, D)), {}),
    (ValueError, r"x: expected one block along D, .* got 3: x.rechunk\(\{2: -1\}\)", X.rechunk((T, 8, 3)), {}),
    (ValueError, r"x: expected shape \(T, B, 9\), got \(17, 33, 8\)", X[..., 1:], {}),
    (ValueError, r"x: expected shape \(T, B, 9\), got \(17, 9\)", X[:, 0], {}),
    (TypeError, "x has dtype float64, but the layer has float32", X.astype(float), {}),
    (TypeError, "x: expected an array of float32 or float64, got int64", X.astype(np.int64), {}),
    (TypeError, "x: expected a dask array or bag, got ndarray", np.zeros((T, B, D), np.float32), {}),
    (ValueError, r"lengths: expected shape \(33,\), got \(32,\)", X, {"lengths": [1] * 32}),
    (ValueError, "lengths: expected None with a bag", dask.bag.from_sequence([1]), {"lengths": [1]}),
    (ValueError, "num_threads: expected at least 1, got 0", X, {"num_threads": 0}),
    (TypeError, "num_threads: expected an integer, got None", X, {"num_threads": None}),
]


@pytest.mark.parametrize(("error", "text", "x", "options"), REFUSED, ids=[text[:40] for _, text, _, _ in REFUSED])
def test_wrong_arguments_raise_before_anything_is_computed(error, text, x, options):
    with pytest.raises(error, match=text):
        predict(bridge_layer(), x, **options)


def test_wrong_sequences_and_lengths_raise_when_computed():
    wrong = bag_sequences()
    wrong[5] = wrong[5].astype(np.float64)
    with pytest.raises(TypeError, match="x, sequence 5 of its partition has dtype float64, but the layer has float32"):
        predict(bridge_layer(), dask.bag.from_sequence(wrong, npartitions=1)).compute()
    wrong[5] = wrong[5][:, 1:].astype(np.float32)
    with pytest.raises(ValueError, match=r"x, sequence 5 of its partition: expected shape \(T, 9\), got \(17, 8\)"):
        predict(bridge_layer(), dask.bag.from_sequence(wrong, npartitions=1)).compute()
    with pytest.raises(ValueError, match="lengths: expected values from 0 to 17, got 18 for row 0"):
        predict(bridge_layer(), X, lengths=[18] * B).compute()


def test_docstring_examples_run():
    results = doctest.testmod(bridge)
    assert results.attempted > 5
    assert results.failed == 0


def test_predict_of_something_else_than_a_layer_raises_type_error():
    with pytest.raises(TypeError, match="layer: expected an IndyGRU, got int"):
        predict(3, X)


def test_import_of_the_bridge_starts_no_thread_and_changes_no_configuration(run_script):
    assert run_script("bridges/import_dask_bridge.py") == "0 True False"


def test_import_without_dask_names_the_extra(run_script):
    error = run_script("import_without.py", "indygru_cpu.dask", "dask", status=1)
    assert 'pip install "indygru_cpu[dask]"' in error


def test_predict_after_a_worker_is_killed_gives_the_bits_of_the_layer(run_script):
    """The killed worker holds results while other tasks are pending."""
    pytest.importorskip("distributed", reason="distributed is not installed: the extra `dask` brings it")
    printed = run_script("bridges/kill_dask_worker.py", timeout=100)
    assert printed.splitlines()[-1] == "12 1 True"
