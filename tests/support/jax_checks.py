"""Tests of indygru_cpu.jax. test_jax.py runs them in separate processes: a process that uses JAX must not fork."""

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
CALL_OPTIONS = ("lengths", "groups", "activation", "reproducible", "reset_gate", "num_threads")


def scan_layer(params, x, h0, *, activation="tanh"):
    """The layer as a scan of JAX operations."""
    u, b = params["recurrent_kernel"].reshape(3, -1), params["bias"].reshape(3, -1)

    def step(h, x_t):
        proj = jnp.dot(x_t, params["kernel"], precision="highest").reshape(x_t.shape[0], 3, u.shape[1])
        r, z = (jax.nn.sigmoid(proj[:, i] + u[i] * h + b[i]) for i in range(2))
        h = z * h + (1 - z) * ACTIVATIONS[activation](proj[:, 2] + u[2] * (r * h) + b[2])
        return h, h

    return jax.lax.scan(step, h0, x)[::-1]


def params_of(case):
    return {name: getattr(case, name) for name in WEIGHTS}


def loss_of(function, case, **options):
    """A loss whose gradients with respect to y and h_n are case.dy and case.dh_n."""

    def loss(params, x, h0):
        y, h_n = function(params, x, h0, **options)
        return (y * case.dy).sum() + (h_n * case.dh_n).sum(), (y, h_n)

    return loss


def results_and_gradients(function, case, transform=jax.jit, **options):
    """y, h_n and all gradients by name."""
    gradients = transform(jax.grad(loss_of(function, case, **options), (0, 1, 2), has_aux=True))
    (params, x, h0), (y, h_n) = gradients(params_of(case), case.x, case.h0)
    return jax.tree.map(np.asarray, {"y": y, "h_n": h_n, "x": x, "h0": h0} | {name: params[name] for name in WEIGHTS})


@pytest.mark.parametrize(
    ("transform", "activation"), [(jax.jit, "tanh"), (jax.jit, "relu"), (lambda function: function, "softsign")]
)
def test_results_and_gradients_equal_those_of_a_scan(transform, activation):
    case = helpers.random_case(SHAPE, DTYPE, activation)
    actual = results_and_gradients(indygru, case, transform, activation=activation)
    helpers.assert_close(actual, results_and_gradients(scan_layer, case, activation=activation), DTYPE)


@pytest.mark.parametrize("shape", [SHAPE, (0, 7, 8, 9), (9, 0, 8, 17), (9, 7, 0, 1), (140, 25, 770, 60), (1, 1, 1, 33)])
@pytest.mark.parametrize("ragged", [False, True])
def test_results_and_gradients_have_the_bits_of_functional(shape, ragged):
    case = helpers.random_case(shape, DTYPE, ragged=ragged)
    expected = case.run()
    helpers.assert_same_bits(
        results_and_gradients(indygru, case, lengths=case.lengths), {name: expected[name] for name in ORDER}
    )


@pytest.mark.parametrize("ragged", [False, True])
def test_layer_without_a_reset_gate_has_the_bits_of_functional(ragged):
    case = helpers.random_case(SHAPE, DTYPE, "mingru", ragged, reset_gate=False)
    options = {"lengths": case.lengths, "activation": "mingru", "reset_gate": False}
    expected = case.run()
    helpers.assert_same_bits(results_and_gradients(indygru, case, **options), {name: expected[name] for name in ORDER})


@pytest.mark.parametrize("options", [{"reproducible": True}, {"num_threads": 1}])
def test_options_give_the_bits_of_functional(options):
    case = helpers.random_case((140, 25, 770, 60), DTYPE)
    expected = case.run(**options)
    helpers.assert_same_bits(results_and_gradients(indygru, case, **options), {name: expected[name] for name in ORDER})


def test_groups_give_the_bits_of_functional():
    case = helpers.random_case((17, 7, 8, 12), DTYPE)
    case = helpers.replace(case, kernel=case.kernel[:2].copy())
    expected = case.run(groups=4)
    helpers.assert_same_bits(results_and_gradients(indygru, case, groups=4), {name: expected[name] for name in ORDER})


