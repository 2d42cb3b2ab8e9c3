"""Prints the modules that first calls of every entry point import. An import raises floating-point flags."""

from __future__ import annotations

import sys

import numpy as np

from indygru_cpu import IndyGRU, functional
from indygru_cpu._engine import threads as thread_counts

thread_counts.default()
layer = IndyGRU(7, 9, seed=5)
x = np.random.default_rng(5).standard_normal((8, 17, 7), np.float32)
before = set(sys.modules)
y, h_n, tape = layer.forward(x, lengths=np.arange(17) % 8)
layer.backward(tape, dy=y)
h = h_n[0].copy()
functional.step(x[0], h, *layer.parameters.values(), out=h)
stream = layer.stream(17)
stream.push(x[0])
stream.push_many(x)
print(*sorted(set(sys.modules) - before))
