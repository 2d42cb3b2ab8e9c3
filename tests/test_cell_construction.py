"""The section "Construction" of the observed contract; inherited weights and configuration; copies."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from indygru_cpu import AUTO_REUSE, IndyGRUCell, initializers, reset_default_scope, variable_scope

GOLDEN = Path(__file__).parent / "data" / "golden"
NAMES = [
    "gates/kernel_w",
    "gates/kernel_u",
    "gates/bias",
    "candidate/kernel",
    "candidate/kernel_u",
    "candidate/bias",
]


@pytest.fixture(autouse=True)
def rng():
    reset_default_scope(seed=11)
    return np.random.default_rng(5)


def built(*args, depth=5, **kwargs):
    cell = IndyGRUCell(*args, **kwargs)
    cell.build((None, depth))
    return cell


# --- arguments ---------------------------------------------------------------------------------------------


def test_order_of_arguments(rng):
    def kernel(shape, dtype):
        return np.full(shape, 0.25, dtype)

    cell = IndyGRUCell(7, "relu", AUTO_REUSE, kernel, "ones", "enc", "float64")
    cell(rng.normal(size=(3, 5)), rng.normal(size=(3, 7)))
    twin = IndyGRUCell(7, "relu", AUTO_REUSE, kernel, "ones", "enc", "float64")
    twin.build((3, 5))
    assert cell.name == cell.scope_name == twin.scope_name == "enc"
    assert cell.dtype == "float64"
    assert twin.variables == cell.variables
    assert (cell.named_variables["gates/kernel_w"] == 0.25).all()
    assert (cell.named_variables["candidate/bias"] == 1).all()


@pytest.mark.parametrize("keyword", ["trainable", "input_size", "recurrent_kernel_initializer"])
def test_any_other_keyword_is_a_type_error(keyword):
    with pytest.raises(TypeError, match=keyword):
        IndyGRUCell(7, **{keyword: True})


# --- activation --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", [None, "", 0, (), False, np.tanh, "tanh"])
def test_falsy_activations_and_numpy_tanh_are_tanh(activation, rng):
    x, h = rng.normal(size=(3, 5)), rng.normal(size=(3, 7))
    tanh, cell = built(7, dtype="float64"), built(7, activation, dtype="float64")
    cell.set_weights(tanh.get_weights())
    np.testing.assert_array_equal(cell(x, h)[0], tanh(x, h)[0])


@pytest.mark.parametrize(("activation", "name"), [("swish", "str"), (3, "int"), ((np.tanh,), "tuple")])
def test_what_cannot_be_called_fails_at_the_first_call(activation, name, rng):
    cell = IndyGRUCell(7, activation)
    with pytest.raises(TypeError, match=f"'{name}' object is not callable.*activation"):
        cell(rng.normal(size=(3, 5)), rng.normal(size=(3, 7)))
    assert not cell.built


# --- num_units ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_units", "error", "message"),
    [
        (-1, ValueError, "Dimension -2 must be >= 0"),
        (-17.0, ValueError, "Dimension -34 must be >= 0"),
        (2.5, ValueError, r"Ambiguous dimension: 2\.5"),
        (float("nan"), ValueError, "Ambiguous dimension: nan"),
        (float("inf"), ValueError, "Ambiguous dimension: inf"),
        ("4", ValueError, "text '4'"),
        (None, TypeError, "got None"),
        ([3], TypeError, r"got \[3\]"),
        ((3,), TypeError, r"got \(3,\)"),
    ],
)
def test_num_units_is_checked_when_building(num_units, error, message, rng):
    cell = IndyGRUCell(num_units)
    with pytest.raises(error, match=f"num_units: .*{message}"):
        cell.build((None, 5))
    with pytest.raises(error, match="num_units"):
        cell(rng.normal(size=(3, 5)), rng.normal(size=(3, 7)))
    assert not cell.built


@pytest.mark.parametrize(("num_units", "n"), [(3.0, 3), (True, 1), (np.int8(100), 100), (np.float32(9), 9), (0, 0)])
def test_numbers_equal_to_an_integer_are_taken(num_units, n, rng):
    cell = IndyGRUCell(num_units)
    output, _ = cell(rng.normal(size=(7, 5)), rng.normal(size=(7, n)))
    assert output.shape == (7, n)
    assert cell.count_params() == 3 * 5 * n + 6 * n


def test_sizes_are_num_units_and_cannot_be_set():
    cell = IndyGRUCell(7)
    assert (cell.state_size, cell.output_size) == (7, 7)
    for name in ("state_size", "output_size"):
        with pytest.raises(AttributeError):
            setattr(cell, name, 8)


# --- dtype -------------------------------------------------------------------------------------------------


class FrameworkType:
    """What tf.float64 looks like from outside."""

    as_numpy_dtype = np.float64


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (None, None),
        ("float32", "float32"),
        ("double", "float64"),
        (np.float64, "float64"),
        (np.dtype("float32"), "float32"),
        (np.dtype("float64"), "float64"),
        (FrameworkType(), "float64"),
        ("float", "float32"),  # as in TensorFlow, unlike NumPy
        (float, "float32"),
    ],
)
def test_dtype_is_a_name(dtype, name):
    assert IndyGRUCell(7, dtype=dtype).dtype == name


@pytest.mark.parametrize("dtype", ["foo", "int32", np.float16, "complex64", 3, bool])
def test_other_dtypes_are_a_type_error_at_construction(dtype):
    with pytest.raises(TypeError, match="dtype: expected float32 or float64, got"):
        IndyGRUCell(7, dtype=dtype)


def test_dtype_of_none_is_settled_by_building(rng):
    called, explicit = IndyGRUCell(7), IndyGRUCell(7)
    assert called.dtype is explicit.dtype is None
    called(rng.normal(size=(3, 5)), rng.normal(size=(3, 7)))
    explicit.build((3, 5))
    assert (called.dtype, explicit.dtype) == ("float64", "float32")
    assert {variable.dtype for variable in called.variables} == {np.dtype("float64")}


# --- initial values ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_default_initial_values(dtype):
    with np.load(GOLDEN / f"default_init_{dtype[0]}{dtype[-2:]}.npz", allow_pickle=False) as file:
        meta = json.loads(str(file["meta"]))
        original = {name: file[name] for name in NAMES}
    cell = built(meta["N"], depth=meta["D"], dtype=dtype)
    assert list(cell.named_variables) == NAMES
    for name, value in cell.named_variables.items():
        assert (value.shape, value.dtype) == (original[name].shape, original[name].dtype)
        if name in meta["constant"]:
            assert (value == meta["constant"][name]).all()
        else:
            limit = meta["uniform_limit"][name]
            assert 0.8 * limit < value.max() <= limit
            assert 0.8 * limit < -value.min() <= limit
            # The mean square of n numbers uniform on [-limit, limit) scatters by sqrt(4 / 45 / n) limit^2.
            scatter = np.sqrt(4 / 45 / value.size) * limit**2
            assert abs(np.mean(value.astype(float) ** 2) - limit**2 / 3) < 5 * scatter


def test_kernel_initializer_comes_before_the_scopes(rng):
    with variable_scope("a", initializer=initializers.Constant(0.5)):
        scoped, own = built(7), built(7, kernel_initializer=initializers.Constant(-2))
    for cell, value in ((scoped, 0.5), (own, -2)):
        for name in ("gates/kernel_w", "candidate/kernel"):
            assert (cell.named_variables[name] == value).all()
        for name in ("gates/kernel_u", "candidate/kernel_u"):
            u = cell.named_variables[name]
            assert len(np.unique(u)) == u.size
            assert np.abs(u).max() <= 1
        assert (cell.named_variables["gates/bias"] == 1).all()
        assert (cell.named_variables["candidate/bias"] == 0).all()


def test_bias_initializer_serves_both_biases():
    cell = built(7, bias_initializer=initializers.RandomUniform(3, 4, seed=1))
    for name in ("gates/bias", "candidate/bias"):
        value = cell.named_variables[name]
        assert ((value >= 3) & (value < 4)).all()
    assert np.abs(cell.named_variables["gates/kernel_w"]).max() < 1


@pytest.mark.parametrize("initializer", ["ones", "Ones", initializers.Ones, initializers.Ones(), initializers.ones])
def test_initializers_by_name_class_and_instance(initializer):
    cell = built(7, kernel_initializer=initializer, bias_initializer=initializer)
    assert all((cell.named_variables[name] == 1).all() for name in NAMES if not name.endswith("_u"))


def test_callables_get_shape_and_dtype():
    calls = []

    def initializer(shape, dtype):
        calls.append((shape, dtype))
        return np.full(shape, 0.5, dtype)

    built(7, kernel_initializer=initializer, dtype="float64")
    assert calls == [((5, 14), "float64"), ((5, 7), "float64")]


@pytest.mark.parametrize("argument", ["kernel_initializer", "bias_initializer"])
@pytest.mark.parametrize(
    ("identifier", "message"),
    [
        (3, "Could not interpret initializer identifier: 3"),
        (np.full((5, 14), 0.5), r"Could not interpret initializer identifier: \[\["),
        ("foo", "Unknown initializer: foo"),
    ],
)
def test_what_is_no_initializer(argument, identifier, message):
    with pytest.raises(ValueError, match=message):
        IndyGRUCell(7, **{argument: identifier}).build((None, 5))


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        (np.full((5, 7), 0.5, np.float32), ValueError, r"\(5, 14\).*\(5, 7\)"),
        (np.full((5, 14), 0.5), TypeError, "float64"),
    ],
)
def test_initial_values_that_do_not_fit_leave_nothing_behind(result, error, message):
    cell = IndyGRUCell(7, kernel_initializer=lambda shape, dtype: result)
    with pytest.raises(error, match=f"gates/kernel_w.*{message}"):
        cell.build((None, 5))
    assert not cell.built
    assert built(7).scope_name == "indy_gru_cell"


def test_seed_of_the_default_scope_repeats_all_initial_values():
    first = built(7).get_weights()
    reset_default_scope(seed=11)
    second = built(7).get_weights()
    other = built(7).get_weights()
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[0], other[0])


# --- variables and weights ---------------------------------------------------------------------------------


def test_variables_are_views_of_the_fused_arrays(rng):
    cell = built(7, name="enc", dtype="float64")
    shapes = [(5, 14), (1, 14), (14,), (5, 7), (1, 7), (7,)]
    assert [variable.name for variable in cell.variables] == [f"enc/{name}:0" for name in NAMES]
    assert [variable.shape for variable in cell.variables] == shapes
    fused = cell._variables
    for name, variable in zip(NAMES, cell.variables, strict=True):
        assert variable.value is cell.named_variables[name]
        base = {"kernel": fused.kernel, "_u": fused.recurrent_kernel, "as": fused.bias}
        whole = base["_u"] if name.endswith("_u") else base["as"] if name.endswith("bias") else base["kernel"]
        assert np.shares_memory(variable.value, whole)
        np.testing.assert_array_equal(np.asarray(variable), variable.value)
    x, h = rng.normal(size=(3, 5)), rng.normal(size=(3, 7))
    before = cell(x, h)[0]
    cell.variables[2].value[...] += 0.5
    assert not np.array_equal(cell(x, h)[0], before)


def test_variable_assign():
    variable = built(7).variables[2]
    new = np.linspace(0.5, 2, 14, dtype=np.float32)
    variable.assign(new)
    np.testing.assert_array_equal(variable.value, new)
    variable.assign([0.25] * 14)
    assert (variable.value == 0.25).all()
    with pytest.raises(ValueError, match=r"gates/bias:0: .*\(14,\).*\(1, 14\)"):
        variable.assign(new[None])
    with pytest.raises(TypeError, match="float64"):
        variable.assign(new.astype(float))
    for name in ("value", "name", "shape", "dtype"):
        with pytest.raises(AttributeError):
            setattr(variable, name, new)


def test_lists_of_variables_follow_trainable():
    cell = IndyGRUCell(7)
    kinds = ("variables", "weights")
    lists = [*kinds, *(f"{prefix}_{kind}" for prefix in ("trainable", "non_trainable") for kind in kinds)]
    assert [getattr(cell, name) for name in lists] == [[]] * 6
    cell.build((None, 5))
    assert [len(getattr(cell, name)) for name in lists] == [6, 6, 6, 6, 0, 0]
    cell.trainable = False
    assert [len(getattr(cell, name)) for name in lists] == [6, 6, 0, 0, 6, 6]
    assert cell.non_trainable_weights == cell.variables


def test_named_variables_cannot_be_rebound():
    cell = built(7)
    with pytest.raises(TypeError):
        cell.named_variables["gates/bias"] = np.full(14, 0.5)
    assert dict(IndyGRUCell(7).named_variables) == {}


def test_get_weights_copies_and_set_weights_writes():
    cell = built(7)
    weights = cell.get_weights()
    weights[0] += 0.5
    assert not np.array_equal(cell.variables[0].value, weights[0])
    cell.set_weights(weights)
    for variable, weight in zip(cell.variables, weights, strict=True):
        np.testing.assert_array_equal(variable.value, weight)
    assert IndyGRUCell(7).get_weights() == []


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda w: w[:5], ValueError, 'layer "enc" with a weight list of length 5, .* expecting 6 weights'),
        (
            lambda w: [*w[:5], w[5][:3]],
            ValueError,
            r"candidate/bias:0: Layer weight shape \(7,\) not .* shape \(3,\)",
        ),
        (lambda w: [*w[:5], w[5].astype(float)], TypeError, "candidate/bias:0.*float64"),
    ],
)
def test_set_weights_changes_all_or_nothing(change, error, message):
    cell = built(7, name="enc")
    before = cell.get_weights()
    with pytest.raises(error, match=message):
        cell.set_weights(change([weight + 1 for weight in before]))
    for variable, weight in zip(cell.variables, before, strict=True):
        np.testing.assert_array_equal(variable.value, weight)


def test_set_weights_before_building():
    with pytest.raises(ValueError, match="expecting 0 weights"):
        IndyGRUCell(7).set_weights([np.full(3, 0.5)] * 6)


def test_count_params():
    assert built(7).count_params() == 3 * 5 * 7 + 6 * 7
    with pytest.raises(ValueError, match=r"count_params.* on enc, but the layer isn't built.*enc\.build"):
        IndyGRUCell(7, name="enc").count_params()


def test_config():
    cell = built(7, dtype="float64", name="enc")
    assert cell.get_config() == {"name": "enc", "trainable": True, "dtype": "float64"}
    copied = IndyGRUCell.from_config({"num_units": 7, **cell.get_config(), "trainable": False})
    assert (copied.name, copied.dtype, copied.state_size, copied.trainable) == ("enc", "float64", 7, False)
    with pytest.raises(TypeError, match="num_units"):
        IndyGRUCell.from_config(cell.get_config())


def test_repr_tells_size_name_and_dtype():
    assert repr(IndyGRUCell(7, name="enc")) == "IndyGRUCell(num_units=7, name='enc', dtype=None)"


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda cell: pickle.loads(pickle.dumps(cell))])
def test_copies_have_weights_of_their_own(duplicate, rng):
    cell = built(7, "relu", name="enc", dtype="float64")
    twin = duplicate(cell)
    x, h = rng.normal(size=(3, 5)), rng.normal(size=(3, 7))
    np.testing.assert_array_equal(twin(x, h)[0], cell(x, h)[0])
    assert [v.name for v in twin.variables] == [v.name for v in cell.variables]
    before = cell(x, h)[0]
    twin.named_variables["gates/bias"][...] -= 3
    np.testing.assert_array_equal(cell(x, h)[0], before)
    assert not np.array_equal(twin(x, h)[0], before)


def test_graph_is_none_and_deprecated():
    cell = IndyGRUCell(7)
    with pytest.warns(DeprecationWarning, match="graph"):
        assert cell.graph is None
    with pytest.raises(AttributeError):
        cell.graph = None
