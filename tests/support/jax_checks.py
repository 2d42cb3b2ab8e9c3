"""The function for JAX. test_jax.py runs this in processes of its own: a process with JAX in it must not fork."""

from __future__ import annotations

import doctest
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import indygru_cpu.jax
from indygru_cpu.jax import indygru

DTYPE = np.float64 if jax.config.jax_enable_x64 else np.float32
SHAPE = (33, 7, 8, 17)
WEIGHTS = ("kernel", "recurrent_kernel", "bias")
ORDER = ("y", "h_n", "x", "h0", *WEIGHTS)
ACTIVATIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu, "softsign": jax.nn.soft_sign}
OPTIONS = ("lengths", "groups", "activation", "reproducible", "num_threads")


def scan(params, x, h0, *, activation="tanh"):
    """The layer in JAX's own words."""
    u, b = params["recurrent_kernel"].reshape(3, -1), params["bias"].reshape(3, -1)

    def step(h, x_t):
        proj = jnp.dot(x_t, params["kernel"], precision="highest").reshape(len(x_t), 3, -1)
        r, z = (jax.nn.sigmoid(proj[:, i] + u[i] * h + b[i]) for i in range(2))
        h = z * h + (1 - z) * ACTIVATIONS[activation](proj[:, 2] + u[2] * (r * h) + b[2])
        return h, h

    return jax.lax.scan(step, h0, x)[::-1]


def params_of(case):
    return {name: getattr(case, name) for name in WEIGHTS}


def loss_of(function, case, **options):
    """The scalar whose gradients case.dy and case.dh_n are those of."""

    def loss(params, x, h0):
        y, h_n = function(params, x, h0, **options)
        return (y * case.dy).sum() + (h_n * case.dh_n).sum(), (y, h_n)

    return loss


def run(function, case, transform=jax.jit, **options):
    """Results and gradients by name."""
    gradients = transform(jax.grad(loss_of(function, case, **options), (0, 1, 2), has_aux=True))
    (params, x, h0), (y, h_n) = gradients(params_of(case), case.x, case.h0)
    return jax.tree.map(np.asarray, {"y": y, "h_n": h_n, "x": x, "h0": h0} | {name: params[name] for name in WEIGHTS})


@pytest.mark.parametrize(
    ("transform", "activation"), [(jax.jit, "tanh"), (jax.jit, "relu"), (lambda function: function, "softsign")]
)
def test_as_a_scan(transform, activation):
    case = helpers.random_case(SHAPE, DTYPE, activation)
    found = run(indygru, case, transform, activation=activation)
    helpers.assert_close(found, run(scan, case, activation=activation), DTYPE)


@pytest.mark.parametrize("shape", [SHAPE, (0, 7, 8, 9), (9, 0, 8, 17), (9, 7, 0, 1), (140, 25, 770, 60), (1, 1, 1, 33)])
@pytest.mark.parametrize("ragged", [False, True])
def test_the_bits_of_functional(shape, ragged):
    case = helpers.random_case(shape, DTYPE, ragged=ragged)
    expected = case.run()
    helpers.assert_same_bits(run(indygru, case, lengths=case.lengths), {name: expected[name] for name in ORDER})


@pytest.mark.parametrize("options", [{"reproducible": True}, {"num_threads": 1}])
def test_options(options):
    case = helpers.random_case((140, 25, 770, 60), DTYPE)
    expected = case.run(**options)
    helpers.assert_same_bits(run(indygru, case, **options), {name: expected[name] for name in ORDER})


def test_groups():
    case = helpers.random_case((17, 7, 8, 12), DTYPE)
    case = helpers.replace(case, kernel=case.kernel[:2].copy())
    expected = case.run(groups=4)
    helpers.assert_same_bits(run(indygru, case, groups=4), {name: expected[name] for name in ORDER})


def test_without_state_and_bias():
    case = helpers.random_case(SHAPE, DTYPE)
    params = {name: getattr(case, name) for name in WEIGHTS[:2]}
    expected = indygru_cpu.functional.forward(case.x, None, case.kernel, case.recurrent_kernel, None)
    for found, wanted in zip(indygru(params, case.x), expected, strict=True):
        helpers.assert_same_bits(np.asarray(found), wanted)
    gradients = jax.grad(lambda params: indygru(params, case.x)[0].sum())(params)
    assert gradients.keys() == params.keys()


