"""What tests of arguments share: a small call of `functional.forward`, float32 and ragged.

A test module takes the fixture by name: `case = small_calls.case`.
"""

from __future__ import annotations

import helpers
import numpy as np
import pytest

from indygru_cpu import functional

SHAPE = (7, 3, 5, 9)
ARRAYS = list(helpers.GRADIENTS)


@pytest.fixture
def case():
    return helpers.random_case(SHAPE, np.float32, ragged=True)


def run_forward(case, **options):
    return functional.forward(*case.arguments, **case.options, **options)
