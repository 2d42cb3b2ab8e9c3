"""Tests of JAX's transformations of indygru_cpu.jax. test_jax.py runs them, as those of jax_checks.py, on four devices.

Every transformation does to the layer what it does to a scan of the same cell.
"""

from __future__ import annotations

import re
from functools import partial

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.experimental import checkify
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax_checks import WEIGHTS, params_of, scan_layer

from indygru_cpu.jax import indygru

DTYPE = np.float64 if jax.config.jax_enable_x64 else np.float32
#: T, B, D and N; D equals N so that layers can be stacked.
CASE = helpers.random_case((12, 8, 4, 4), DTYPE)
PARAMS = params_of(CASE)
ARGUMENTS = (PARAMS, CASE.x, CASE.h0)
MEMBERS = jax.tree.map(lambda array: jnp.stack([array, -array, array / 2]), PARAMS)
BATCHES = jnp.stack([CASE.x, CASE.x[::-1], -CASE.x])
LENGTHS = np.array([12, 0, 3, 4, 5, 11, 7, 2], np.int32)
SPECS = (PartitionSpec(), PartitionSpec(None, "b"), PartitionSpec("b"))  # of PARAMS, x and h0
COLLECTIVES = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
MESHES = pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=str)


def loss(layer, params, x, h0):
    """A number that depends on y and h_n."""
    y, h_n = layer(params, x, h0)
    return (jnp.sin(2 * y)).sum() + (h_n**2).sum()


def gradients_of(layer, transform=lambda function: function):
    return jax.grad(transform(partial(loss, layer)), (0, 1, 2))


def in_chunks(layer, params, x, h0):
    """The layer as a scan over chunks of steps, which keeps the state."""
    h_n, y = jax.lax.scan(lambda h, chunk: layer(params, chunk, h)[::-1], h0, x.reshape(4, 3, *x.shape[1:]))
    return y.reshape(x.shape), h_n


def stacked(layer, params, x, h0):
    """A stack as a scan over the layers' weights, recomputed in the backward pass."""
    step = jax.checkpoint(lambda x, weights: layer(weights, x, h0), policy=jax.checkpoint_policies.dots_saveable)
    return jax.lax.scan(step, x, params)


def in_a_branch(layer, params, x, h0):
    return jax.lax.cond(x[0, 0, 0] > 100, lambda: (x, h0), lambda: layer(params, x, h0))


def repeated(layer, params, x, h0):
    """A loop that feeds the states back."""
    return jax.lax.fori_loop(0, 3, lambda _, state: layer(params, *state), (x, h0))


def on_shards(layer, params, x, h0):
    mesh = jax.make_mesh((4,), ("b",), axis_types=(AxisType.Auto,))
    return jax.shard_map(partial(layer), mesh=mesh, in_specs=SPECS, out_specs=SPECS[1:])(params, x, h0)


def exported(layer, params, x, h0):
    n_steps, n_batch = export.symbolic_shape("T, B")
    shapes = [jax.ShapeDtypeStruct(shape, DTYPE) for shape in ((n_steps, n_batch, 4), (n_batch, 4))]
    allowed = [export.DisabledSafetyCheck.custom_call(f"indygru_{name}") for name in ("forward", "backward")]
    program = export.export(jax.jit(layer), disabled_checks=allowed)(params, *shapes)
    return export.deserialize(program.serialize(vjp_order=1)).call(params, x, h0)