def test_call_without_h0_and_bias_has_the_bits_of_functional():
    case = helpers.random_case(SHAPE, DTYPE)
    params = {name: getattr(case, name) for name in WEIGHTS[:2]}
    expected = indygru_cpu.functional.forward(case.x, None, case.kernel, case.recurrent_kernel, None)
    for actual, array in zip(indygru(params, case.x), expected, strict=True):
        helpers.assert_same_bits(np.asarray(actual), array)
    gradients = jax.grad(lambda params: indygru(params, case.x)[0].sum())(params)
    assert gradients.keys() == params.keys()


def test_vmap_over_inputs_and_weights_has_the_bits_of_single_calls():
    """vmap over a second batch axis; then over sets of weights with a vmap over batches inside."""
    case, second = (helpers.random_case(SHAPE, DTYPE, ragged=True, seed=seed) for seed in (0, 1))
    cases = [case, helpers.replace(case, x=second.x, lengths=second.lengths)]
    x = jnp.stack([member.x for member in cases], axis=2)
    lengths = jnp.stack([member.lengths for member in cases])
    members = jax.jit(jax.vmap(lambda x, n: indygru(params_of(case), x, case.h0, lengths=n), in_axes=(2, 0)))(
        x, lengths
    )
    for i, member in enumerate(cases):
        helpers.assert_same_bits(np.asarray(members[0][i]), member.forward()["y"])
    params = jax.tree.map(lambda *arrays: jnp.stack(arrays), params_of(case), params_of(second), params_of(case))

    @jax.jit
    @partial(jax.vmap, in_axes=(0, None, None, None))  # sets of weights
    @partial(jax.vmap, in_axes=(None, 2, 0, 0))  # batches
    def gradients(params, x, h0, lengths):
        return jax.grad(loss_of(indygru, case, lengths=lengths), (0, 1, 2), has_aux=True)(params, x, h0)[0]

    actual = gradients(params, x, jnp.stack([case.h0, second.h0]), lengths)
    for i, weights in enumerate([case, second, case]):
        for j, batch in enumerate([case, second]):
            inputs = {"x": batch.x, "h0": batch.h0, "lengths": batch.lengths}
            member = helpers.replace(case, **inputs, **params_of(weights)).run()
            expected = {name: member[name] for name in ("x", "h0", *WEIGHTS)}
            dparams, dx, dh0 = jax.tree.map(lambda array: np.asarray(array[i, j]), actual)  # noqa: B023
            helpers.assert_same_bits({"x": dx, "h0": dh0} | dparams, expected)


def test_gradient_of_shared_weights_in_a_vmap_is_the_sum_of_the_members():
    case = helpers.random_case(SHAPE, DTYPE)
    x, h0 = jnp.stack([case.x, case.x[::-1]]), jnp.stack([case.h0, -case.h0])

    def loss(function, params):
        return sum((part**2).sum() for part in jax.vmap(function, in_axes=(None, 0, 0))(params, x, h0))

    actual, expected = (jax.grad(partial(loss, function))(params_of(case)) for function in (indygru, scan_layer))
    helpers.assert_close(jax.tree.map(np.asarray, actual), jax.tree.map(np.asarray, expected), DTYPE)


def test_checkpoint_inside_a_scan_gives_the_gradients_of_a_scan():
    """A stack as a scan over its layers' weights, recomputed in the backward pass."""
    case = helpers.random_case((9, 7, 17, 17), DTYPE)
    params = jax.tree.map(lambda array: jnp.stack([array, -array, array / 2]), params_of(case))

    def loss(function, params):
        layer = jax.checkpoint(lambda x, params: (function(params, x, case.h0)[0], None))
        return (jax.lax.scan(layer, case.x, params)[0] ** 2).sum()

    actual, expected = (jax.jit(jax.grad(partial(loss, function)))(params) for function in (indygru, scan_layer))
    helpers.assert_close(jax.tree.map(np.asarray, actual), jax.tree.map(np.asarray, expected), DTYPE)


