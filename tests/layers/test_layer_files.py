"""Layers in files and in pickles: a loaded layer equals the saved one, and shares no memory with it."""

from __future__ import annotations

import copy
import pickle

import file_checks
import numpy as np
import pytest
from helpers import assert_same_bits
from weight_files import PLAIN, RICH, random_arrays

from indygru_cpu import IndyGRU, WeightsError

path = file_checks.path


def configured_layer(configuration, **options):
    layer = IndyGRU(**configuration, **options)
    layer.load_state_dict({name: np.nan_to_num(array) for name, array in random_arrays(configuration, 1).items()})
    return layer


def layer_outputs(layer):
    rng = np.random.default_rng(5)
    return dict(
        zip(("y", "h_n"), layer(rng.standard_normal((17, 8, layer.input_size)).astype(layer.dtype)), strict=True)
    )


def layer_attributes(layer):
    return {name: getattr(layer, name) for name in RICH}


def assert_separate_copy(results, layer):
    """The layers are equal, and share no parameters."""
    assert type(results) is type(layer)
    assert layer_attributes(results) == layer_attributes(layer)
    assert_same_bits(dict(results.parameters), dict(layer.parameters))
    assert_same_bits(layer_outputs(results), layer_outputs(layer))
    before = layer_outputs(layer)
    for name, array in results.parameters.items():
        assert not np.shares_memory(array, layer.parameters[name])
        array += 1
    assert_same_bits(layer_outputs(layer), before)
    assert not np.array_equal(layer_outputs(results)["y"], before["y"])


@pytest.mark.parametrize("configuration", [PLAIN, RICH], ids=["plain", "rich"])
class TestLayer:
    def test_save_and_load_restore_the_layer(self, path, configuration):
        layer = configured_layer(configuration, num_threads=2)
        layer.save(path)
        results = IndyGRU.load(path)
        assert results.num_threads is None
        assert_separate_copy(results, layer)
        assert IndyGRU.load(path, num_threads=1).num_threads == 1

    def test_save_leaves_the_layer_as_it_was(self, path, configuration):
        layer = configured_layer(configuration)
        before = layer.state_dict()
        layer.save(path)
        first = path.read_bytes()
        layer.save(path)
        assert path.read_bytes() == first
        assert_same_bits(layer.state_dict(), before)

    @pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
    def test_pickle_restores_the_layer(self, configuration, protocol):
        layer = configured_layer(configuration, num_threads=2)
        results = pickle.loads(pickle.dumps(layer, protocol))
        assert results.num_threads == 2
        assert_separate_copy(results, layer)

    def test_deepcopy_copies_the_layer(self, configuration):
        layer = configured_layer(configuration, num_threads=2)
        results = copy.deepcopy(layer)
        assert results.num_threads == 2
        assert_separate_copy(results, layer)

    def test_copy_computes_the_gradients_of_the_layer(self, configuration):
        layer = configured_layer(configuration)
        results = copy.deepcopy(layer)
        rng = np.random.default_rng(6)
        x = rng.standard_normal((17, 8, layer.input_size)).astype(layer.dtype)
        gradients = []
        for each in (layer, results):
            y, _, tape = each.forward(x)
            gradients.append(each.backward(tape, dy=y).parameters)
        assert_same_bits(gradients[1], gradients[0])


def test_load_of_a_subclass_returns_the_subclass(path):
    class Subclass(IndyGRU):
        pass

    configured_layer(PLAIN).save(path)
    assert type(Subclass.load(path)) is Subclass


def test_load_of_a_truncated_file_names_it(path):
    configured_layer(PLAIN).save(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(WeightsError, match=f"^{path}: "):
        IndyGRU.load(path)


def test_load_with_wrong_num_threads_is_refused(path):
    configured_layer(PLAIN).save(path)
    with pytest.raises(ValueError, match="num_threads: expected at least 1, got 0"):
        IndyGRU.load(path, num_threads=0)
