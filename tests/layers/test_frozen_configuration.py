"""Assignments to a layer, its arrays or its streams are refused or without effect, and never make a wrong address."""

from __future__ import annotations

import copy
import pickle
import pickletools

import helpers
import numpy as np
import pytest

from indygru_cpu import IndyGRU, functional

OPTIONS = {
    "input_size": 4000, "hidden_size": 1, "num_layers": 3, "bias": False, "batch_first": True, "dropout": 0.5,
    "bidirectional": True, "activation": "relu", "dtype": np.float64, "groups": 0, "reproducible": True,
    "reset_gate": False,
}  # fmt: skip


def tiny_layer(**options):
    return IndyGRU(3, 5, seed=0, **options)


def tiny_inputs(seed=0):
    return np.random.default_rng(seed).standard_normal((6, 4, 3), dtype=np.float32)


@pytest.mark.parametrize("name", OPTIONS)
def test_assignment_to_a_layer_option_is_refused(name):
    layer, x = tiny_layer(), tiny_inputs()
    before, y = getattr(layer, name), layer(x)[0]
    with pytest.raises(AttributeError, match=rf"{name}: .*read-only.*make a new layer.*{name}="):
        setattr(layer, name, OPTIONS[name])
    assert getattr(layer, name) == before
    helpers.assert_same_bits(layer(x)[0], y)


def test_layer_options_of_the_test_are_those_of_the_constructor():
    assert tiny_layer()._configuration().keys() == OPTIONS.keys()


def test_layer_num_threads_assigned_is_checked_and_used():
    layer = tiny_layer(num_threads=1)
    layer.num_threads = 3
    assert layer.num_threads == 3
    for wrong, kind in [(0, ValueError), (True, TypeError), ("2", TypeError), (1.5, TypeError)]:
        with pytest.raises(kind, match="num_threads"):
            layer.num_threads = wrong
        assert layer.num_threads == 3
    layer.num_threads = None
    assert layer.num_threads is None


@pytest.mark.parametrize("seed", [IndyGRU(4, 7, seed=0).parameters, -1, 1.5, "abc", {"kernel_l0": np.zeros(3)}])
def test_layer_seed_of_another_kind_is_refused(seed):
    with pytest.raises(TypeError, match=r"seed: expected what numpy\.random\.default_rng takes"):
        IndyGRU(3, 5, seed=seed)