def test_vmap_over_what_varies():
    """Rows of a second batch axis, one set of weights; then sets of weights, one batch; then one inside the other."""
    case, other = (helpers.random_case(SHAPE, DTYPE, ragged=True, seed=seed) for seed in (0, 1))
    cases = [case, helpers.replace(case, x=other.x, lengths=other.lengths)]
    x = jnp.stack([each.x for each in cases], axis=2)
    lengths = jnp.stack([each.lengths for each in cases])
    members = jax.jit(jax.vmap(lambda x, n: indygru(params_of(case), x, case.h0, lengths=n), in_axes=(2, 0)))(
        x, lengths
    )
    for i, each in enumerate(cases):
        helpers.assert_same_bits(np.asarray(members[0][i]), each.forward()["y"])
    params = jax.tree.map(lambda *arrays: jnp.stack(arrays), params_of(case), params_of(other), params_of(case))

    @jax.jit
    @partial(jax.vmap, in_axes=(0, None, None, None))  # sets of weights
    @partial(jax.vmap, in_axes=(None, 2, 0, 0))  # batches
    def gradients(params, x, h0, lengths):
        return jax.grad(loss_of(indygru, case, lengths=lengths), (0, 1, 2), has_aux=True)(params, x, h0)[0]

    found = gradients(params, x, jnp.stack([case.h0, other.h0]), lengths)
    for i, weights in enumerate([case, other, case]):
        for j, batch in enumerate([case, other]):
            inputs = {"x": batch.x, "h0": batch.h0, "lengths": batch.lengths}
            member = helpers.replace(case, **inputs, **params_of(weights)).run()
            expected = {name: member[name] for name in ("x", "h0", *WEIGHTS)}
            own = jax.tree.map(lambda array: np.asarray(array[i, j]), found)  # noqa: B023
            helpers.assert_same_bits({"x": own[1], "h0": own[2]} | own[0], expected)


def test_gradient_of_a_vmap():
    """What members share gets the sum of their gradients."""
    case = helpers.random_case(SHAPE, DTYPE)
    x, h0 = jnp.stack([case.x, case.x[::-1]]), jnp.stack([case.h0, -case.h0])

    def loss(function, params):
        return sum((part**2).sum() for part in jax.vmap(function, in_axes=(None, 0, 0))(params, x, h0))

    found, expected = (jax.grad(partial(loss, function))(params_of(case)) for function in (indygru, scan))
    helpers.assert_close(jax.tree.map(np.asarray, found), jax.tree.map(np.asarray, expected), DTYPE)


def test_inside_other_transformations():
    """A stack in a scan over its layers' weights, computed anew in backward."""
    case = helpers.random_case((9, 7, 17, 17), DTYPE)
    params = jax.tree.map(lambda array: jnp.stack([array, -array, array / 2]), params_of(case))

    def loss(function, params):
        layer = jax.checkpoint(lambda x, params: (function(params, x, case.h0)[0], None))
        return (jax.lax.scan(layer, case.x, params)[0] ** 2).sum()

    found, expected = (jax.jit(jax.grad(partial(loss, function)))(params) for function in (indygru, scan))
    helpers.assert_close(jax.tree.map(np.asarray, found), jax.tree.map(np.asarray, expected), DTYPE)


def test_from_many_threads_at_a_time():
    """Hundreds of compiled calls, with parallel regions in them; a deadlock would end in the process's time-out."""
    case = helpers.random_case((140, 9, 64, 128), DTYPE)
    gradients = jax.jit(jax.grad(lambda params, x: (indygru(params, x, case.h0)[0] ** 2).sum()))
    expected = gradients(params_of(case), case.x)

    def repeat(_):
        chain = params_of(case)
        for _ in range(20):
            found = gradients(chain, case.x)
            chain = jax.tree.map(lambda array, gradient: array + 0 * gradient, chain, found)
        return found

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(repeat, range(4)):
            helpers.assert_same_bits(*(jax.tree.map(np.asarray, each) for each in (found, expected)))


