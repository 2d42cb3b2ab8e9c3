"""Calls of a torch operator with wrong arguments: each must raise or compute. Arguments: operator, seed, calls.

Prints how many calls raised and how many computed.
"""

from __future__ import annotations

import sys

import numpy as np
import torch

import indygru_cpu.torch  # noqa: F401  (registers the operators)

T, B, D, N = 5, 4, 6, 6
OPERATORS = {"forward": torch.ops.indygru_cpu.layer, "backward": torch.ops.indygru_cpu.layer_backward}
OTHERS = [None, "tanh", 1.5, [1.0, 2.0]]
ACTIVATIONS = ["tanh", "sigmoid", "gelu", "", "tanh\0", "t" * 5000, None, 3]
GROUPS = [1, 1, 2, 3, 0, -1, 4, 2**62, -(2**63), 2**63, None, 1.0]
DTYPES = [torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.int32, torch.bool, torch.uint8]


def valid_call(rng, operator):
    """Valid arguments, by position, with random directions, bias, lengths, layout, groups and gates."""

    def tensor(*shape):
        return torch.from_numpy(rng.uniform(-0.9, 0.9, shape).astype(np.float32))

    directions, groups, batch_first = int(rng.integers(1, 3)), int(rng.integers(1, 4)), bool(rng.integers(2))
    bias, lengths, steps = rng.integers(2), rng.integers(2), (B, T) if batch_first else (T, B)
    reset_gate = bool(rng.integers(2))
    columns = (3 if reset_gate else 2) * N
    weights = []
    for direction in range(2):
        there = direction < directions
        weights += [tensor(D // groups, columns) if there else None, tensor(columns) if there else None]
        weights += [tensor(columns) if there and bias else None]
    call = [tensor(*steps, D), tensor(directions, B, N), *weights]
    call += [torch.from_numpy(rng.integers(0, T + 1, B)) if lengths else None, batch_first, groups, "tanh"]
    call += [reset_gate, False]
    if operator == "forward":
        return [*call, bool(rng.integers(2))]
    y, _, gates = OPERATORS["forward"](*call, bool(rng.integers(2)))
    return [tensor(*y.shape), tensor(directions, B, N), y, gates, *call]


def reshaped(rng, value):
    """Another shape: an axis longer, shorter, empty, or very long without memory; one axis more or less."""
    shape, kind = list(value.shape), rng.integers(6)
    if kind == 0 or not shape:
        return value[None]
    axis = rng.integers(len(shape))
    if kind == 1:
        return value.select(int(axis), 0) if shape[axis] else value[..., None]
    if kind == 2:
        return value.new_zeros(shape).narrow(int(axis), 0, 0)
    if kind == 3:
        shape[axis] = 1
        return value.new_zeros(shape).expand(*shape[:axis], 2**40, *shape[axis + 1 :])
    shape[axis] = max(0, shape[axis] + int(rng.integers(-3, 4)) * int(rng.choice([1, 1, 1000])))
    return value.new_zeros(shape)


def without_memory(value):
    """A tensor whose storage is smaller than its shape."""
    value = value.clone()
    value.untyped_storage().resize_(value.untyped_storage().nbytes() // 2)
    return value


def misaligned(value):
    """The same numbers at an address that is no multiple of their size."""
    memory = bytearray(value.nbytes + 1)
    results = torch.frombuffer(memory, dtype=value.dtype, offset=1, count=value.numel()).reshape(value.shape)
    return results.copy_(value)


def wrong_value(rng, value):
    """Another tensor, or another object, in place of a tensor."""
    if value is None or rng.integers(8) == 0:
        size = int(rng.choice([0, 1, B, N, 3 * N]))
        return [*OTHERS, torch.zeros(size), torch.zeros(1, size)][rng.integers(len(OTHERS) + 2)]
    changes = [
        lambda: reshaped(rng, value),
        lambda: reshaped(rng, value),
        lambda: value.to(DTYPES[rng.integers(len(DTYPES))]),
        lambda: value.to("meta"),
        lambda: value.to_sparse(),
        lambda: value.transpose(0, -1),
        lambda: value.transpose(0, -1).contiguous().transpose(0, -1),
        lambda: value[:1].expand_as(value),
        lambda: torch.complex(value.float(), value.float()).conj().imag if value.is_floating_point() else -value,
        lambda: without_memory(value),
        lambda: misaligned(value) if value.numel() else value,
        lambda: value * 10**9,
        lambda: torch.nn.Parameter(value) if value.is_floating_point() else value,
    ]
    return changes[rng.integers(len(changes))]()


def changed_call(rng, call):
    """The call with one to three arguments changed."""
    call = list(call)
    for place in rng.choice(len(call), rng.integers(1, 4), replace=False):
        value = call[place]
        if isinstance(value, bool):
            call[place] = [True, False, None, 2, "yes"][rng.integers(5)]
        elif isinstance(value, str):
            call[place] = ACTIVATIONS[rng.integers(len(ACTIVATIONS))]
        elif isinstance(value, int):
            call[place] = GROUPS[rng.integers(len(GROUPS))]
        else:
            call[place] = wrong_value(rng, value)
    return call


def main(operator, seed, count):
    """Print how many calls raised and how many computed."""
    counts = {"raised": 0, "computed": 0}
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        call = changed_call(rng, valid_call(rng, operator))
        try:
            first, second = OPERATORS[operator](*call), OPERATORS[operator](*call)
        except (TypeError, ValueError, RuntimeError, NotImplementedError, OverflowError, MemoryError):
            counts["raised"] += 1
            continue
        counts["computed"] += 1
        for a, b in zip(first, second, strict=True):
            assert a.is_meta or torch.equal(a.nan_to_num(), b.nan_to_num()), (
                i,
                a,
                b,
                "the same call gave other numbers",
            )
    print(counts["raised"], counts["computed"])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