def test_concurrent_calls_of_many_threads_give_the_same_bits():
    """Hundreds of compiled calls with parallel regions. A deadlock ends in the time-out of the process."""
    case = helpers.random_case((140, 9, 64, 128), DTYPE)
    gradients = jax.jit(jax.grad(lambda params, x: (indygru(params, x, case.h0)[0] ** 2).sum()))
    expected = gradients(params_of(case), case.x)

    def repeat(_):
        chain = params_of(case)
        for _ in range(20):
            latest = gradients(chain, case.x)
            chain = jax.tree.map(lambda array, gradient: array + 0 * gradient, chain, latest)
        return latest

    with ThreadPoolExecutor(4) as pool:
        for actual in pool.map(repeat, range(4)):
            helpers.assert_same_bits(*(jax.tree.map(np.asarray, gradient) for gradient in (actual, expected)))


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
def test_wrong_argument_raises_an_error_that_names_it(kind):
    for changes, error, match in WRONG[kind]:
        arguments = {"params": params_of(CASE), "x": CASE.x, "h0": CASE.h0} | changes
        traced = {name: arguments.pop(name) for name in list(arguments) if name not in CALL_OPTIONS[1:]}
        with pytest.raises(error, match=match):
            indygru(**traced, **arguments)
        if kind != "params":
            with pytest.raises(error, match=match):
                jax.jit(lambda traced, static=arguments: indygru(**traced, **static))(traced)


def test_mixed_dtypes_raise_type_error():
    x = CASE.x.astype(np.float64 if DTYPE is np.float32 else np.float32)
    with pytest.raises(TypeError, match="dtypes are never mixed"):
        indygru(params_of(CASE), x)
    if DTYPE is np.float32:
        double = CASE.astype(np.float64)
        with pytest.raises(TypeError, match="jax_enable_x64"):
            indygru(params_of(double), double.x)


@pytest.mark.parametrize("wrong", [-1, SHAPE[0] + 1, 2**32 + 3, 2**31, -(2**32) + 3])
def test_lengths_out_of_range_raise(wrong):
    """Lists and NumPy arrays are checked before the call, JAX arrays when the compiled call runs."""
    lengths = np.full(SHAPE[1], 3)
    lengths[2] = wrong
    for argument in (lengths, list(lengths)):
        for transform in (lambda function: function, jax.jit):
            call = transform(lambda x, argument=argument: indygru(params_of(CASE), x, lengths=argument))
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
def test_lengths_of_every_integer_dtype_have_the_bits_of_functional(dtype):
    case = helpers.random_case(SHAPE, DTYPE, ragged=True)
    lengths = case.lengths.astype(dtype)
    expected = case.run()
    for argument in (lengths, jnp.asarray(lengths)):
        actual = results_and_gradients(indygru, case, lengths=argument)
        helpers.assert_same_bits(actual, {name: expected[name] for name in ORDER})


def test_lengths_and_states_overwritten_before_backward_change_nothing():
    """JAX keeps references to the arguments of a jitted function, including NumPy arrays."""
    case = helpers.random_case(SHAPE, DTYPE, ragged=True)
    lengths = case.lengths.astype(np.int32)
    expected = case.run()
    for transform in (lambda function: function, jax.jit):
        h0, argument = case.h0.copy(), lengths.copy()
        function = transform(lambda h0, params, argument=argument: indygru(params, case.x, h0, lengths=argument))
        _, backward = jax.vjp(function, h0, params_of(case))
        h0[:], argument[:] = 7, SHAPE[0]
        dh0, dparams = backward((case.dy, case.dh_n))
        gradients = {"h0": dh0} | dparams
        helpers.assert_same_bits(
            jax.tree.map(np.asarray, gradients), {name: expected[name] for name in ("h0", *WEIGHTS)}
        )


