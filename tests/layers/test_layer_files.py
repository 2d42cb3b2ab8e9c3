"""Layers in files and in pickles: what is loaded is the layer that was saved, and yet another."""

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


def layer_of(configuration, **options):
    layer = IndyGRU(**configuration, **options)
    layer.load_state_dict({name: np.nan_to_num(array) for name, array in random_arrays(configuration, 1).items()})
    return layer


def outputs(layer):
    rng = np.random.default_rng(5)
    return dict(
        zip(("y", "h_n"), layer(rng.standard_normal((17, 8, layer.input_size)).astype(layer.dtype)), strict=True)
    )


def attributes(layer):
    return {name: getattr(layer, name) for name in RICH}


def assert_same_layer(found, layer):
    """The same and yet another: parameters are not shared."""
    assert type(found) is type(layer)
    assert attributes(found) == attributes(layer)
    assert_same_bits(dict(found.parameters), dict(layer.parameters))
    assert_same_bits(outputs(found), outputs(layer))
    before = outputs(layer)
    for name, array in found.parameters.items():
        assert not np.shares_memory(array, layer.parameters[name])
        array += 1
    assert_same_bits(outputs(layer), before)
    assert not np.array_equal(outputs(found)["y"], before["y"])


@pytest.mark.parametrize("configuration", [PLAIN, RICH], ids=["plain", "rich"])
class TestLayer:
    def test_save_and_load(self, path, configuration):
        layer = layer_of(configuration, num_threads=2)
        layer.save(path)
        found = IndyGRU.load(path)
        assert found.num_threads is None
        assert_same_layer(found, layer)
        assert IndyGRU.load(path, num_threads=1).num_threads == 1

    def test_saving_leaves_the_layer_alone(self, path, configuration):
        layer = layer_of(configuration)
        before = layer.state_dict()
        layer.save(path)
        first = path.read_bytes()
        layer.save(path)
        assert path.read_bytes() == first
        assert_same_bits(layer.state_dict(), before)

    @pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
    def test_pickle(self, configuration, protocol):
        layer = layer_of(configuration, num_threads=2)
        found = pickle.loads(pickle.dumps(layer, protocol))
        assert found.num_threads == 2
        assert_same_layer(found, layer)

    def test_deepcopy(self, configuration):
        layer = layer_of(configuration, num_threads=2)
        found = copy.deepcopy(layer)
        assert found.num_threads == 2
        assert_same_layer(found, layer)

    def test_a_copy_trains_on_its_own(self, configuration):
        layer = layer_of(configuration)
        found = copy.deepcopy(layer)
        rng = np.random.default_rng(6)
        x = rng.standard_normal((17, 8, layer.input_size)).astype(layer.dtype)
        gradients = []
        for each in (layer, found):
            y, _, tape = each.forward(x)
            gradients.append(each.backward(tape, dy=y).parameters)
        assert_same_bits(gradients[1], gradients[0])


def test_load_of_a_subclass(path):
    class Mine(IndyGRU):
        pass

    layer_of(PLAIN).save(path)
    assert type(Mine.load(path)) is Mine


def test_load_names_the_file(path):
    layer_of(PLAIN).save(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(WeightsError, match=f"^{path}: "):
        IndyGRU.load(path)


def test_load_checks_num_threads(path):
    layer_of(PLAIN).save(path)
    with pytest.raises(ValueError, match="num_threads: expected at least 1, got 0"):
        IndyGRU.load(path, num_threads=0)
