"""Long sequences of few units, whose chunks of time run side by side, beside the projection, and narrow layers."""

from __future__ import annotations

import numpy as np
import pytest
from cases import LONG_SHAPES, NARROW_SHAPES
from ratios import baselines
from ratios.library import make_layer, train
from ratios.library_long import FORGETTING, RETENTIVE, layer_with_bias
from settings import Setting, parametrize, shape_name
from variants import make_mingru


def sizes(shapes, threads):
    """Parametrize by shapes and threads."""
    labels = {(shape, number): f"{shape_name(shape)}-f32-{number}" for shape in shapes for number in threads}
    return parametrize((label, Setting(shape, label, threads=number)) for (shape, number), label in labels.items())


long = sizes(LONG_SHAPES, (1, 2))
narrow = sizes(NARROW_SHAPES, (1,))
update_bias = pytest.mark.parametrize(
    "update_bias", [pytest.param(FORGETTING, id="forgetting"), pytest.param(RETENTIVE, id="retentive")]
)


@update_bias
@long
def test_long(benchmark, case, update_bias):
    """States that forget their past quickly, and states that keep it, so that chunks cannot run side by side."""
    benchmark(layer_with_bias(case, update_bias), case.x, case.h0[None], out=np.empty_like(case.dy))


@update_bias
@long
def test_long_training(benchmark, case, update_bias):
    benchmark(train, layer_with_bias(case, update_bias), case.x, case.dy, case.h0[None])


@long
def test_long_mingru(benchmark, case):
    benchmark(make_mingru(case), case.x, case.h0[None], out=np.empty_like(case.dy))


@long
def test_matmul(benchmark, case):
    benchmark(baselines.matmul(case))


@narrow
def test_narrow(benchmark, case):
    benchmark(make_layer(case), case.x, case.h0[None], out=np.empty_like(case.dy))


@narrow
def test_narrow_training(benchmark, case):
    benchmark(train, make_layer(case), case.x, case.dy, case.h0[None])
