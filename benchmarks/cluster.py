"""Estimates for a machine with many cores and for a cluster; `docs/many_machines.md` has the formulas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cases import SHAPES
from ratios.tables import number, table


@dataclass(frozen=True)
class Machine:
    """Assumptions, in bytes and seconds."""

    cores: int = 64
    memory: float = 200e9
    network: float = 25e9 / 8
    message: float = 50e-6


MACHINE, FASTER = Machine(), Machine(network=100e9 / 8)
MACHINES = 32


@dataclass(frozen=True)
class Bytes:
    """Bytes of x, y and h_n of a sequence, and of the gradients of a layer's weights."""

    x: int
    y: int
    h_n: int
    gradients: int


def bytes_of(shape: str) -> Bytes:
    """Return the sizes of a shape in float32."""
    n_steps, _, n_inputs, n_units = SHAPES[shape]
    return Bytes(*(4 * n for n in (n_steps * n_inputs, n_steps * n_units, n_units, 3 * n_units * (n_inputs + 2))))


BYTES_OF = {shape: bytes_of(shape) for shape in ("speech", "lm")}


def core_rate(machine: Machine, per_core: float) -> float:
    """Sequences per second, bound by the cores."""
    return machine.cores * per_core


def memory_rate(machine: Machine, size: Bytes) -> float:
    """Sequences per second, bound by memory: x is read, y is written, and a cache line is read before it is written."""
    return machine.memory / (size.x + 2 * size.y)


def network_rate(machine: Machine, size: Bytes, out: int) -> float:
    """Sequences per second, bound by the network, whose two directions are independent."""
    return machine.network / max(size.x, out)


def cluster_rate(machine: Machine, size: Bytes, out: int, per_core: float) -> float:
    """Sequences per second of all machines, each with a network of its own."""
    return MACHINES * min(core_rate(machine, per_core), memory_rate(machine, size), network_rate(machine, size, out))


def all_reduce_seconds(machine: Machine, ranks: int, size: Bytes) -> float:
    """Seconds of a ring all-reduce: each rank sends 2 (R - 1) messages in turn, each an R-th of the gradients."""
    rounds = 2 * (ranks - 1)
    return rounds * (machine.message + size.gradients / ranks / machine.network)


def column(record: dict[str, Any], shape: str) -> list[str]:
    """Numbers of one shape, in the order of `ROWS`."""
    size, n_batch = BYTES_OF[shape], SHAPES[shape][1]
    infers, trains = (record["rates"][f"{work} {shape}"][-1] / record["cores"] for work in ("forward", "training"))
    step = n_batch / trains
    rates = [
        infers, core_rate(MACHINE, infers), memory_rate(MACHINE, size),
        *(network_rate(machine, size, out) for machine in (MACHINE, FASTER) for out in (size.y, size.h_n)),
        *(cluster_rate(machine, size, out, infers) for machine in (MACHINE, FASTER) for out in (size.y, size.h_n)),
    ]  # fmt: skip
    sums = [all_reduce_seconds(MACHINE, ranks, size) for ranks in (MACHINES, MACHINES * MACHINE.cores)]
    return [
        *(f"{rate:,.0f}" for rate in rates), f"{size.gradients / 1e6:.2f} MB", f"{1e3 * step:,.0f} ms",
        *(f"{1e3 * seconds:.1f} ms ({number(100 * seconds / (step + seconds))} %)" for seconds in sums),
        f"{MACHINES * core_rate(MACHINE, trains) * step / (step + sums[0]):,.0f}",
    ]  # fmt: skip


ROWS = [
    "one core, measured",
    "64 cores, bound by the cores",
    "64 cores, bound by memory",
    "25 Gbit/s: x in and y out",
    "25 Gbit/s: x in and h_n out",
    "100 Gbit/s: x in and y out",
    "100 Gbit/s: x in and h_n out",
    "32 machines at 25 Gbit/s, y",
    "32 machines at 25 Gbit/s, h_n",
    "32 machines at 100 Gbit/s, y",
    "32 machines at 100 Gbit/s, h_n",
    "training: gradients of a layer",
    "one training step: one batch a core",
    "all-reduce, 1 process a machine (its share)",
    "all-reduce, 64 processes a machine (its share)",
    "32 machines train, 1 process each",
]


def section(record: dict[str, Any]) -> str:
    """The table; cells without a unit are in sequences per second."""
    columns = [column(record, shape) for shape in BYTES_OF]
    lines = [[title, *cells] for title, *cells in zip(ROWS, *columns, strict=True)]
    return table(["sequences per second", *(f"{shape} {SHAPES[shape]}" for shape in BYTES_OF)], lines)
