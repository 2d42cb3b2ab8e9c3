"""Settings of the benchmarks: shape, dtype and threads, with the ids that pytest shows, such as ``speech-f32-2``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from cases import SHAPES, Shape

DTYPES = {"f32": "float32", "f64": "float64"}
#: Bounds of the sizes (T, B, D, N) with ``--tiny``.
MAX_TINY: Shape = (5, 3, 7, 6)


@dataclass(frozen=True)
class Setting:
    """Shape, dtype and threads (None: the library's choice) of a benchmark, and the group that it is compared in."""

    shape: Shape
    group: str
    dtype: str = "float32"
    threads: int | None = 1

    def tiny_shape(self) -> Shape:
        """Shape for ``--tiny``."""
        n_steps, n_batch, n_inputs, n_units = map(min, self.shape, MAX_TINY)
        return n_steps, n_batch, n_inputs, n_units


def shape_name(shape: Shape) -> str:
    """Name of a shape in SHAPES, or its four sizes."""
    names = {known: name for name, known in SHAPES.items()}
    return names.get(shape, "x".join(map(str, shape)))


def parametrize(settings: Iterable[tuple[str, Setting]]) -> Any:
    """Parametrize the fixture `case` by pairs of an id and a setting."""
    return pytest.mark.parametrize("case", [pytest.param(value, id=name) for name, value in settings], indirect=True)


def shapes(names: str, threads: Sequence[int | None] = (1, 2)) -> Any:
    """Parametrize the fixture `case` by names of SHAPES, with ``-f64`` behind those of float64, and by threads."""
    pairs = []
    for name in names.split():
        shape, _, dtype = name.partition("-")
        for number in threads:
            label = f"{shape}-{dtype or 'f32'}-{number or 'auto'}"
            pairs.append((label, Setting(SHAPES[shape], label, DTYPES[dtype or "f32"], number)))
    return parametrize(pairs)