#: Functions of (layer, params, x, h0) that return arrays.
TRANSFORMS = {
    "jit": lambda layer, *arguments: jax.jit(layer)(*arguments),
    "aot": lambda layer, *arguments: jax.jit(layer).lower(*arguments).compile()(*arguments),
    "grad": lambda layer, *arguments: gradients_of(layer)(*arguments),
    "grad of x": lambda layer, *arguments: jax.grad(partial(loss, layer), 1)(*arguments),
    "grad of jit": lambda layer, *arguments: gradients_of(layer, jax.jit)(*arguments),
    "jit of grad": lambda layer, *arguments: jax.jit(gradients_of(layer))(*arguments),
    "grad of checkpoint": lambda layer, *arguments: gradients_of(layer, jax.checkpoint)(*arguments),
    "jacrev": lambda layer, *arguments: jax.jit(jax.jacrev(lambda *values: layer(*values)[1], (0, 1, 2)))(*arguments),
    "vjp of h_n": lambda layer, *arguments: jax.vjp(lambda *values: layer(*values)[1], *arguments)[1](CASE.dh_n),
    "scan over chunks": lambda layer, *arguments: in_chunks(layer, *arguments),
    "grad of a scan over chunks": lambda layer, *arguments: gradients_of(partial(in_chunks, layer))(*arguments),
    "grad of a scan over layers": lambda layer, _, x, h0: gradients_of(partial(stacked, layer))(MEMBERS, x, h0),
    "grad of cond": lambda layer, *arguments: gradients_of(partial(in_a_branch, layer))(*arguments),
    "grad of fori_loop": lambda layer, *arguments: gradients_of(partial(repeated, layer))(*arguments),
    "lax.map": lambda layer, params, _, h0: jax.lax.map(lambda x: layer(params, x, h0), BATCHES),
    "vmap over x": lambda layer, params, _, h0: jax.vmap(layer, (None, 0, None))(params, BATCHES, h0),
    "vmap over weights": lambda layer, _, x, h0: jax.vmap(layer, (0, None, None))(MEMBERS, x, h0),
    "vmap of grad": lambda layer, _, x, h0: jax.vmap(gradients_of(layer), (0, None, None))(MEMBERS, x, h0),
    "vmap of vmap": lambda layer, _, x, h0: jax.vmap(
        lambda params: jax.vmap(gradients_of(layer), (None, 0, None))(params, BATCHES, h0)
    )(MEMBERS),
    "grad of vmap": lambda layer, params, _, h0: jax.jit(
        gradients_of(lambda *arguments: jax.vmap(layer, (None, 0, None), 0)(*arguments))
    )(params, BATCHES, h0),
    "grad of a rescanned vmap": lambda layer, _, x, h0: jax.grad(
        lambda params: (jax.vmap(partial(in_chunks, layer), (0, None, None))(params, x, h0)[0] ** 2).sum()
    )(MEMBERS),
    "shard_map": lambda layer, *arguments: on_shards(layer, *arguments),
    "grad of shard_map": lambda layer, *arguments: jax.jit(gradients_of(partial(on_shards, layer)))(*arguments),
    "vmap of shard_map": lambda layer, params, _, h0: jax.vmap(partial(on_shards, layer), (None, 0, None))(
        params, BATCHES, h0
    ),
    "export": lambda layer, *arguments: exported(layer, *arguments),
    "grad of export": lambda layer, *arguments: gradients_of(partial(exported, layer))(*arguments),
    "checkify": lambda layer, *arguments: checkify.checkify(jax.jit(layer))(*arguments)[1],
    "closed_call": lambda layer, *arguments: jax.core.eval_jaxpr(
        (closed := jax.make_jaxpr(layer)(*arguments)).jaxpr, closed.consts, *jax.tree.leaves(arguments)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transformation_of_the_layer_equals_that_of_a_scan(name):
    actual, expected = (TRANSFORMS[name](layer, *ARGUMENTS) for layer in (indygru, scan_layer))
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        assert helpers.scaled_error(np.asarray(a), np.asarray(b)) < (2e-5 if DTYPE is np.float32 else 1e-12)


@pytest.mark.parametrize("transform", [lambda function: function, jax.jit], ids=["eager", "jit"])
def test_gradients_of_some_arguments_have_the_bits_of_all_gradients(transform):
    """In any order: JAX keeps the derivatives of a jitted function."""
    function = transform(partial(loss, indygru))
    every = [(0, 1, 2), (1,), (0, 1, 2), (0,), (2,), (1, 2), (0,), (0, 1), (0, 2), (0, 1, 2)]
    expected = jax.grad(function, (0, 1, 2))(*ARGUMENTS)
    for argnums in every:
        actual = jax.grad(function, argnums)(*ARGUMENTS)
        for position, gradient in zip(argnums, actual, strict=True):
            helpers.assert_same_bits(*(jax.tree.map(np.asarray, tree) for tree in (gradient, expected[position])))


@pytest.mark.parametrize(
    ("argnums", "names"),
    [(0, "h0 kernel recurrent_kernel bias"), (1, "x h0"), (2, "h0"), ((1, 2), "x h0")],
)
def test_backward_computes_no_gradients_that_are_not_requested(argnums, names):
    """The results of the handler: each has its own type here, except for those of the two vectors of weights."""
    shapes = {name: getattr(CASE, name).shape for name in ("x", "h0", *WEIGHTS)}
    text = str(jax.make_jaxpr(jax.grad(partial(loss, indygru), argnums))(*ARGUMENTS))
    (results,) = re.findall(
        r"^ *([^=\n]*) = ffi_call\[(?:(?!ffi_call).)*?target_name=indygru_backward", text, re.M | re.S
    )
    expected = [f"[{','.join(map(str, shapes[name]))}]" for name in names.split()]
    assert re.findall(r"\[[\d,]*\]", results) == expected


def divided(array, *spec, axis_type=AxisType.Auto, shape=(4,), names=("b",)):
    """The array, divided over the four devices."""
    mesh = jax.make_mesh(shape, names, axis_types=(axis_type,) * len(shape))
    return jax.device_put(array, NamedSharding(mesh, PartitionSpec(*spec)))


def collectives(function, *arguments):
    """The communication between devices in the compiled program."""
    return set(re.findall(COLLECTIVES, jax.jit(function).lower(*arguments).compile().as_text()))


def axes_of(array):
    """The names of the axes of the mesh along which each axis of the array is divided, without the last Nones."""
    axes = list(array.sharding.spec)
    while axes and axes[-1] is None:
        axes.pop()
    return axes


def assert_equal_trees(actual, expected):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert helpers.scaled_error(np.asarray(a), np.asarray(b)) < (2e-5 if DTYPE is np.float32 else 1e-12)


@MESHES
@pytest.mark.parametrize("transform", [lambda function: function, jax.jit], ids=["eager", "jit"])
def test_call_with_a_divided_batch_stays_divided(axis_type, transform):
    """Without communication; each row has the bits of a call on one device."""
    x, h0 = divided(CASE.x, None, "b", axis_type=axis_type), divided(CASE.h0, "b", axis_type=axis_type)
    lengths = divided(LENGTHS, "b", axis_type=axis_type)
    for options in ({}, {"lengths": LENGTHS}, {"lengths": lengths}):
        function = transform(partial(indygru, reproducible=True, **options))
        expected = indygru(*ARGUMENTS, reproducible=True, **options)
        for arguments in ((PARAMS, x, h0), (PARAMS, x, CASE.h0), (PARAMS, CASE.x, h0)):
            actual = function(*arguments)
            assert [axes_of(array) for array in actual] == [[None, "b"], ["b"]]
            helpers.assert_same_bits(*(tuple_as_dict(arrays) for arrays in (actual, expected)))
        assert not collectives(function, PARAMS, x, h0)


def tuple_as_dict(arrays):
    return dict(enumerate(map(np.asarray, arrays)))


@MESHES
def test_gradients_with_a_divided_batch_communicate_those_of_the_weights_alone(axis_type):
    x, h0 = divided(CASE.x, None, "b", axis_type=axis_type), divided(CASE.h0, "b", axis_type=axis_type)
    for function in (gradients_of(indygru), gradients_of(partial(in_chunks, indygru))):
        params, dx, dh0 = jax.jit(function)(PARAMS, x, h0)
        assert [axes_of(array) for array in (*params.values(), dx, dh0)] == [[], [], [], [None, "b"], ["b"]]
        assert_equal_trees((params, dx, dh0), function(*ARGUMENTS))
        assert collectives(function, PARAMS, x, h0) == {"all-reduce"}


DIVISIONS = {"whole": (), "in two": ("a",), "in four": ("a", "b")}


@pytest.mark.parametrize("forward", DIVISIONS)
@pytest.mark.parametrize("backward", DIVISIONS)
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
def test_backward_may_be_divided_in_another_way_than_forward(forward, backward, lengths):
    """Residuals and gradients may be moved between the passes. The memory of a tape depends on the division."""
    mesh = jax.make_mesh((2, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)

    def placed(division, array):
        spec = [DIVISIONS[division] if size == CASE.x.shape[1] else None for size in array.shape]
        return jax.device_put(array, NamedSharding(mesh, PartitionSpec(*spec)))

    layer = partial(indygru, lengths=lengths)
    cotangents = CASE.dy, CASE.dh_n
    expected = jax.vjp(layer, *ARGUMENTS)[1](cotangents)
    arguments = jax.tree.map(partial(placed, forward), ARGUMENTS)
    _, residuals = jax.jit(lambda *arguments: jax.vjp(layer, *arguments))(*arguments)
    moved = jax.tree.map(partial(placed, backward), (residuals, cotangents))
    assert_equal_trees(jax.jit(lambda residuals, cotangents: residuals(cotangents))(*moved), expected)


@MESHES
def test_types_of_a_divided_batch_are_those_of_a_scan(axis_type):
    """Types have the division on meshes with explicit axes, so that y can be added to x without communication."""
    x, h0 = divided(CASE.x, None, "b", axis_type=axis_type), divided(CASE.h0, "b", axis_type=axis_type)
    types = []

    def recorded(layer, params, x, h0):
        results = layer(params, x, h0)
        types.append([str(jax.typeof(array)) for array in results])
        return results[0] + x

    for layer in (indygru, scan_layer):
        assert axes_of(jax.jit(partial(recorded, layer))(PARAMS, x, h0)) == [None, "b"]
    assert types[0] == types[1]


@MESHES
def test_members_of_a_vmap_and_the_batch_are_divided_along_two_axes(axis_type):
    options = {"axis_type": axis_type, "shape": (2, 2), "names": ("m", "b")}
    members = jax.tree.map(lambda array: jnp.stack([array, -array]), PARAMS)
    x, h0 = divided(CASE.x, None, "b", **options), divided(CASE.h0, "b", **options)
    function = jax.vmap(gradients_of(indygru), (0, None, None))
    actual = jax.jit(function)(jax.tree.map(lambda array: divided(array, "m", **options), members), x, h0)
    assert [axes_of(array) for array in actual[1:]] == [["m", None, "b"], ["m", "b"]]
    assert {str(axes_of(array)) for array in actual[0].values()} == {"['m']"}
    assert_equal_trees(actual, function(members, CASE.x, CASE.h0))


@MESHES
@pytest.mark.parametrize(
    ("spec", "kernel_spec"),
    [(("b",), ()), (("a", "b"), (None, "b")), ((None, "b", "a"), ("a",)), ((None, ("b", "a")), (None, "a"))],
)
def test_any_division_gives_the_gradients_of_one_device(axis_type, spec, kernel_spec):
    """Divisions of other axes than the batch are undone for the call, and gradients have those of their arguments."""
    options = {"axis_type": axis_type, "shape": (2, 2), "names": ("a", "b")}
    x, kernel = divided(CASE.x, *spec, **options), divided(PARAMS["kernel"], *kernel_spec, **options)
    actual = jax.jit(gradients_of(indygru))(PARAMS | {"kernel": kernel}, x, CASE.h0)
    assert_equal_trees(actual, gradients_of(indygru)(*ARGUMENTS))
    if axis_type is AxisType.Explicit:
        assert axes_of(actual[1]) == [*spec]
        assert axes_of(actual[0]["kernel"]) == [*kernel_spec]


def test_batch_that_devices_do_not_divide_gives_the_gradients_of_one_device():
    """A program can divide 7 rows over 4 devices, with a row that has no values on the last one."""
    mesh = jax.make_mesh((4,), ("b",), axis_types=(AxisType.Auto,))

    def uneven(divide, params, x, h0):
        return loss(partial(indygru, lengths=LENGTHS[:7]), params, divide(x[:, :7]), h0[:7])

    sharding = NamedSharding(mesh, PartitionSpec(None, "b"))
    functions = [lambda x: jax.lax.with_sharding_constraint(x, sharding), lambda x: x]
    assert_equal_trees(*(jax.jit(jax.grad(partial(uneven, f), (0, 1, 2)))(*ARGUMENTS) for f in functions))


@MESHES
@pytest.mark.parametrize("manual", [("a",), ("b",), ("a", "b")], ids=str)
def test_shard_map_over_some_axes_gives_the_gradients_of_one_device(axis_type, manual):
    """The other axes divide the rows of each shard."""
    mesh = jax.make_mesh((2, 2), ("a", "b"), axis_types=(axis_type,) * 2)
    specs = (PartitionSpec(), PartitionSpec(None, manual), PartitionSpec(manual))

    def summed(params, x, h0):
        return jax.lax.psum(loss(indygru, params, x, h0), manual)

    function = jax.shard_map(summed, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), axis_names=frozenset(manual))
    x, h0 = (
        jax.device_put(array, NamedSharding(mesh, spec)) for array, spec in zip(ARGUMENTS[1:], specs[1:], strict=True)
    )
    assert_equal_trees(jax.jit(jax.grad(function, (0, 1, 2)))(PARAMS, x, h0), gradients_of(indygru)(*ARGUMENTS))


def test_wrong_length_in_a_divided_batch_raises():
    wrong = divided(np.where(np.arange(8) == 5, 13, LENGTHS).astype(np.int32), "b")
    with pytest.raises(jax.errors.JaxRuntimeError, match="lengths: expected values from 0 to n_steps"):
        jax.block_until_ready(jax.jit(lambda n: indygru(*ARGUMENTS, lengths=n))(wrong))


ALLOWED = [export.DisabledSafetyCheck.custom_call(f"indygru_{name}") for name in ("forward", "backward")]


def test_export_without_the_allowance_names_the_handler():
    with pytest.raises(ValueError, match="custom_call @indygru_forward"):
        export.export(jax.jit(indygru))(*ARGUMENTS)


def test_exported_program_with_symbolic_sizes_has_the_bits_of_the_layer():
    n_steps, n_batch = export.symbolic_shape("T, B")
    types = [
        jax.ShapeDtypeStruct(shape, dtype)
        for shape, dtype in [((n_steps, n_batch, 4), DTYPE), ((n_batch, 4), DTYPE), ((n_batch,), np.int32)]
    ]
    layer = jax.jit(lambda params, x, h0, lengths: indygru(params, x, h0, lengths=lengths))
    program = export.deserialize(export.export(layer, disabled_checks=ALLOWED)(PARAMS, *types).serialize(vjp_order=1))
    for rows in (8, 3):
        arguments = PARAMS, CASE.x[:, :rows], CASE.h0[:rows], LENGTHS[:rows]
        helpers.assert_same_bits(*(tuple_as_dict(function(*arguments)) for function in (program.call, layer)))
        gradients = [
            jax.grad(lambda *a, f=f: (f(*a)[0] ** 2).sum(), (0, 1, 2))(*arguments) for f in (program.call, layer)
        ]
        helpers.assert_same_bits(*(tuple_as_dict(jax.tree.leaves(tree)) for tree in gradients))


@pytest.mark.parametrize(
    ("x", "h0", "kernel", "match"),
    [("T, B, 4", "3, 4", "4, 12", r"h0: expected shape \(B, 4\), got \(3, 4\)"),
     ("T, B, B", "B, 4", "4, 12", r"x: expected shape \(T, B, 4\), got \(T, B, B\)"),
     ("T, B, 4", "B, 4", "4, 3*B", r"kernel: expected integers as sizes, got \(4, 3\*B\)")],
)  # fmt: skip
def test_wrong_symbolic_sizes_raise_errors_that_name_the_argument(x, h0, kernel, match):
    scope = export.SymbolicScope()
    shapes = [export.symbolic_shape(text, scope=scope) for text in (x, h0, kernel)]
    x, h0, kernel = (jax.ShapeDtypeStruct(shape, DTYPE) for shape in shapes)
    with pytest.raises(ValueError, match=match):
        export.export(jax.jit(indygru), disabled_checks=ALLOWED)(PARAMS | {"kernel": kernel}, x, h0)


def test_shard_map_exports_to_the_same_number_of_devices():
    specs = {"in_specs": SPECS, "out_specs": SPECS[1:]}
    mesh = jax.make_mesh((4,), ("b",), axis_types=(AxisType.Auto,))
    layer = jax.jit(jax.shard_map(indygru, mesh=mesh, **specs))
    arguments = PARAMS, divided(CASE.x, None, "b"), divided(CASE.h0, "b")
    arguments = jax.device_put(arguments, jax.tree.map(lambda spec: NamedSharding(mesh, spec), SPECS))
    program = export.deserialize(export.export(layer, disabled_checks=ALLOWED)(*arguments).serialize())
    assert program.nr_devices == 4
    assert_equal_trees(program.call(*arguments), layer(*arguments))