CASE = helpers.random_case(SHAPE, DTYPE)
WRONG = {
    "params": [({"params": None}, TypeError, "params: expected a mapping .* got NoneType"),
               ({"params": {"kernel": CASE.kernel}}, TypeError, "params: .* got \\['kernel'\\]"),
               ({"params": params_of(CASE) | {"b": 0}}, TypeError, "params: .* got \\['b', 'bias'")],
    "shapes": [({"x": CASE.x[0]}, ValueError, r"x: expected shape \(T, B, 8\), got \(7, 8\)"),
               ({"h0": CASE.h0[:3]}, ValueError, r"h0: expected shape \(7, 17\), got \(3, 17\)"),
               ({"lengths": np.zeros(3, int)}, ValueError, r"lengths: expected shape \(7,\), got \(3,\)")],
    "dtypes": [({"x": CASE.x.astype(np.float16)}, TypeError, "x: expected an array of float32 or float64, got float16"),
               ({"x": jnp.zeros(CASE.x.shape, jnp.bfloat16)}, TypeError, "x: expected .* got bfloat16"),
               ({"lengths": np.zeros(7)}, TypeError, "lengths: expected integers, got float")],
    "options": [({"activation": "gelu"}, ValueError, "activation: expected one of tanh"),
                ({"groups": 3}, ValueError, "groups: expected a divisor"),
                ({"num_threads": 0}, ValueError, "num_threads: expected at least 1")],
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_is_named(kind):
    for changes, error, match in WRONG[kind]:
        arguments = {"params": params_of(CASE), "x": CASE.x, "h0": CASE.h0} | changes
        traced = {name: arguments.pop(name) for name in list(arguments) if name not in OPTIONS[1:]}
        with pytest.raises(error, match=match):
            indygru(**traced, **arguments)
        if kind != "params":
            with pytest.raises(error, match=match):
                jax.jit(lambda traced, rest=arguments: indygru(**traced, **rest))(traced)


def test_dtypes_are_never_mixed_or_cast():
    other = CASE.x.astype(np.float64 if DTYPE is np.float32 else np.float32)
    with pytest.raises(TypeError, match="dtypes are never mixed"):
        indygru(params_of(CASE), other)
    if DTYPE is np.float32:
        double = CASE.astype(np.float64)
        with pytest.raises(TypeError, match="jax_enable_x64"):
            indygru(params_of(double), double.x)


@pytest.mark.parametrize("wrong", [-1, SHAPE[0] + 1, 2**32 + 3, 2**31, -(2**32) + 3])
def test_lengths_out_of_range_raise(wrong):
    """Python knows the values of lists and NumPy's arrays; those of JAX are known when the call runs."""
    lengths = np.full(SHAPE[1], 3)
    lengths[2] = wrong
    for given in (lengths, list(lengths)):
        for transform in (lambda function: function, jax.jit):
            call = transform(lambda x, given=given: indygru(params_of(CASE), x, lengths=given))
            with pytest.raises(ValueError, match=rf"^lengths: expected values from 0 to 33, got {wrong} for row 2"):
                call(CASE.x)
    dtypes = [np.int64, np.int32, np.uint64, np.uint32] if DTYPE is np.float64 else [np.int32]
    dtypes = [dtype for dtype in dtypes if np.iinfo(dtype).min <= wrong <= np.iinfo(dtype).max]
    for dtype in dtypes:
        for transform in (lambda function: function, jax.jit):
            call = transform(lambda x, lengths: indygru(params_of(CASE), x, lengths=lengths))
            with pytest.raises(jax.errors.JaxRuntimeError, match="lengths: expected values from 0 to n_steps"):
                jax.block_until_ready(call(CASE.x, jnp.asarray(lengths.astype(dtype))))
    helpers.assert_same_bits(np.asarray(indygru(params_of(CASE), CASE.x, CASE.h0)[0]), CASE.forward()["y"])


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
def test_lengths_of_any_integers(dtype):
    case = helpers.random_case(SHAPE, DTYPE, ragged=True)
    lengths = case.lengths.astype(dtype)
    expected = case.run()
    for given in (lengths, jnp.asarray(lengths)):
        found = run(indygru, case, lengths=given)
        helpers.assert_same_bits(found, {name: expected[name] for name in ORDER})


def test_lengths_and_states_overwritten_before_backward_change_nothing():
    """JAX keeps the arguments of a jitted function as they are, NumPy's arrays among them."""
    case = helpers.random_case(SHAPE, DTYPE, ragged=True)
    lengths = case.lengths.astype(np.int32)
    expected = case.run()
    for transform in (lambda function: function, jax.jit):
        h0, given = case.h0.copy(), lengths.copy()
        function = transform(lambda h0, params, given=given: indygru(params, case.x, h0, lengths=given))
        _, back = jax.vjp(function, h0, params_of(case))
        h0[:], given[:] = 7, SHAPE[0]
        dh0, params = back((case.dy, case.dh_n))
        found = {"h0": dh0} | params
        helpers.assert_same_bits(jax.tree.map(np.asarray, found), {name: expected[name] for name in ("h0", *WEIGHTS)})


def test_eval_shape_allocates_no_arrays():
    """jax.eval_shape computes nothing, and so takes no memory of the arrays' sizes."""
    x = jax.ShapeDtypeStruct((10**6, 10**4, SHAPE[2]), DTYPE)
    y, h_n = jax.eval_shape(indygru, params_of(CASE), x)
    assert (y.shape, h_n.shape) == ((10**6, 10**4, SHAPE[3]), (10**4, SHAPE[3]))


def shard_map(function, **options):
    """By the name that it has in this version of JAX."""
    if hasattr(jax, "shard_map"):
        return jax.shard_map(function, **options)
    from jax.experimental import shard_map as module

    return module.shard_map(function, **options)


@pytest.mark.parametrize("varied", [("x", "h0", "lengths"), ("params",), ("h0",), ("lengths",), ()], ids=str)
def test_shard_map_gives_the_sums_and_gradients_of_one_device(varied):
    """Sums over devices, and their gradients, of what differs from device to device and of what is the same on all."""
    case = helpers.random_case((9, 6, 5, 4), DTYPE, ragged=True)
    given = {"params": params_of(case), "x": case.x, "h0": case.h0, "lengths": jnp.asarray(case.lengths)}
    for name in varied:  # Each device has one of two.
        given[name] = jax.tree.map(lambda array: jnp.stack([array, array[::-1]]), given[name])

    def loss(arguments, device):
        own = {name: jax.tree.map(lambda array: array[device], arguments[name]) for name in varied}
        own = dict(zip(given, arguments.values(), strict=True)) | own
        y, h_n = indygru(own["params"], own["x"], own["h0"], lengths=own["lengths"])
        return (y**2).sum() + h_n.sum()

    def on_one(*arguments):
        return jax.lax.psum(loss(dict(zip(given, arguments, strict=True)), 0), "d")

    def expected(*arguments):
        return sum(loss(dict(zip(given, arguments, strict=True)), device) for device in range(2))

    spec = jax.sharding.PartitionSpec
    specs = tuple(spec("d") if name in varied else spec() for name in given)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("d",))
    on_both = shard_map(on_one, mesh=mesh, in_specs=specs, out_specs=spec())
    wanted = jax.value_and_grad(expected, (0, 1, 2))(*given.values())
    for function in (on_both, jax.jit(on_both)):
        found = jax.value_and_grad(function, (0, 1, 2))(*given.values())
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
            assert helpers.scaled_error(np.asarray(a), np.asarray(b)) < (1e-5 if DTYPE is np.float32 else 1e-12)


