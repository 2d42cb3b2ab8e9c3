"""The simulation of long sequences on many processors."""

from __future__ import annotations

import sys
from itertools import pairwise

import helpers
import numpy as np
import pytest

sys.path.insert(0, str(helpers.ROOT / "benchmarks"))
import long_estimates
from cases import Case
from long_estimates import Costs, Simulation, make_grid
from ratios import library_long

from indygru_cpu._engine import _core

PANEL = 32
#: A step of one row costs as much as one of two rows, and trajectories meet in two blocks.
COSTS = Costs({1: 1.0, 2: 1.0, 4: 2.0}, region=0.0, meeting=[40])


def simulation(n_steps, n_units, processors, costs=COSTS):
    return Simulation((n_steps, 1, 1, n_units), costs, PANEL, processors).run()


def test_costs_of_steps_are_interpolated_and_in_proportion_beyond_the_measured_rows():
    assert [COSTS.of_steps(rows) for rows in (1, 3, 8)] == [1.0, 1.5, 4.0]


@pytest.mark.parametrize(
    ("rows", "processors", "tile_rows", "n_tiles"), [(4, 1, 4, 1), (8, 2, 4, 2), (4, 2, 2, 2), (256, 64, 4, 64)]
)
def test_make_grid_of_32_units_has_a_tile_for_each_processor(rows, processors, tile_rows, n_tiles):
    grid = make_grid(rows, 32, processors)
    assert (grid.rows, grid.units, grid.row_tiles * grid.unit_tiles) == (tile_rows, 32, n_tiles)


@pytest.mark.parametrize(("n_steps", "n_units"), [(100, 16), (20_000, 64)])
def test_simulation_of_a_short_or_wide_sequence_runs_in_sequence(n_steps, n_units):
    run = simulation(n_steps, n_units, processors=1)
    assert run.seconds == n_steps
    assert run.chunked_steps == run.repeated_steps == 0


def test_simulation_of_free_regions_gains_from_processors():
    seconds = [simulation(10**6, 32, processors).seconds for processors in (2, 4, 16, 64)]
    assert all(after < 0.8 * before for before, after in pairwise(seconds))


def test_simulation_of_regions_that_cost_time_is_slower():
    free, slow = (simulation(10**5, 16, 4, COSTS._replace(region=region)).seconds for region in (0.0, 10.0))
    assert slow > free


def test_simulation_of_states_that_do_not_meet_costs_little_more_than_the_sequence():
    run = simulation(10**5, 16, 1, COSTS._replace(meeting=[10**6]))
    assert 0 < run.chunked_steps < 0.25 * 10**5
    assert run.seconds < 1.15 * 10**5


@pytest.mark.skipif(
    _core.tier_in_use() not in long_estimates.PANEL_UNITS, reason="the panels of the tier are not known"
)
def test_simulation_counts_the_steps_that_the_library_runs_in_chunks():
    shape, panel = (50_000, 1, 3, 8), long_estimates.PANEL_UNITS[_core.tier_in_use()]
    costs = COSTS._replace(meeting=long_estimates.measure_meeting(shape))
    before = np.array(_core.chunked_steps())
    library_long.forward(Case(shape, "float32", 1))()
    steps, repeated = (np.array(_core.chunked_steps()) - before) / shape[3]
    run = Simulation(shape, costs, panel, 1, 16).run()
    assert run.chunked_steps == pytest.approx(steps, rel=0.2)
    assert run.repeated_steps == pytest.approx(repeated, rel=0.3)
