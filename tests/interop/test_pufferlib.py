"""The program examples/pufferlib_policy.py computes the equations of PufferLib's default policy."""

from __future__ import annotations

import importlib.util

import helpers
import numpy as np
import pytest
from foreign_cells import run_pufferlib

N_AGENTS, N_STEPS, N_INPUTS, N_UNITS, N_ACTIONS = 5, 7, 3, 12, 4


@pytest.fixture(scope="module")
def program():
    path = helpers.ROOT / "examples" / "pufferlib_policy.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def checkpoint(n_layers):
    """A state dict of PufferLib's default policy with discrete actions."""
    rng = np.random.default_rng(n_layers)
    linears = {
        "encoder.encoder": (N_UNITS, N_INPUTS),
        "decoder.decoder": (N_ACTIONS, N_UNITS),
        "decoder.value_function": (1, N_UNITS),
    }
    shapes = {f"{name}.weight": shape for name, shape in linears.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in linears.items()}
    shapes |= {f"network.layers.{i}.weight": (3 * N_UNITS, N_UNITS) for i in range(n_layers)}
    return {name: rng.uniform(-0.9, 0.9, shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("n_layers", [1, 3])
def test_policy_computes_the_equations_of_pufferlib_step_by_step(program, n_layers):
    state_dict = checkpoint(n_layers)
    policy = program.Policy(state_dict, N_AGENTS)
    observations = np.random.default_rng(9).standard_normal((N_STEPS, N_AGENTS, N_INPUTS), np.float32)
    steps = [policy.step(step) for step in observations]
    logits, values = (np.stack([step[i] for step in steps], axis=1) for i in range(2))
    expected = run_pufferlib(
        observations.swapaxes(0, 1).astype(np.float64),
        {name: array.astype(np.float64) for name, array in state_dict.items()},
        np.zeros((n_layers, N_AGENTS, N_UNITS)),
    )
    assert len(policy.layers) == n_layers
    for actual, array in zip((logits, values), expected, strict=True):
        np.testing.assert_allclose(actual, array, rtol=1e-5, atol=1e-5)
