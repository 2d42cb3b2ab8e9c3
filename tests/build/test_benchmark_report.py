"""The benchmark of calls in place: turns, ratios, tables, and the sections that a report writes."""

from __future__ import annotations

import json
import sys
import time

import helpers
import pytest

sys.path.insert(0, str(helpers.ROOT / "benchmarks"))
import report
import tables
import turns
from cases import PLACE_SHAPES
from measure import Measured, by_group
from places import PLACES
from rows import PlaceRow, of_section, rows
from turns import Job, Players

SMALL = (3, 2, 5, 7)
SETTINGS = ("forward_on_one_thread", "forward_on_all_threads", "forward_by_default")
ALL_ROWS = rows(threads=2)
PLACE_ROWS = of_section(ALL_ROWS, "in place")


def measured_in_place(of_default=1e-3, of_one=2e-3, of_all=4e-3, of_peers=3e-3):
    """Ten calls of every job: nine take as long as given, one ten times as long."""
    seconds = {"forward_by_default": of_default, "forward_on_one_thread": of_one, "forward_on_all_threads": of_all}
    found = Measured()
    for row in PLACE_ROWS:
        for job in row.jobs:
            found.times.setdefault(row.group, {})[job] = [seconds.get(job.work, of_peers)] * 9 + [1.0]
    return found


@pytest.fixture
def tree(tmp_path):
    """Pages with the marks of both sections."""
    sections = "".join(f"{begin}\nold\n{end}\n" for begin, end in map(report.marks, report.SECTIONS))
    (tmp_path / "docs").mkdir()
    for page in ("README.md", "docs/speed.md"):
        (tmp_path / page).write_text(f"before\n{sections}after\n", encoding="utf-8")
    return tmp_path


def test_rows_begin_with_every_shape_in_every_place():
    groups = list(by_group(ALL_ROWS))
    assert groups[: 3 * len(PLACE_SHAPES)] == [
        f"in place {place} {shape}" for shape in PLACE_SHAPES for place in PLACES
    ]
    assert len({row.session for row in PLACE_ROWS}) == len(PLACE_SHAPES)


def test_rows_in_place_one_thread_has_none():
    assert not of_section(rows(threads=1), "in place")


def test_place_row_value_is_a_ratio_of_quantiles_to_the_better_baseline():
    job, one, several = (Job("ours", work, SMALL, place="loop") for work in "abc")
    times = {job: [3.0, 1.0, 2.0], one: [4.0, 4.0, 4.0], several: [8.0, 1.0, 1.0]}
    assert PlaceRow("in place", "", job, (one, several)).value(times) == 2
    assert PlaceRow("in place", "", job, (one, several), quantile=1).value(times) == 0.75


def test_players_turn_in_a_place_times_each_call():
    with Players() as players:
        for place in PLACES:
            for work in SETTINGS:
                found = players.turn(Job("ours", work, SMALL, place=place))
                least, most = turns.BLOCK_CALLS
                assert least <= len(found) <= most
                assert all(seconds > 0 for seconds in found)
        assert len(players._players) == 1
        assert len(players.turn(Job("ours", "forward", SMALL))) == 1


