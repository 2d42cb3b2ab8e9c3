"""`indygru-cpu bench`: its table, its rounds, and the end by Ctrl-C."""

from __future__ import annotations

import io
import re
import sys

import helpers
import numpy as np
import pytest

from indygru_cpu.__main__ import main
from indygru_cpu._cli import bench
from indygru_cpu._cli.info import info

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
    assert info()["processor"]["name"] in printed


def test_bench_without_memory_for_a_shape_measures_the_others(tiny, capsys, monkeypatch):
    def works_of_shape(*shape, original=bench.works_of_shape):
        if shape == SHAPE:
            raise MemoryError
        return original(*shape)

    monkeypatch.setattr(bench, "works_of_shape", works_of_shape)
    assert main(["bench", "--seconds", "1"]) == 0
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert table[2] == "| (3, 2, 5, 7) | not enough memory | - | - | - | - |"
    assert len(table) == 5


@pytest.mark.parametrize(("slow", "is_noted"), [(1.1, False), (3.0, True)])
def test_bench_names_a_spread_of_rounds_that_other_programs_cause(tiny, capsys, monkeypatch, slow, is_noted):
    rounds = np.array([[1.0, 1.0, 1.0]] * 2 + [[slow, 1.0, 1.0]] * 3)
    monkeypatch.setattr(bench, "interleave", lambda works, seconds: rounds)
    assert main(["bench"]) == 0
    assert ("Times of the same work differ by a factor of 3.0" in capsys.readouterr().out) == is_noted


@pytest.mark.parametrize(("ratio", "text"), [(0.00318, "0.0032"), (0.1, "0.10"), (1.856, "1.86"), (40.63, "40.63")])
def test_ratio_text_of_a_small_ratio_has_two_digits(ratio, text):
    assert bench.ratio_text(ratio) == text


def test_bench_to_a_stream_that_lacks_the_micro_sign_prints_us(tiny, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(bench, "interleave", lambda works, seconds: np.full((3, len(works)), 5e-6))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert main(["bench"]) == 0
    assert b"| 5 us | 5 us | 1.00 |" in written.getvalue()


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