@pytest.mark.parametrize("absent", [(), ("h0", "lengths"), ("bias",)])
@pytest.mark.parametrize(
    ("n_steps", "n_batch", "n_inputs", "n_units"),
    [(10**6, 10**4, 8, 17), (4, 10**9, 1, 2**24), (4, 1, 2**31 - 1, 2**27), (4, 1, 2**27, 2**29)],
)
def test_eval_shape_allocates_no_arrays(n_steps, n_batch, n_inputs, n_units, absent):
    """The arrays would not fit into memory: y, inputs and states, weights."""
    shapes = {"x": (n_steps, n_batch, n_inputs), "h0": (n_batch, n_units), "kernel": (n_inputs, 3 * n_units),
              "recurrent_kernel": (3 * n_units,), "bias": (3 * n_units,), "lengths": (n_batch,)}  # fmt: skip
    types = {
        name: jax.ShapeDtypeStruct(shape, np.int32 if name == "lengths" else DTYPE)
        for name, shape in shapes.items()
        if name not in absent
    }
    params = {name: types.pop(name) for name in WEIGHTS if name in types}
    y, h_n = jax.eval_shape(lambda params, types: indygru(params, **types), params, types)
    assert (y.shape, h_n.shape) == ((n_steps, n_batch, n_units), (n_batch, n_units))


def test_unused_part_of_the_tape_is_zero():
    """jax_debug_nans checks all numbers of the tape. Its memory had NaN before."""
    case = helpers.random_case(SHAPE, DTYPE, ragged=True)
    operands = [*case.arguments, case.lengths.astype(np.int32)]
    shapes = [case.dy.shape, case.h0.shape, (3, *case.dy.shape)]
    results = [jax.ShapeDtypeStruct(shape, DTYPE) for shape in shapes]
    results.append(jax.ShapeDtypeStruct(case.lengths.shape, np.int32))
    forward = jax.jit(lambda *operands: jax.ffi.ffi_call("indygru_forward", results)(*operands, options=OPTIONS_ARRAY))
    for _ in range(5):
        jax.block_until_ready([jnp.full(shape, np.nan, DTYPE) for shape in shapes for _ in range(3)])
        tape = np.asarray(forward(*operands)[2]).ravel()
        assert not tape[3 * SHAPE[3] * case.lengths.sum() :].any()
    with jax.debug_nans(True):
        results_and_gradients(indygru, case, lengths=case.lengths)


def shard_map(function, **options):
    """jax.shard_map, whose module depends on the version of JAX."""
    if hasattr(jax, "shard_map"):
        return jax.shard_map(function, **options)
    from jax.experimental import shard_map as module

    return module.shard_map(function, **options)


@pytest.mark.parametrize("varied", [("x", "h0", "lengths"), ("params",), ("h0",), ("lengths",), ()], ids=str)
def test_shard_map_gives_the_sums_and_gradients_of_one_device(varied):
    """Of arguments that differ between devices (`varied`), and of arguments that are replicated."""
    case = helpers.random_case((9, 6, 5, 4), DTYPE, ragged=True)
    arguments = {"params": params_of(case), "x": case.x, "h0": case.h0, "lengths": jnp.asarray(case.lengths)}
    for name in varied:  # one value for each of two devices
        arguments[name] = jax.tree.map(lambda array: jnp.stack([array, array[::-1]]), arguments[name])

    def loss(values, device):
        named = dict(zip(arguments, values, strict=True))
        named |= {name: jax.tree.map(lambda array: array[device], named[name]) for name in varied}
        y, h_n = indygru(named["params"], named["x"], named["h0"], lengths=named["lengths"])
        return (y**2).sum() + h_n.sum()

    def sum_over_devices(*values):
        return jax.lax.psum(loss(values, 0), "d")

    def sum_on_one_device(*values):
        return sum(loss(values, device) for device in range(2))

    spec = jax.sharding.PartitionSpec
    specs = tuple(spec("d") if name in varied else spec() for name in arguments)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("d",))
    sharded = shard_map(sum_over_devices, mesh=mesh, in_specs=specs, out_specs=spec())
    expected = jax.value_and_grad(sum_on_one_device, (0, 1, 2))(*arguments.values())
    for function in (sharded, jax.jit(sharded)):
        actual = jax.value_and_grad(function, (0, 1, 2))(*arguments.values())
        for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
            assert helpers.scaled_error(np.asarray(a), np.asarray(b)) < (1e-5 if DTYPE is np.float32 else 1e-12)


