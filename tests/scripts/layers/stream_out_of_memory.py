"""Prints the errors of streams that need more memory than the limit leaves, then the rows of a smaller stream."""

from __future__ import annotations

from process_state import MEGABYTE, limit_address_space

from indygru_cpu import IndyGRU

layer = IndyGRU(1 << 21, 1, seed=0)  # weights of 24 MiB; packed for the processor, 512 MiB
limit_address_space(300 * MEGABYTE)
for _ in range(3):
    try:
        layer.stream()
    except MemoryError as error:
        print(error)
print(IndyGRU(3, 5, seed=0).stream(7).batch_size)
