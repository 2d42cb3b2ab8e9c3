"""Weight files that another process rewrites in place while they are read: the layer is one of both files', or none."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import file_checks
import numpy as np
import pytest
from file_checks import assert_refused
from helpers import same_bits
from weight_files import PLAIN, SIZES, craft, data_of, header_of, random_arrays, tensors, text_of

from indygru_cpu import IndyGRU, WeightsError, _files
from indygru_cpu._layers.parameters import shapes

path = file_checks.path
#: Two layers with the same number of weights, whose parameters have other shapes. The files have no checksum of ours.
LAYERS = [PLAIN | {"input_size": 22, "hidden_size": 2}, PLAIN | {"input_size": 2, "hidden_size": 12}]
FEW, MANY = LAYERS
ARRAYS = [random_arrays(configuration) for configuration in LAYERS]


def bytes_of(path, configuration, arrays):
    """What a sound or hostile file holds. A header of safetensors is longer than the buffer of an open file."""
    if path.suffix == ".npz":
        craft(path, text_of(configuration), arrays)
    else:
        header = json.dumps(header_of(arrays, text_of(configuration))).encode()
        tensors(path, header.ljust(30_000), data_of(arrays))
    data = path.read_bytes()
    path.unlink()
    return data


def rewrite(path, data):
    """Rewrite a file in place: whoever has opened it reads the new bytes."""
    with open(path, "r+b") as file:
        file.write(data)
        file.truncate()


def read_while_rewritten(path, data, n_calls):
    """Load a layer from a file that gets other bytes before the n-th call, of whatever function, that loading makes.

    Returns the layer, or None if it is refused, and whether there were as many calls.
    """
    left = n_calls

    def count(frame, event, argument):
        nonlocal left
        if event in ("call", "c_call"):
            left -= 1
            if left == 0:
                sys.setprofile(None)
                rewrite(path, data)

    sys.setprofile(count)
    try:
        return IndyGRU.load(path, num_threads=1), left <= 0
    except WeightsError:
        return None, left <= 0
    finally:
        sys.setprofile(None)


def is_one_of_them(layer):
    return any(
        {name: getattr(layer, name) for name in SIZES} == {name: configuration[name] for name in SIZES}
        and all(same_bits(array, arrays[name]) for name, array in layer.parameters.items())
        for configuration, arrays in zip(LAYERS, ARRAYS, strict=True)
    )


@pytest.mark.parametrize("second", ["a sound file", "shapes of another layer"])
def test_load_of_a_file_rewritten_before_any_call_is_sound_or_refused(path, second):
    """At every place between two calls, so that no two readings of the same bytes can differ unnoticed."""
    first = bytes_of(path, FEW, ARRAYS[0])
    other = bytes_of(path, MANY if second == "a sound file" else FEW, ARRAYS[1])
    n_read, n_calls, goes_on = 0, 0, True
    while goes_on:
        n_calls += 1
        path.write_bytes(first)
        layer, goes_on = read_while_rewritten(path, other, n_calls)
        n_read += layer is not None
        assert layer is None or is_one_of_them(layer), f"rewritten before call {n_calls}"
    assert n_calls > 50
    assert n_read > 1
    # The single read of a .safetensors file gives one of two sound files; a .npz file is read in parts.
    assert (n_read < n_calls) == (path.suffix == ".npz" or second == "shapes of another layer")


def test_load_of_a_file_rewritten_by_a_thread_is_sound_or_refused(path, run_python):
    """At any time, also amid a read. A wrong shape may end the process."""
    code = """
        import os, sys, threading
        import numpy as np
        from test_files_rewritten import ARRAYS, FEW, LAYERS, MANY, SIZES, bytes_of
        from pathlib import Path
        from indygru_cpu import IndyGRU, WeightsError
        from indygru_cpu._layers.parameters import shapes

        path = Path(sys.argv[1])
        sound = [bytes_of(path, *layer) for layer in zip(LAYERS, ARRAYS)]
        hostile = [bytes_of(path, *layer) for layer in zip(LAYERS, reversed(ARRAYS))]
        path.write_bytes(sound[0])
        assert IndyGRU.load(path).hidden_size == FEW["hidden_size"]
        ends = threading.Event()

        def write():
            file = os.open(path, os.O_WRONLY)
            while not ends.is_set():
                for data in (sound[0], hostile[0], sound[1], hostile[1]):
                    os.pwrite(file, data, 0)
            os.close(file)

        thread = threading.Thread(target=write)
        thread.start()
        for _ in range(150):
            try:
                layer = IndyGRU.load(path, num_threads=1)
            except WeightsError:
                continue
            found = {name: array.shape for name, array in layer.parameters.items()}
            assert found == shapes(*(getattr(layer, name) for name in SIZES)), found
            y, _ = layer(np.ones((3, 2, layer.input_size), np.float32))
            assert y.shape == (3, 2, layer.hidden_size)
        ends.set()
        thread.join()
        print("sound")
    """
    assert run_python(code, path, PYTHONPATH=os.pathsep.join([str(Path(__file__).parent), *sys.path])) == "sound"


@pytest.mark.parametrize("change", [lambda array: array.T, lambda array: array.astype(np.float64)])
def test_arrays_of_a_reader_are_compared_with_the_configuration(path, change, monkeypatch):
    """Whatever a reader says of the arrays beforehand."""
    craft(path, text_of(FEW), ARRAYS[0])
    reader = (_files.npz if path.suffix == ".npz" else _files.safetensors).Reader
    arrays = reader.arrays
    monkeypatch.setattr(reader, "arrays", lambda self: {name: change(array) for name, array in arrays(self).items()})
    assert_refused(path, r"'kernel_l0': expected (shape \(22, 6\), got \(6, 22\)|dtype float32, got 'float64')")


def test_the_shapes_of_the_layers_differ():
    """The tests above rewrite one sound file as another, of the same number of weights."""
    few, many = (shapes(*(configuration[name] for name in SIZES)) for configuration in LAYERS)
    assert few.keys() == many.keys()
    assert all(few[name] != many[name] for name in few)
    assert len({sum(array.size for array in arrays.values()) for arrays in ARRAYS}) == 1
