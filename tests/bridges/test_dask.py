"""The bridge to Dask: what a layer computes there has the bits that it has here, also when a worker dies."""

from __future__ import annotations

import doctest
import pickle

import helpers
import numpy as np
import pytest

from indygru_cpu import IndyGRU, _engine

dask = pytest.importorskip("dask", reason="dask is not installed: the extra `dask` brings it")
pytest.importorskip("dask.array", reason="dask.array is not installed: the extra `dask` brings it")

from indygru_cpu import dask as bridge  # noqa: E402  (it needs what was asked for above)
from indygru_cpu.dask import predict  # noqa: E402

T, B, D, N = 17, 33, 9, 7
CHUNKS = (7, 1, 8, 17)
OPTIONS = [{}, {"num_layers": 2, "bidirectional": True}, {"batch_first": True}, {"activation": "relu", "bias": False}]


@pytest.fixture(autouse=True)
def serial():
    with dask.config.set(scheduler="sync"):
        yield


def make(dtype=np.float32, seed=3, **options):
    return IndyGRU(D, N, dtype=dtype, seed=seed, reproducible=True, **options)


def inputs(layer, seed=1):
    """x in the layer's layout, and lengths."""
    rng = np.random.default_rng(seed)
    shape = (B, T, D) if layer.batch_first else (T, B, D)
    return rng.standard_normal(shape).astype(layer.dtype), helpers.random_lengths(rng, T, B)


def blocks(layer, x):
    return dask.array.from_array(x, chunks=(CHUNKS, T, D) if layer.batch_first else (T, CHUNKS, D))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("form", ["no lengths", "NumPy", "Dask"])
def test_arrays(dtype, options, form):
    layer = make(dtype, **options)
    x, lengths = inputs(layer)
    given = {"no lengths": None, "NumPy": lengths, "Dask": dask.array.from_array(lengths, chunks=10)}[form]
    wanted = layer(x, lengths=None if given is None else lengths)
    for expected, last in zip(wanted, (False, True), strict=True):
        found = predict(layer, blocks(layer, x), lengths=given, last=last)
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        assert found.chunks[0 if layer.batch_first and not last else 1] == CHUNKS
        helpers.assert_same_bits(found.compute(), expected)


def sequences(dtype):
    rng = np.random.default_rng(2)
    return [rng.standard_normal((n, D)).astype(dtype) for n in (7, 1, 0, 33, 8, 17, 9)]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_bags(dtype, options):
    layer, given = make(dtype, **options), sequences(dtype)
    bag = dask.bag.from_sequence(given, npartitions=3)
    bag = dask.bag.concat([bag, bag.filter(lambda x: len(x) > 99)])  # with partitions that are empty
    y, h_n = predict(layer, bag).compute(), predict(layer, bag, last=True).compute()
    assert len(y) == len(h_n) == len(given)
    for x, own_y, own_h in zip(given, y, h_n, strict=True):
        helpers.assert_same_bits(own_y, layer(x)[0])
        helpers.assert_same_bits(own_h, layer(x)[1])


def test_blocks_that_cannot_be_written_to(dtype):
    layer = make(dtype)
    x, _ = inputs(layer)
    expected = layer(x)[0]
    x.flags.writeable = False
    received = pickled_out_of_band(layer)
    helpers.assert_same_bits(predict(received, blocks(layer, x)).compute(), expected)
    given = sequences(dtype)
    for part in given:
        part.flags.writeable = False
    helpers.assert_same_bits(predict(received, dask.bag.from_sequence(given)).compute()[3], layer(given[3])[0])


def pickled_out_of_band(layer):
    """As it arrives at a worker: arrays lie in bytes, which nobody can write to."""
    buffers = []
    data = pickle.dumps(layer, protocol=5, buffer_callback=buffers.append)
    received = pickle.loads(data, buffers=[bytes(buffer) for buffer in buffers])
    assert not received.parameters["kernel_l0"].flags.writeable
    return received


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_pickled_layer_is_its_weights(dtype, options):
    """No caches, no scratch, nothing twice: also after calls."""
    layer = IndyGRU(65, 40, dtype=dtype, seed=0, **options)
    x = np.random.default_rng(0).standard_normal((200, 33, 65)).astype(dtype)
    layer(x)
    layer.forward(x)
    weights = sum(array.nbytes for array in layer.parameters.values())
    no_bias = 0 if layer.bias else 120 * layer.dtype.itemsize
    assert len(pickle.dumps(layer, protocol=5)) < weights + no_bias + 2500


def test_the_caller_may_go_on_training():
    layer = make()
    x, _ = inputs(layer)
    y, lazy = layer(x)[0], predict(layer, blocks(layer, x))
    layer.parameters["kernel_l0"][...] *= 0.5
    helpers.assert_same_bits(lazy.compute(), y)
    again = predict(layer, blocks(layer, x))
    assert again.name != lazy.name
    assert not helpers.same_bits(again.compute(), y)


TOKENS = """
    import numpy as np
    import dask
    import dask.bag
    from indygru_cpu import IndyGRU
    from indygru_cpu.dask import predict
    layer = IndyGRU(9, 7, dropout=0.5, num_layers=2, seed=5)
    x = dask.array.ones((17, 33, 9), chunks=(17, 8, 9), dtype=np.float32)
    print(dask.base.tokenize(layer), predict(layer, x).name, predict(layer, dask.bag.from_sequence([1])).name)
"""


def test_names_are_the_same_in_every_process(run_python):
    assert run_python(TOKENS, PYTHONHASHSEED="1") == run_python(TOKENS, PYTHONHASHSEED="2")


