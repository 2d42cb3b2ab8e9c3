"""The cost model of benchmarks/cluster.py, and the page on many machines, which has the latest measurements."""

from __future__ import annotations

import json
import sys

import helpers
import pytest

sys.path.insert(0, str(helpers.ROOT / "benchmarks"))
import cluster
import workers

MACHINE = cluster.Machine(cores=8, memory=3e9, network=1e9, message=1e-3)
SIZE = cluster.Bytes(x=1_000_000, y=500_000, h_n=10, gradients=6_000_000)


def test_page_has_the_latest_measurements():
    *_, line = workers.HISTORY.read_text(encoding="utf-8").splitlines()
    page = workers.PAGE.read_text(encoding="utf-8")
    assert page.partition(workers.BEGIN)[2].partition(workers.END)[0].strip() == workers.section(json.loads(line))


def test_bytes_of_speech_follow_from_its_shape():
    """(500, 16, 80, 256): 500 steps of 80 inputs and 256 states; 82 weights for each of 768 gates."""
    assert cluster.BYTES_OF["speech"] == cluster.Bytes(160_000, 512_000, 1024, 4 * 768 * 82)


def test_bounds_of_a_machine_and_a_cluster_equal_their_formulas():
    assert cluster.core_rate(MACHINE, 100) == 800
    assert cluster.memory_rate(MACHINE, SIZE) == 1500
    assert [cluster.network_rate(MACHINE, SIZE, out) for out in (SIZE.h_n, 2_000_000)] == [1000, 500]
    assert [cluster.cluster_rate(MACHINE, SIZE, SIZE.y, rate) for rate in (100, 200)] == [32 * 800, 32 * 1000]


@pytest.mark.parametrize(("ranks", "seconds"), [(1, 0), (2, 2 * (1e-3 + 3e-3)), (3, 4 * (1e-3 + 2e-3))])
def test_ring_allreduce_time_equals_its_formula(ranks, seconds):
    assert cluster.all_reduce_seconds(MACHINE, ranks, SIZE) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("cores", "expected"), [(1, [(1, 1)]), (2, [(1, 1), (1, 2), (2, 1)]), (6, [(1, 1), (1, 6), (2, 3), (6, 1)])]
)
def test_layouts_divide_the_cores(cores, expected):
    assert workers.layouts(cores) == expected


def test_measure_returns_a_rate_per_layout():
    rates = workers.measure("forward", "small", [(1, 1), (2, 1)], rounds=1)
    assert len(rates) == 2
    assert min(rates) > 0
