"""The random generator from which dropout draws: how it is made, and how it is pickled."""

from __future__ import annotations

from typing import Any

import numpy as np


def spawn(rng: np.random.Generator) -> np.random.Generator:
    """A new generator that is independent of `rng`, whose own stream of numbers does not change."""
    try:
        return rng.spawn(1)[0]
    except TypeError:
        raise TypeError(
            "seed: expected a generator that can spawn another one, which dropout draws from, got one with "
            f"{type(rng.bit_generator).__name__} and no SeedSequence: make it by numpy.random.default_rng"
        ) from None


def to_state(rng: np.random.Generator) -> Any:
    """The state of a generator in Python's own types; a generator of another library unchanged."""
    if getattr(np.random, type(rng.bit_generator).__name__, None) is not type(rng.bit_generator):
        return rng

    def as_python(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: as_python(part) for name, part in value.items()}
        return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value

    return as_python(dict(rng.bit_generator.state))


def from_state(state: Any) -> np.random.Generator:
    """The generator whose `to_state` is `state`."""
    if isinstance(state, np.random.Generator):
        return state
    bit_generator = getattr(np.random, state["bit_generator"])()
    bit_generator.state = state
    return np.random.Generator(bit_generator)