OPTIONS_ARRAY = np.array([0, 1, 0, 1, 0], np.int64)  # activation, groups, reproducible, threads, threads by default
T, B, D, N = 5, 4, 6, 3
OPERANDS = {
    "x": (T, B, D), "h0": (B, N), "kernel": (D, 3 * N), "recurrent_kernel": (3 * N,), "bias": (3 * N,),
    "lengths": (B,), "y": (T, B, N), "tape": (3, T, B, N), "dy": (T, B, N), "dh_n": (B, N),
}  # fmt: skip
RESULTS = {
    "indygru_forward": {"y": (T, B, N), "h_n": (B, N), "tape": (3, T, B, N)},
    "indygru_backward": {
        "dx": (T, B, D), "dh0": (B, N), "dkernel": (D, 3 * N), "drecurrent_kernel": (3 * N,), "dbias": (3 * N,),
    },
}  # fmt: skip


def call_handler(target, operands, results, **attributes):
    """As any program can call it. Operands and results are shapes and dtypes."""
    results = [jax.ShapeDtypeStruct(*each) for each in results]
    arrays = [jnp.full(shape, 0 if dtype == np.int32 else 0.5, dtype) for shape, dtype in operands]
    return jax.block_until_ready(jax.ffi.ffi_call(target, results)(*arrays, **attributes))


def right_handler_call(target, leading=()):
    """Shapes and dtypes that fit, after axes as those of vmap."""
    names = list(OPERANDS) if target == "indygru_backward" else list(OPERANDS)[:6]
    operands = [((*leading, *OPERANDS[name]), np.int32 if name == "lengths" else DTYPE) for name in names]
    return names, operands, [((*leading, *shape), DTYPE) for shape in RESULTS[target].values()]


