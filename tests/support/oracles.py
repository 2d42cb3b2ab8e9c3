"""Stacks, directions, groups and reverse calls composed of the reference, and layers and calls to compare with them.

The reference computes in float64 for any dtype of its arguments.
"""

from __future__ import annotations

from dataclasses import replace

import helpers
import numpy as np

from indygru_cpu import IndyGRU, reference

T, B, D, N = 17, 7, 9, 33


def reversed_rows(array, lengths):
    """(T, B, width) with the valid steps of each row in reverse order; padding stays where it is."""
    result = array.copy()
    for row, n in enumerate(lengths):
        result[:n, row] = array[:n, row][::-1]
    return result


def concatenate_rows(array, lengths):
    """The valid steps of (T, B, width), row after row: (sum of lengths, width), the layout of ragged input."""
    return array.swapaxes(0, 1)[np.arange(len(array)) < np.asarray(lengths, int)[:, None]]


def offsets_from_lengths(lengths, first=0):
    return first + np.cumsum([0, *lengths])


def ragged_inputs(call):
    """Values and offsets of a time-major call with lengths."""
    return concatenate_rows(call["x"], call["lengths"]), offsets_from_lengths(call["lengths"])


def _block_mask(n_inputs, n_units, groups):
    """(D, 3N), true where units have inputs."""
    inputs, units = (np.arange(n) // max(1, n // groups) for n in (n_inputs, n_units))
    return inputs[:, None] == np.tile(units, 3)


def dense_kernel(kernel, groups):
    """(D / groups, 3N) -> (D, 3N), block-diagonal in each of the three planes."""
    return np.tile(kernel, (groups, 1)) * _block_mask(groups * len(kernel), kernel.shape[1] // 3, groups)


def stored_blocks(kernel, groups):
    """The inverse of `dense_kernel`; values outside the blocks are dropped."""
    blocks = kernel * _block_mask(len(kernel), kernel.shape[1] // 3, groups)
    return blocks.reshape(groups, len(kernel) // groups, kernel.shape[1]).sum(axis=0)


class Direction:
    """One direction of one layer, computed by the reference."""

    def __init__(self, weights, activation, lengths, reverse=False, groups=1):
        self.weights = [weight.astype(np.float64) for weight in weights]
        self.weights[0] = dense_kernel(self.weights[0], groups)
        self.activation, self.lengths, self.reverse, self.groups = activation, lengths, reverse, groups

    def reverse_rows(self, array):
        return reversed_rows(array, self.lengths) if self.reverse else array

    def forward(self, x, h0):
        """y and h_n."""
        x = self.reverse_rows(x).astype(np.float64)
        y, h_n, self.tape = reference.forward(
            x, h0.astype(np.float64), *self.weights, self.activation, np.asarray(self.lengths)
        )
        return self.reverse_rows(y), h_n

    def backward(self, dy, dh_n):
        """The gradients, by name."""
        results = reference.backward(self.tape, self.reverse_rows(dy).astype(np.float64), dh_n.astype(np.float64))
        changed = {"x": self.reverse_rows(results.x), "kernel": stored_blocks(results.kernel, self.groups)}
        return results._asdict() | changed


def _all_steps(x):
    return np.full(x.shape[1], len(x))


def case_by_reference(case, reverse=False, groups=1):
    """The results of `helpers.Case.run` with the same options."""
    lengths = _all_steps(case.x) if case.lengths is None else case.lengths
    direction = Direction(case.arguments[2:], case.activation, lengths, reverse, groups)
    y, h_n = direction.forward(case.x, case.h0)
    return {"y": y, "h_n": h_n} | direction.backward(case.dy, case.dh_n)


def stack_by_reference(layer, call, masks=()):
    """The results of `IndyGRU.forward` and `backward` for a time-major call; masks multiply each inner y.

    `call` has x, h0, dy, dh_n and lengths.
    """
    suffixes, n = ("", "_reverse")[: 1 + layer.bidirectional], layer.hidden_size
    x, h0, dy, dh_n, lengths = (call[name] for name in ("x", "h0", "dy", "dh_n", "lengths"))
    lengths = _all_steps(x) if lengths is None else lengths
    stack, states = [], []
    for k in range(layer.num_layers):
        stack.append([_direction(layer, f"_l{k}{suffix}", lengths) for suffix in suffixes])
        results = [direction.forward(x, h0[len(states) + i]) for i, direction in enumerate(stack[k])]
        y = np.concatenate([each for each, _ in results], axis=-1)
        states += [h_n for _, h_n in results]
        x = y * masks[k] if masks and k + 1 < layer.num_layers else y
    result, dh0 = {"y": y, "h_n": np.stack(states)}, {}
    for k in reversed(range(layer.num_layers)):
        dx = 0
        for i, suffix in enumerate(suffixes):
            index = k * len(suffixes) + i
            results = stack[k][i].backward(dy[..., i * n : (i + 1) * n], dh_n[index])
            dx, dh0[index] = dx + results["x"], results["h0"]
            names = ("kernel", "recurrent_kernel", "bias")[: 2 + layer.bias]
            result |= {f"{name}_l{k}{suffix}": results[name] for name in names}
        dy = dx * masks[k - 1] if masks and k else dx
    return result | {"x": dx, "h0": np.stack([dh0[i] for i in range(len(dh0))])}


def _direction(layer, part, lengths):
    weights = [layer.parameters[f"{name}{part}"] for name in ("kernel", "recurrent_kernel")]
    bias = layer.parameters[f"bias{part}"] if layer.bias else np.zeros_like(weights[1])
    return Direction([*weights, bias], layer.activation, lengths, part.endswith("reverse"), layer.groups)


def make_layer(dtype=np.float64, sizes=(D, N), **options):
    """A layer with random biases, by default on one thread."""
    layer = IndyGRU(*sizes, dtype=dtype, **({"seed": 7, "num_threads": 1} | options))
    rng = np.random.default_rng(9)
    for name, array in layer.parameters.items():
        if name.startswith("bias"):
            array[...] = rng.uniform(-1, 1, array.shape)
    return layer


def make_layer_call(layer, sizes=(T, B), ragged=True):
    """Arguments and upstream gradients of a time-major call."""
    rng, directions, n = np.random.default_rng(sizes), 1 + layer.bidirectional, layer.hidden_size
    states = (layer.num_layers * directions, sizes[1], n)
    shapes = {"x": (*sizes, layer.input_size), "h0": states, "dy": (*sizes, directions * n), "dh_n": states}
    call = {name: rng.standard_normal(shape).astype(layer.dtype) for name, shape in shapes.items()}
    return call | {"lengths": helpers.random_lengths(rng, *sizes) if ragged else None}


def run_layer(layer, call, **options):
    """Results and gradients of a forward and a backward pass."""
    return results_and_gradients(layer, call, *layer.forward(call["x"], call["h0"], lengths=call["lengths"], **options))


def results_and_gradients(layer, call, y, h_n, tape):
    """Results of a forward pass and gradients of its backward pass, by name."""
    grads = layer.backward(tape, call["dy"], call["dh_n"])
    return {"y": y, "h_n": h_n, "x": grads.x, "h0": grads.h0} | grads.parameters


def infer_layer(layer, call, **options):
    return dict(zip(helpers.FORWARD, layer(call["x"], call["h0"], lengths=call["lengths"], **options), strict=True))


def forward_results(results):
    return {name: results[name] for name in helpers.FORWARD}


CALL_LAYOUTS = ["time first", "batch first", "unbatched", "ragged"]
STACKS = [{}, {"num_layers": 3}, {"num_layers": 2, "bidirectional": True}]


class LayoutCall:
    """A layer, and the arguments of a call in one of `CALL_LAYOUTS`."""

    def __init__(self, layout, dtype=np.float32, **options):
        self.layer = make_layer(dtype, batch_first=layout == "batch first", **options)
        call = make_layer_call(self.layer, (T, 1) if layout == "unbatched" else (T, B))
        self.x_name = "values" if layout == "ragged" else "x"
        self.arguments = {self.x_name: call["x"], "h0": call["h0"], "lengths": call["lengths"]}
        if layout == "batch first":
            self.arguments["x"] = np.ascontiguousarray(call["x"].swapaxes(0, 1))
        elif layout == "unbatched":
            self.arguments |= {name: call[name][:, 0] for name in ("x", "h0")}
        elif layout == "ragged":
            lengths = self.arguments.pop("lengths")
            self.arguments["offsets"] = offsets_from_lengths(lengths)
            self.arguments["values"] = concatenate_rows(call["x"], lengths)

    @property
    def h0(self):
        return self.arguments["h0"]

    def __call__(self, **changes):
        """y and h_n, by name."""
        function = self.layer.ragged if self.x_name == "values" else self.layer
        return dict(zip(helpers.FORWARD, function(**self.arguments | changes), strict=True))

    def last(self, **changes):
        return self.layer.last(**self.arguments | changes)


def long_case(shape, dtype=np.float32, ragged=True):
    """A case of many steps in little memory, whose inputs are windows into one signal. Rows end at all times."""
    case = helpers.random_case((2, *shape[1:]), dtype)
    n_steps, n_batch, n_inputs, _ = shape
    rng = np.random.default_rng(shape)
    signal = rng.standard_normal(n_steps + n_batch + n_inputs).astype(dtype)
    x = np.lib.stride_tricks.as_strided(signal, shape[:3], signal.strides * 3, writeable=False)
    lengths = np.append(n_steps, rng.permutation(n_steps * np.arange(n_batch - 1) // max(1, n_batch - 1)))
    dy = rng.standard_normal((n_steps, *case.h0.shape)).astype(dtype)
    return replace(case, x=x, dy=dy, lengths=lengths if ragged else None)