#: activation, groups, reproducible, reset_gate, num_threads, whether num_threads is the default
OPTIONS_ARRAY = np.array([0, 1, 0, 1, 1, 0], np.int64)
T, B, D, N = 5, 4, 6, 3
OPERANDS = {
    "x": (T, B, D), "h0": (B, N), "kernel": (D, 3 * N), "recurrent_kernel": (3 * N,), "bias": (3 * N,),
    "lengths": (B,), "y": (T, B, N), "tape": (3, T, B, N), "tape_rows": (B,), "dy": (T, B, N), "dh_n": (B, N),
}  # fmt: skip
INTEGERS = {"lengths": np.int32, "tape_rows": np.int32}
RESULTS = {
    "indygru_forward": {"y": (T, B, N), "h_n": (B, N), "tape": (3, T, B, N), "tape_rows": (B,)},
    "indygru_backward": {
        "dx": (T, B, D), "dh0": (B, N), "dkernel": (D, 3 * N), "drecurrent_kernel": (3 * N,), "dbias": (3 * N,),
    },
}  # fmt: skip


def call_handler(target, operands, results, **attributes):
    """Call a handler of XLA directly, as any program can. Operands and results are shapes and dtypes."""
    results = [jax.ShapeDtypeStruct(*result) for result in results]
    arrays = [jnp.full(shape, 0 if dtype == np.int32 else 0.5, dtype) for shape, dtype in operands]
    return jax.block_until_ready(jax.ffi.ffi_call(target, results)(*arrays, **attributes))


#: The results that a call may have: with or without the tape, dx and the gradients of the weights.
RESULT_NAMES = [
    ("indygru_forward", ("y", "h_n")),
    ("indygru_forward", ("y", "h_n", "tape", "tape_rows")),
    ("indygru_backward", ("dx", "dh0", "dkernel", "drecurrent_kernel", "dbias")),
    ("indygru_backward", ("dh0", "dkernel", "drecurrent_kernel", "dbias")),
    ("indygru_backward", ("dx", "dh0")),
    ("indygru_backward", ("dh0",)),
]


def valid_handler_call(target, leading=(), result_names=None):
    """Names, and valid shapes and dtypes of operands and results, after leading axes as those of vmap."""
    names = list(OPERANDS) if target == "indygru_backward" else list(OPERANDS)[:6]
    operands = [((*leading, *OPERANDS[name]), INTEGERS.get(name, DTYPE)) for name in names]
    results = {name: RESULTS[target][name] for name in result_names or RESULTS[target]}
    return names, operands, [((*leading, *shape), INTEGERS.get(name, DTYPE)) for name, shape in results.items()]


def changed_shapes(shape):
    """Wrong shapes in place of a valid shape."""
    yield shape[1:]
    yield (1, *shape)
    for axis, size in enumerate(shape):
        for wrong_size in (size - 1, size + 1, 1000 * size):
            yield (*shape[:axis], wrong_size, *shape[axis + 1 :])