def changed_shapes(shape):
    """Shapes that do not fit in the place of one that does."""
    yield shape[1:]
    yield (1, *shape)
    for axis, size in enumerate(shape):
        for other in (size - 1, size + 1, 1000 * size):
            yield (*shape[:axis], other, *shape[axis + 1 :])


@pytest.mark.parametrize("target", RESULTS)
@pytest.mark.parametrize("leading", [(), (2,)])
def test_handler_with_a_buffer_that_does_not_fit_names_it(target, leading):
    """Every operand and every result, with each of its axes in turn; none is read or written."""
    names, operands, results = right_handler_call(target, leading)
    call_handler(target, operands, results, options=OPTIONS_ARRAY)
    names = [*names, *RESULTS[target]]
    for place, (name, (shape, dtype)) in enumerate(zip(names, operands + results, strict=True)):
        wrong = [((*leading, *other), dtype) for other in changed_shapes(shape[len(leading) :])]
        wrong += [(shape, np.float16), (shape, np.int32 if dtype == DTYPE else DTYPE), ((1, *shape), dtype)]
        named = rf"indygru_cpu: {'' if place < len(operands) else 'result '}{name}: expected .*, got "
        if name in ("x", "bias"):  # The sizes of the others follow from these two, so another one may be named.
            named = "indygru_cpu: .*: expected .*, got |n_groups: expected "
        for other, other_dtype in wrong:
            buffers = [*operands, *results]
            buffers[place] = other, other_dtype
            with pytest.raises(jax.errors.JaxRuntimeError, match=f"INVALID_ARGUMENT: {named}"):
                call_handler(target, buffers[: len(operands)], buffers[len(operands) :], options=OPTIONS_ARRAY)


@pytest.mark.parametrize("target", RESULTS)
def test_handler_with_axes_of_vmap_that_differ_raises(target):
    """An operand's may be 1 long; those of all results are full."""
    _, operands, results = right_handler_call(target, (2, 3))
    for place in range(len(operands) + len(results)):
        for leading in [(3, 3), (2, 1), (1, 1), (2, 0), (6,)]:
            buffers = [*operands, *results]
            buffers[place] = (*leading, *buffers[place][0][2:]), buffers[place][1]
            some = buffers[: len(operands)], buffers[len(operands) :]
            if place < len(operands) and leading in [(2, 1), (1, 1)]:
                call_handler(target, *some, options=OPTIONS_ARRAY)
            else:
                with pytest.raises(jax.errors.JaxRuntimeError, match=r"INVALID_ARGUMENT: (indygru_cpu|n_groups)"):
                    call_handler(target, *some, options=OPTIONS_ARRAY)


@pytest.mark.parametrize("target", RESULTS)
def test_handler_with_wrong_numbers_of_buffers_or_options_raises(target):
    _, operands, results = right_handler_call(target)
    right = {"options": OPTIONS_ARRAY}
    wrong = [(operands[:-1], results, right), (operands * 2, results, right), ([], results, right),
             (operands, results[:1], right), (operands, results * 2, right)]  # fmt: skip
    attributes = [{}, {"options": OPTIONS_ARRAY[:4]}, {"options": np.int64(1)}, {"options": "text"},
                  {"options": OPTIONS_ARRAY.astype(np.int32)}, right | {"also": np.int64(1)}]  # fmt: skip
    for place, values in enumerate([(-1, 6, 2**32, 2**62), (0, -1, 2, 2**62), (), (0, -1, -(2**32)), ()]):
        for value in values:
            options = OPTIONS_ARRAY.copy()
            options[place] = value
            attributes.append({"options": options})
    wrong += [(operands, results, each) for each in attributes]
    for some_operands, some_results, some_attributes in wrong:
        with pytest.raises(jax.errors.JaxRuntimeError, match="INVALID_ARGUMENT"):
            call_handler(target, some_operands, some_results, **some_attributes)
    options = OPTIONS_ARRAY.copy()
    options[3] = 2**40  # threads, of which there are as many as there can be
    call_handler(target, operands, results, options=options)


def test_second_derivatives_are_an_error():
    with pytest.raises(ValueError, match="cannot be differentiated"):
        jax.hessian(lambda x: indygru(params_of(CASE), x)[0].sum())(CASE.x)


def test_docstring():
    results = doctest.testmod(indygru_cpu.jax)
    assert results.attempted > 5
    assert results.failed == 0
