"""What tests of the torch module share: modules with random parameters, calls, and results by name."""

from __future__ import annotations

import numpy as np
import torch

from indygru_cpu.torch import IndyGRU

T, B, D, N = 9, 7, 6, 10
LENGTHS = [9, 0, 3, 7, 1, 9, 2]
BOTH = {"num_layers": 2, "bidirectional": True}


def random_module(seed=0, dtype=torch.float64, size=(D, N), **options):
    """A module with random values of all parameters."""
    module = IndyGRU(*size, dtype=dtype, **options)
    rng = np.random.default_rng([seed, 80])
    with torch.no_grad():
        for value in module.parameters():
            value.copy_(torch.from_numpy(rng.uniform(-0.9, 0.9, value.shape)))
    return module


def random_module_call(module, seed=0, batch=B, requires_grad=True):
    """The input, the initial state, and gradients of both results."""
    rng = np.random.default_rng([seed, 81])
    steps = (batch, T) if module.batch_first else (T, batch)
    directions = 1 + module.bidirectional
    states = (module.num_layers * directions, batch, module.hidden_size)
    shapes = [(*steps, module.input_size), states, (*steps, directions * module.hidden_size), states]
    tensors = [torch.from_numpy(rng.standard_normal(shape)).to(module.kernel_l0.dtype) for shape in shapes]
    return [tensor.requires_grad_(requires_grad and i < 2) for i, tensor in enumerate(tensors)]


def module_gradients(module, results, x, hx, dy, dh_n):
    """Gradients of the inputs and the parameters, by the names of the layer."""
    inputs = {"x": x, "h0": hx} | dict(module.named_parameters())
    actual = torch.autograd.grad([results[0], results[1]], list(inputs.values()), [dy, dh_n])
    return {name: value.numpy() for name, value in zip(inputs, actual, strict=True)}


def run_module(module, call, through=None, **options):
    """Results and gradients of the module, or of `through`, which wraps it."""
    results = (module if through is None else through)(*call[:2], **options)
    actual = {"y": results[0].detach().numpy(), "h_n": results[1].detach().numpy()}
    return actual | module_gradients(module, results, *call)