@pytest.mark.parametrize(("target", "result_names"), RESULT_NAMES)
@pytest.mark.parametrize("leading", [(), (2,)])
def test_handler_with_a_buffer_of_a_wrong_shape_or_dtype_names_it(target, result_names, leading):
    """Every operand and every result, with each axis in turn. No buffer is read or written."""
    names, operands, results = valid_handler_call(target, leading, result_names)
    call_handler(target, operands, results, options=OPTIONS_ARRAY)
    names = [*names, *result_names]
    first = 0 if result_names == tuple(RESULTS[target]) else len(operands)  # all operands are checked with all results
    buffers = enumerate(zip(names, operands + results, strict=True))
    for index, (name, (shape, dtype)) in list(buffers)[first:]:
        wrong = [((*leading, *wrong_shape), dtype) for wrong_shape in changed_shapes(shape[len(leading) :])]
        wrong += [(shape, np.float16), (shape, np.int32 if dtype == DTYPE else DTYPE), ((1, *shape), dtype)]
        named = rf"indygru_cpu: {'' if index < len(operands) else 'result '}{name}: expected .*, got "
        if name in ("x", "bias"):  # their sizes determine those of the other buffers, one of which may be named
            named = "indygru_cpu: .*: expected .*, got |n_groups: expected "
        for wrong_shape, wrong_dtype in wrong:
            buffers = [*operands, *results]
            buffers[index] = wrong_shape, wrong_dtype
            with pytest.raises(jax.errors.JaxRuntimeError, match=f"INVALID_ARGUMENT: {named}"):
                call_handler(target, buffers[: len(operands)], buffers[len(operands) :], options=OPTIONS_ARRAY)


@pytest.mark.parametrize("target", RESULTS)
def test_handler_with_axes_of_vmap_that_differ_raises(target):
    """Leading axes of operands may have length 1; those of results must be full."""
    _, operands, results = valid_handler_call(target, (2, 3))
    for index in range(len(operands) + len(results)):
        for leading in [(3, 3), (2, 1), (1, 1), (2, 0), (6,)]:
            buffers = [*operands, *results]
            buffers[index] = (*leading, *buffers[index][0][2:]), buffers[index][1]
            changed = buffers[: len(operands)], buffers[len(operands) :]
            if index < len(operands) and leading in [(2, 1), (1, 1)]:
                call_handler(target, *changed, options=OPTIONS_ARRAY)
            else:
                with pytest.raises(jax.errors.JaxRuntimeError, match=r"INVALID_ARGUMENT: (indygru_cpu|n_groups)"):
                    call_handler(target, *changed, options=OPTIONS_ARRAY)


@pytest.mark.parametrize("target", RESULTS)
def test_handler_with_wrong_numbers_of_buffers_or_options_raises(target):
    _, operands, results = valid_handler_call(target)
    valid = {"options": OPTIONS_ARRAY}
    wrong = [(operands[:-1], results, valid), (operands * 2, results, valid), ([], results, valid),
             (operands, results[:1], valid), (operands, results * 2, valid)]  # fmt: skip
    attributes = [{}, {"options": OPTIONS_ARRAY[:4]}, {"options": np.int64(1)}, {"options": "text"},
                  {"options": OPTIONS_ARRAY.astype(np.int32)}, valid | {"additional": np.int64(1)}]  # fmt: skip
    for index, values in enumerate([(-1, 7, 2**32, 2**62), (0, -1, 2, 2**62), (), (0,), (0, -1, -(2**32)), ()]):
        for value in values:
            options = OPTIONS_ARRAY.copy()
            options[index] = value
            attributes.append({"options": options})
    wrong += [(operands, results, wrong_attributes) for wrong_attributes in attributes]
    for wrong_operands, wrong_results, wrong_attributes in wrong:
        with pytest.raises(jax.errors.JaxRuntimeError, match="INVALID_ARGUMENT"):
            call_handler(target, wrong_operands, wrong_results, **wrong_attributes)
    options = OPTIONS_ARRAY.copy()
    options[4] = 2**40  # num_threads is limited to the available threads
    call_handler(target, operands, results, options=options)


def test_second_derivatives_raise_value_error():
    with pytest.raises(ValueError, match="cannot be differentiated"):
        jax.hessian(lambda x: indygru(params_of(CASE), x)[0].sum())(CASE.x)


def test_docstring_examples_run():
    results = doctest.testmod(indygru_cpu.jax)
    assert results.attempted > 5
    assert results.failed == 0
