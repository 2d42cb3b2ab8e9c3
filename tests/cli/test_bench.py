"""`indygru-cpu bench`: its table, its rounds, and the end by Ctrl-C."""

from __future__ import annotations

import re

import helpers
import numpy as np
import pytest

from indygru_cpu.__main__ import main
from indygru_cpu._cli import bench

SHAPE = (3, 2, 5, 7)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(bench, "SHAPES", {"first": SHAPE, "second": (4, 1, 2, 3)})
    monkeypatch.setattr(bench, "STEP_SIZES", [(4, 5)])
    monkeypatch.setattr(bench, "SAMPLE_SECONDS", 1e-4)
    monkeypatch.setattr(bench, "SPIN_SECONDS", 0)


def test_bench_prints_a_line_for_every_shape(tiny, capsys):
    assert main(["bench", "--seconds", "1"]) == 0
    printed = capsys.readouterr().out
    table = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("|")]
    assert [cells[0] for cells in table[2:]] == [
        "(3, 2, 5, 7)",
        "(4, 1, 2, 3)",
        "`push`, (D, N) = (4, 5), and `numpy.dot`",
    ]
    assert {len(cells) for cells in table} == {6}
    for line in table[2:]:
        assert re.fullmatch(r"[\d.]+ (µs|ms|s)", line[1])
        assert float(line[3]) > 0
    assert table[-1][-2:] == ["-", "-"]
    assert f"NumPy {np.__version__}" in printed


def test_bench_shapes_are_those_of_the_readme():
    readme = (helpers.ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"\n| {shape} | " in readme for shape in bench.SHAPES.values())


def test_bench_works_compute_the_projection_the_states_and_the_gradients():
    project, forward, train = bench.works_of_shape(*SHAPE)
    assert project().shape == (6, 21)
    y, _ = forward()
    assert y.shape == (3, 2, 7)
    assert train().x.shape == (3, 2, 5)
    helpers.assert_same_bits(forward()[0], y)


def test_interleave_without_time_runs_the_minimum_of_rounds(tiny):
    calls = []
    rounds = bench.interleave([lambda: calls.append("product"), lambda: calls.append("layer")], seconds=0)
    assert rounds.shape == (bench.MIN_ROUNDS, 2)
    assert (rounds > 0).all()
    order = [name for name, previous in zip(calls, [None, *calls], strict=False) if name != previous]
    assert order == ["product", "layer"] * bench.MIN_ROUNDS


@pytest.mark.parametrize(("seconds", "text"), [(2.5, "2.5 s"), (0.0123, "12.3 ms"), (4.5e-7, "0.45 µs")])
def test_time_text_has_three_digits_and_a_unit(seconds, text):
    assert bench.time_text(seconds) == text


def test_bench_stopped_by_the_user_keeps_the_lines_so_far(tiny, capsys, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "works_of_step", stop)
    assert main(["bench", "--seconds", "1"]) == 130
    captured = capsys.readouterr()
    assert "(4, 1, 2, 3)" in captured.out
    assert captured.err == "\nindygru-cpu bench: stopped\n"


@pytest.mark.parametrize("seconds", ["0", "-1", "soon"])
def test_bench_wrong_seconds_is_refused(seconds, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["bench", "--seconds", seconds])
    assert "expected an integer of at least 1" in capsys.readouterr().err
