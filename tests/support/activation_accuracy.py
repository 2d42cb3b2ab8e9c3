"""Arguments of sigmoid and the activations, their exact values, and bounds of their errors in ULP."""

from __future__ import annotations

from functools import cache

import numpy as np

from indygru_cpu import reference

#: Largest error in ULP of the true value, over every normal result; relu and identity are exact.
ULP = {"tanh": 3, "sigmoid": 3, "elu": 2, "softsign": 2, "mingru": 3, "relu": 0, "identity": 0}
#: Types of the exact values: at least 11 more bits than the dtype, where the platform has such a type.
WIDER = {np.float32: np.float64, np.float64: np.longdouble}
WIDE_ENOUGH = {dtype: np.finfo(wider).nmant > np.finfo(dtype).nmant for dtype, wider in WIDER.items()}
#: The lowest arguments for which sigmoid is a normal number.
LOWEST = {np.float32: -87, np.float64: -708}


@cache
def arguments(dtype):
    """Values of all magnitudes from the smallest normal number to saturation, both signs, denser where curves bend."""
    rng = np.random.default_rng(1)
    tiny = np.log10(np.finfo(dtype).tiny)
    sizes = np.concatenate([
        10 ** rng.uniform(tiny, np.log10(-LOWEST[dtype]), 60_000), rng.uniform(0, 1, 60_000),
        rng.uniform(0, 25, 60_000), rng.uniform(0, -LOWEST[dtype], 60_000),
        np.arange(1, 25) * np.log(2), np.arange(1, 50) * np.log(2) / 2,
    ])  # fmt: skip
    return np.concatenate([sizes, -sizes]).astype(dtype)


@cache
def exact_values(name, dtype):
    """The reference's function in the wider type; sigmoid as 1 / (1 + e^-x), whose error there is negligible."""
    x = arguments(dtype).astype(WIDER[dtype])
    if name == "sigmoid":
        return 1 / (1 + np.exp(-x))
    return np.asarray(reference.ACTIVATIONS[name][0](x))


def assert_within_ulp(name, dtype, results):
    """`results` are those of the `arguments` of the dtype."""
    expected = exact_values(name, dtype)
    unit = np.spacing(np.abs(expected).astype(dtype)).astype(expected.dtype)
    error = np.abs(results - expected) / unit
    worst = error.argmax()
    allowed = ULP[name] + (0 if WIDE_ENOUGH[dtype] else 1)
    assert error[worst] <= allowed, f"{name}({arguments(dtype)[worst]}): {error[worst]:.2f} ULP"