def test_seconds_of_calls_does_not_count_what_runs_before():
    called = []
    found = turns.seconds_of_calls(lambda: called.append("work"), lambda: (called.append("before"), time.sleep(0.01)))
    assert called == ["before", "work"] * (len(found) + 1)
    assert sorted(found)[len(found) // 2] < 0.01


@pytest.mark.parametrize("place", PLACES)
def test_places_prepare_gives_what_can_run_again_and_again(place):
    before = PLACES[place].prepare()
    start = time.perf_counter()
    before()
    before()
    assert place != "pause" or time.perf_counter() - start >= 0.03


def test_place_tables_show_all_places_with_ratios_and_targets():
    found = measured_in_place()
    summary = tables.place_summary(found, PLACE_ROWS).splitlines()
    assert len(summary) == 2 + 3 * len(PLACE_SHAPES)
    assert summary[2].startswith("| (100, 1, 64, 64) | in a loop | 1 ms | 0.50 | 0.50 | 3.00 |")
    page = tables.place_page(found, PLACE_ROWS, "a machine")
    assert "| 2 ms / 102 ms | 4 ms / 104 ms | 1 ms / 101 ms | 0.50 (≤ 1.1) | 0.99 (≤ 1.5) | 0.50 (≤ 0.7) |" in page
    assert "| 3 ms / 103 ms (3.00) |" in page
    assert page.endswith("a machine.")


def test_place_tables_missed_target_is_bold():
    summary = tables.place_summary(measured_in_place(of_default=3e-3), PLACE_ROWS)
    assert "| in a loop | 3 ms | **1.50** | 1.50 |" in summary
    assert "| after 20 ms | 3 ms | **1.50** | **1.50** |" in summary


def test_place_tables_missing_peer_is_told_once():
    found = measured_in_place()
    for row in PLACE_ROWS:
        if row.title == "Numba by hand":
            del found.times[row.group][row.job]
            found.missing[row.job] = "not installed: numba"
    text = tables.place_section(found, PLACE_ROWS, "a machine")
    assert text.count("- Not measured: peers.numba_tiles: not installed: numba\n") == 1
    assert "| 1 ms | 0.50 | 0.50 | - |" in text


def test_report_writes_the_section_that_is_named_alone(tree, monkeypatch):
    monkeypatch.setattr(report, "measure", lambda *_: measured_in_place())
    only = ["--only", "in place", "--write-sections", "in place", "--into", str(tree)]
    monkeypatch.setattr(sys, "argv", ["report.py", *only])
    report.main()
    for page in ("README.md", "docs/speed.md"):
        text = (tree / page).read_text(encoding="utf-8")
        assert text.startswith("before\n<!-- in place: ")
        assert text.endswith("\n".join([report.marks("speeds")[0], "old", report.marks("speeds")[1], "after\n"]))
        assert "| (256, 32, 512, 512) | after a product |" in text
    (history,) = (tree / "benchmarks" / "history").iterdir()
    line = json.loads(history.read_text(encoding="utf-8"))
    assert len(line["rows"]) == len(PLACE_ROWS)
    assert line["rows"][0]["p50 and p90"] == {
        SETTINGS[0]: [2e-3, pytest.approx(0.1018)],
        SETTINGS[1]: [4e-3, pytest.approx(0.1036)],
    }


def test_report_only_without_sections_writes_nothing(tree, monkeypatch, capsys):
    monkeypatch.setattr(report, "measure", lambda *_: measured_in_place())
    monkeypatch.setattr(sys, "argv", ["report.py", "--only", "in place pause", "--into", str(tree)])
    report.main()
    assert "after 20 ms" in capsys.readouterr().out
    assert not (tree / "benchmarks").exists()
    assert "old" in (tree / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--only", "in place pause", "--write-sections", "in place"], "rows that --only or --skip leave out"),
        (["--only", "in place", "--write-sections", "speeds"], "rows that --only or --skip leave out"),
        (["--threads", "1", "--write-sections", "in place"], "has no rows with --threads 1"),
    ],
)
def test_report_section_without_all_its_rows_is_refused(tree, arguments, told, capsys):
    with pytest.raises(SystemExit):
        report.parse([*arguments, "--into", str(tree)])
    assert told in capsys.readouterr().err


def test_report_page_without_marks_is_refused_before_it_is_measured(tree):
    (tree / "docs" / "speed.md").write_text("no marks\n", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"speed\.md: expected the marks"):
        report.parse(["--only", "in place", "--write-sections", "in place", "--into", str(tree)])
    assert report.parse(["--threads", "1", "--into", str(tree)]).write_sections == ["speeds"]


@pytest.mark.parametrize("page", ["README.md", "docs/speed.md"])
def test_pages_have_the_marks(page):
    tables.between(helpers.ROOT / page, *report.marks("in place"))