@pytest.mark.filterwarnings("ignore:Setting the shape:DeprecationWarning")
@pytest.mark.parametrize("name", ["kernel_l0", "recurrent_kernel_l0", "bias_l0"])
def test_parameter_reshaped_in_place_changes_no_result(name, tmp_path):
    layer, x = tiny_layer(), tiny_inputs()
    expected, state = layer(x)[0], layer.state_dict()
    array = layer.parameters[name]
    array.shape = (1, array.size)
    y, _, tape = layer.forward(x)
    helpers.assert_same_bits(y, expected)
    assert {key: value.shape for key, value in layer.backward(tape, y).parameters.items()} == {
        key: value.shape for key, value in state.items()
    }
    helpers.assert_same_bits(layer.state_dict(), state)
    helpers.assert_same_bits(layer.stream(4).push_many(x), tiny_layer(reproducible=True)(x)[0])
    layer.save(tmp_path / "layer.npz")
    for restored in (IndyGRU.load(tmp_path / "layer.npz"), copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        helpers.assert_same_bits(restored.state_dict(), state)
        helpers.assert_same_bits(restored(x)[0], expected)


@pytest.mark.filterwarnings("ignore:Setting the (shape|strides|dtype):DeprecationWarning")
@pytest.mark.parametrize(("attribute", "value"), [("shape", (15, 1, 1)), ("strides", (0,)), ("dtype", np.int32)])
def test_base_of_a_parameter_changed_in_place_changes_no_result(attribute, value):
    layer, x = tiny_layer(), tiny_inputs()
    y, state = layer(x)[0], layer.state_dict()
    setattr(layer.parameters["bias_l0"].base, attribute, value)
    helpers.assert_same_bits(layer(x)[0], y)
    helpers.assert_same_bits(layer.state_dict(), state)
    helpers.assert_same_bits(layer.stream(4).push_many(x), tiny_layer(reproducible=True)(x)[0])


def test_parameter_resized_in_place_is_refused():
    """The layer owns its memory."""
    for array in tiny_layer().parameters.values():
        with pytest.raises(ValueError, match="does not own its data"):
            array.resize(10**6, refcheck=False)


def test_parameters_are_the_same_arrays_at_every_access():
    parameters = tiny_layer().parameters
    assert all(parameters[name] is array for name, array in parameters.items())


@pytest.mark.parametrize("option", [{}, {"dropout": 0.25, "num_layers": 2}])
def test_pickle_of_a_layer_names_no_generator(option):
    """Only the same major version of NumPy can load a pickled generator."""
    layer, x = tiny_layer(**option), tiny_inputs()
    data = pickle.dumps(layer)
    assert not [argument for _, argument, _ in pickletools.genops(data) if "random" in str(argument)]
    restored = pickle.loads(data)
    for _ in range(2):  # dropout draws the same numbers
        helpers.assert_same_bits(restored.forward(x)[0], layer.forward(x)[0])


@pytest.mark.parametrize(
    "bits", [np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64]
)
def test_pickle_of_a_layer_keeps_any_generator_of_numpy(bits):
    layer, x = IndyGRU(3, 5, num_layers=2, dropout=0.5, seed=np.random.Generator(bits(7))), tiny_inputs()
    layer.forward(x)
    restored = pickle.loads(pickle.dumps(layer))
    helpers.assert_same_bits(restored.forward(x)[0], layer.forward(x)[0])


class ForeignBitGenerator(np.random.PCG64):
    """A bit generator of another library."""


def test_pickle_of_a_layer_keeps_a_generator_of_another_library():
    layer, x = IndyGRU(3, 5, num_layers=2, dropout=0.5, seed=np.random.Generator(ForeignBitGenerator(7))), tiny_inputs()
    restored = pickle.loads(pickle.dumps(layer))
    assert type(restored._rng.bit_generator) is ForeignBitGenerator
    helpers.assert_same_bits(restored.forward(x)[0], layer.forward(x)[0])


def test_seed_that_cannot_spawn_is_refused_where_dropout_needs_it():
    seed = np.random.RandomState(1)
    IndyGRU(3, 5, seed=seed)
    with pytest.raises(TypeError, match="seed: expected a generator that can spawn"):
        IndyGRU(3, 5, num_layers=2, dropout=0.5, seed=seed)


def test_option_assigned_its_present_value_stays():
    """Subclasses assign their arguments so."""
    layer = tiny_layer()
    layer.bias, layer.hidden_size = True, 5
    assert (layer.bias, layer.hidden_size) == (True, 5)
    with pytest.raises(AttributeError, match="read-only"):
        layer.bias = 1


def test_bias_of_zeros_that_calls_share_is_read_only():
    case = helpers.random_case((6, 4, 3, 5), np.float32)
    _, _, tape = functional.forward(*case.arguments[:4], None, tape=True)
    with pytest.raises(ValueError, match="read-only"):
        tape.layer.weights[0][0][2][0] = 1


def test_pickle_of_a_child_class_keeps_its_attributes():
    layer = NamedLayer(3, 5, seed=0)
    layer.name = "first"
    restored = pickle.loads(pickle.dumps(layer))
    assert (type(restored), restored.name, restored.num_threads) == (NamedLayer, "first", None)


class NamedLayer(IndyGRU):
    """A layer with an additional attribute."""


def overwrite_columns(h0):
    h0[:, ::2] = 0


@pytest.mark.parametrize("kind", ["forward", "recompute", "ragged", "stack"])
def test_state_overwritten_before_backward_changes_no_gradient(kind):
    layer = tiny_layer(num_layers=2, bidirectional=True) if kind == "stack" else tiny_layer()
    x, h0 = (
        tiny_inputs(),
        np.random.default_rng(1).standard_normal((layer.num_layers * (1 + layer.bidirectional), 4, 5)),
    )
    h0 = h0.astype(np.float32)

    def gradients(h, change):
        if kind == "ragged":
            y, _, tape = layer.ragged(x.reshape(-1, 3), [0, 3, 3, 20, 24], h, tape=True)
        else:
            y, _, tape = layer.forward(x, h, recompute=kind == "recompute")
        change(h)
        results = layer.backward(tape, y)
        return results.parameters | {"x": results.x, "h0": results.h0}

    expected = gradients(h0.copy(), lambda h: None)
    helpers.assert_same_bits(gradients(h0.copy(), overwrite_columns), expected)


def test_functional_state_overwritten_before_backward_changes_no_gradient():
    case = helpers.random_case((6, 4, 3, 5), np.float64)
    expected = case.run()
    copied = case.copy()
    _, _, tape = functional.forward(*copied.arguments, tape=True)
    overwrite_columns(copied.h0)
    results = functional.backward(tape, copied.dy, copied.dh_n)._asdict()
    helpers.assert_same_bits(results, {name: expected[name] for name in results})


@pytest.mark.parametrize("wrong", [5, "bar", object()])
def test_progress_that_cannot_be_called_is_refused_and_nothing_is_written(wrong):
    case = helpers.random_case((6, 4, 3, 5), np.float32)
    y, h = np.full((6, 4, 5), 7, np.float32), np.full((4, 5), 7, np.float32)
    with pytest.raises(TypeError, match="progress: expected"):
        functional.forward(*case.arguments, out=y, h_out=h, progress=wrong)
    layer, states = tiny_layer(), h[None]
    with pytest.raises(TypeError, match="progress: expected"):
        layer(tiny_inputs(), out=y, h_out=states, progress=wrong)
    assert (y == 7).all()
    assert (h == 7).all()


class Bar:
    """The part of a tqdm bar that the layer uses."""

    n, total = 0, 3

    def update(self, steps):
        self.n += steps


def test_progress_bar_of_a_refused_call_stays_as_it_was():
    layer, x = tiny_layer(), tiny_inputs()
    refused = [
        lambda bar: layer(x, out=np.zeros((1, 2), np.float32), progress=bar),
        lambda bar: layer(x, h_out=np.zeros((1, 2), np.float32), progress=bar),
        lambda bar: layer(x, num_threads=0, progress=bar),
        lambda bar: layer.forward(x, num_threads=0, progress=bar),
        lambda bar: layer.forward(x, lengths=[1], progress=bar),
    ]
    for call in refused:
        bar = Bar()
        with pytest.raises(ValueError):  # noqa: PT011  (other tests pin the text)
            call(bar)
        assert (bar.n, bar.total) == (0, 3)


def test_lengths_written_by_another_thread_are_used_as_they_were_checked(run_script):
    assert run_script("layers/lengths_written_by_another_thread.py") == "done"


def test_stream_whose_layer_was_exchanged_refuses_to_refresh():
    layer, x = tiny_layer(), tiny_inputs()
    stream = layer.stream(4)
    for other in (
        IndyGRU(30, 50, seed=0),
        tiny_layer(dtype=np.float64),
        tiny_layer(num_layers=2),
        IndyGRU(6, 5, seed=0),
    ):
        layer._bound = other._bound
        with pytest.raises(ValueError, match="layer"):
            stream.refresh()
    helpers.assert_same_bits(stream.push_many(x), tiny_layer(reproducible=True)(x)[0])


def test_stream_of_a_stack_without_weights_is_refused(run_script):
    assert run_script("layers/stream_of_foreign_weights.py") == "done"


def test_stream_result_resized_in_place_is_refused():
    stream = tiny_layer().stream(4)
    y = stream.push(tiny_inputs()[0])
    with pytest.raises(ValueError, match="resize"):
        y.resize(10**6, refcheck=False)


@pytest.mark.filterwarnings("ignore:Setting the shape:DeprecationWarning")
def test_stream_whose_weights_were_reshaped_computes_as_before():
    stream, x = tiny_layer().stream(4), tiny_inputs()
    expected = tiny_layer().stream(4).push_many(x)
    for array in stream._bound.weights[0][0]:
        array.shape = (1, array.size)
    helpers.assert_same_bits(np.stack([stream.push(x_t).copy() for x_t in x]), expected)