def test_a_token_is_what_results_depend_on(tmp_path):
    tokenize = dask.base.tokenize
    layer = make(num_layers=2)
    token = tokenize(layer)
    layer.save(tmp_path / "layer.npz")
    assert tokenize(IndyGRU.load(tmp_path / "layer.npz", num_threads=2)) == token
    assert tokenize(pickled_out_of_band(layer)) == token
    others = [make(num_layers=2, seed=4), make(), make(num_layers=2, activation="relu"), make(np.float64, num_layers=2)]
    layer.parameters["bias_l1"][-1] += 1
    assert len({token, tokenize(layer), *map(tokenize, others)}) == 6


@pytest.mark.parametrize(("given", "expected"), [({}, 1), ({"num_threads": 2}, 2)])
def test_threads_of_a_task(monkeypatch, given, expected):
    """One unless asked, whatever the layer says itself; the work here is enough for many."""
    layer, seen, infer = IndyGRU(D, 130, seed=0, num_threads=8), [], _engine.forward
    x = np.random.default_rng(0).standard_normal((90, B, D), dtype=np.float32)
    monkeypatch.setattr(_engine, "forward", lambda *args: seen.append(args[3]) or infer(*args))
    predict(layer, dask.array.from_array(x, chunks=(90, 17, D)), **given).compute()
    predict(layer, dask.bag.from_sequence([x[:, i] for i in range(B)], npartitions=2), **given).compute()
    busy = [threads.number for threads in seen if threads.number > 1 or expected == 1]
    assert len(busy) >= 4
    assert set(busy) == {expected}


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


@pytest.mark.parametrize(("error", "says", "x", "options"), REFUSED, ids=[each[1][:40] for each in REFUSED])
def test_refused_at_once(error, says, x, options):
    with pytest.raises(error, match=says):
        predict(make(), x, **options)


def test_refused_when_computed():
    wrong = sequences(np.float32)
    wrong[5] = wrong[5].astype(np.float64)
    with pytest.raises(TypeError, match="x, sequence 5 of its partition has dtype float64, but the layer has float32"):
        predict(make(), dask.bag.from_sequence(wrong, npartitions=1)).compute()
    wrong[5] = wrong[5][:, 1:].astype(np.float32)
    with pytest.raises(ValueError, match=r"x, sequence 5 of its partition: expected shape \(T, 9\), got \(17, 8\)"):
        predict(make(), dask.bag.from_sequence(wrong, npartitions=1)).compute()
    with pytest.raises(ValueError, match="lengths: expected values from 0 to 17, got 18 for row 0"):
        predict(make(), X, lengths=[18] * B).compute()


def test_docstring():
    found = doctest.testmod(bridge)
    assert found.attempted > 5
    assert found.failed == 0


def test_something_else_than_a_layer():
    with pytest.raises(TypeError, match="layer: expected an IndyGRU, got int"):
        predict(3, X)


def test_nothing_happens_at_import(run_python):
    """Who does not use the bridge does not load Dask; who does starts no thread by it."""
    printed = run_python("""
        import os, sys
        import indygru_cpu
        assert "dask" not in sys.modules
        import dask.array, dask.bag
        threads = lambda: len(os.listdir("/proc/self/task")) if os.path.exists("/proc/self/task") else 0
        before, config = threads(), str(dask.config.config)
        import indygru_cpu.dask
        print(threads() - before, str(dask.config.config) == config, "distributed" in sys.modules)
    """)
    assert printed == "0 True False"


def test_the_error_names_the_extra(run_python):
    said = run_python("import sys; sys.modules['dask'] = None; import indygru_cpu.dask", status=1)
    assert 'pip install "indygru_cpu[dask]"' in said


CLUSTER = """
    import os, signal, time
    import dask.array
    import numpy as np
    from distributed import Client, LocalCluster
    from indygru_cpu import IndyGRU
    from indygru_cpu.dask import predict

    def slow(block):  # so that, usually, most blocks are still to come when the worker is killed
        time.sleep(0.2)
        return block

    def bits(layer, x):
        return layer(x, num_threads=1)[0].tobytes()

    layer = IndyGRU(9, 33, num_layers=2, bidirectional=True, seed=0, reproducible=True)
    x = np.random.default_rng(0).standard_normal((40, 100, 9), dtype=np.float32)
    lengths = np.random.default_rng(1).integers(0, 41, 100)
    expected = layer(x, lengths=lengths)[0]
    with LocalCluster(2, threads_per_worker=1, dashboard_address=":0") as cluster, Client(cluster) as client:
        client.wait_for_workers(2)
        assert set(client.run(bits, layer, x).values()) == {layer(x)[0].tobytes()}
        before = client.run(os.getpid)
        blocks = dask.array.from_array(x, chunks=(40, 9, 9)).map_blocks(slow, dtype=x.dtype)
        y = predict(layer, blocks, lengths=lengths).persist(optimize_graph=False)
        futures = client.futures_of(y)
        while not (held := [where for where in client.who_has(futures).values() if where]):
            time.sleep(0.01)
        os.kill(before[held[0][0]], signal.SIGKILL)
        found = y.compute()
        client.wait_for_workers(2)
        print(len(futures), len(set(client.run(os.getpid).values()) - set(before.values())),
              found.shape == expected.shape and found.tobytes() == expected.tobytes())
"""


def test_a_worker_is_killed(tmp_path):
    """One that holds results, while others wait: all is there in the end, with the bits of a single process."""
    pytest.importorskip("distributed", reason="distributed is not installed: the extra `dask` brings it")
    printed = helpers.run_python(CLUSTER, folder=tmp_path, timeout=100)
    assert printed.splitlines()[-1] == "12 1 True"
