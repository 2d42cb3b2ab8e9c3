"""Weight files that another process rewrites in place while they are read: a valid layer or an error results."""

from __future__ import annotations

import sys

import file_checks
import numpy as np
import pytest
from file_checks import assert_refused
from helpers import same_bits
from rewritten_files import ARRAYS, FEW_UNITS, LAYERS, MANY_UNITS, file_bytes
from weight_files import craft, text_of

from indygru_cpu import IndyGRU, WeightsError, _files
from indygru_cpu._layers.parameters import SHAPE_OPTIONS, shapes

path = file_checks.path


def rewrite(path, data):
    """Rewrite a file in place: readers that have it open read the new bytes."""
    with open(path, "r+b") as file:
        file.write(data)
        file.truncate()


def read_while_rewritten(path, data, n_calls):
    """Load a layer from a file that is rewritten before the n-th function call of loading.

    Returns the layer, or None if the file is refused, and whether loading made that many calls.
    """
    remaining = n_calls

    def count(frame, event, argument):
        nonlocal remaining
        if event in ("call", "c_call"):
            remaining -= 1
            if remaining == 0:
                sys.setprofile(None)
                rewrite(path, data)

    sys.setprofile(count)
    try:
        return IndyGRU.load(path, num_threads=1), remaining <= 0
    except WeightsError:
        return None, remaining <= 0
    finally:
        sys.setprofile(None)


def is_valid(layer):
    """Whether a layer is one of LAYERS with its arrays."""
    return any(
        all(getattr(layer, name) == configuration[name] for name in SHAPE_OPTIONS)
        and all(same_bits(array, arrays[name]) for name, array in layer.parameters.items())
        for configuration, arrays in zip(LAYERS, ARRAYS, strict=True)
    )


@pytest.mark.parametrize("second", ["a valid file", "shapes of another layer"])
def test_load_of_a_file_rewritten_before_any_call_is_valid_or_refused(path, second):
    """Rewritten between any two calls, so that two reads of the same bytes cannot differ unnoticed."""
    first = file_bytes(path, FEW_UNITS, ARRAYS[0])
    other = file_bytes(path, MANY_UNITS if second == "a valid file" else FEW_UNITS, ARRAYS[1])
    n_read, n_calls, is_rewritten = 0, 0, True
    while is_rewritten:
        n_calls += 1
        path.write_bytes(first)
        layer, is_rewritten = read_while_rewritten(path, other, n_calls)
        n_read += layer is not None
        assert layer is None or is_valid(layer), f"rewritten before call {n_calls}"
    assert n_calls > 50
    assert n_read > 1
    # The single read of a .safetensors file gives one of two valid files; a .npz file is read in parts.
    assert (n_read < n_calls) == (path.suffix == ".npz" or second == "shapes of another layer")


def test_load_of_a_file_rewritten_by_a_thread_is_valid_or_refused(path, run_script):
    """Rewritten at any time, also during a read, in a separate process, which a wrong shape could crash."""
    assert run_script("files/load_while_rewritten.py", path) == "valid"


@pytest.mark.parametrize("change", [lambda array: array.T, lambda array: array.astype(np.float64)])
def test_arrays_that_differ_from_their_headers_raise(path, change, monkeypatch):
    craft(path, text_of(FEW_UNITS), ARRAYS[0])
    reader = _files.npz.NpzReader if path.suffix == ".npz" else _files.safetensors.SafetensorsReader
    read = reader.read_arrays
    monkeypatch.setattr(reader, "read_arrays", lambda self: {name: change(array) for name, array in read(self).items()})
    assert_refused(path, r"'kernel_l0': expected (shape \(22, 6\), got \(6, 22\)|dtype float32, got 'float64')")


def test_rewritten_layers_have_equal_sizes_and_different_shapes():
    few, many = (shapes(*(configuration[name] for name in SHAPE_OPTIONS)) for configuration in LAYERS)
    assert few.keys() == many.keys()
    assert all(few[name] != many[name] for name in few)
    assert len({sum(array.size for array in arrays.values()) for arrays in ARRAYS}) == 1
