"""The benchmark report: interleaved timing in places, ratios, tables, and the sections that a report writes."""

from __future__ import annotations

import dataclasses
import json
import sys
import time

import helpers
import numpy as np
import pytest

sys.path.insert(0, str(helpers.ROOT / "benchmarks"))
import report
from cases import PLACE_SHAPES, SHAPES, Case
from ratios import library_long, runners, tables
from ratios.measure import Measured, by_group, measure_figure
from ratios.places import PLACES
from ratios.rows import FIGURES, PlaceRow, in_section, rows
from ratios.runners import Job, RunnerPool

SMALL = (3, 2, 5, 7)
SETTINGS = ("forward_on_one_thread", "forward_on_all_threads", "forward_by_default")
ALL_ROWS = rows(threads=2)
PLACE_ROWS = in_section(ALL_ROWS, "in place")
CALL_ROWS = in_section(ALL_ROWS, "calls")
LONG_ROWS = in_section(ALL_ROWS, "long sequences")
SUMMARY_ROWS = [row for row in ALL_ROWS if tables.in_summary(row)]
SECTION_PAGES = {name: section.page for name, section in report.SECTIONS.items()}


def measured_in_place(default=1e-3, one_thread=2e-3, all_threads=4e-3, peers=3e-3):
    """Ten calls of every job: nine take the time of the argument, one takes a second."""
    seconds = {
        "forward_by_default": default, "forward_on_one_thread": one_thread, "forward_on_all_threads": all_threads,
    }  # fmt: skip
    measured = Measured()
    for row in PLACE_ROWS:
        for job in row.jobs:
            measured.times.setdefault(row.group, {})[job] = [seconds.get(job.work, peers)] * 9 + [1.0]
    return measured


def measured_everywhere():
    """Every row outside of places: the library takes 2 ms, peers 3 ms, baselines 1 ms; every figure is 1."""
    measured = measured_in_place()
    for row in ALL_ROWS:
        if row not in PLACE_ROWS:
            for job in row.jobs:
                seconds = 2e-3 if job.module.startswith("library") else 3e-3 if job.module.startswith("peers") else 1e-3
                measured.times.setdefault(row.group, {})[job] = [seconds] * 3
    measured.figures = {figure.title: [1.0] for figure in FIGURES}
    return measured


@pytest.fixture
def tree(tmp_path):
    """Pages with the marks of their sections."""
    (tmp_path / "docs").mkdir()
    for page in SECTION_PAGES.values():
        marks = [report.marks(name) for name in SECTION_PAGES if SECTION_PAGES[name] == page]
        sections = "".join(f"{begin}\nold\n{end}\n" for begin, end in marks)
        (tmp_path / page).write_text(f"before\n{sections}after\n", encoding="utf-8")
    return tmp_path


def test_rows_in_place_first_groups_are_all_shapes_in_all_places():
    groups = list(by_group(ALL_ROWS))
    assert groups[: 3 * len(PLACE_SHAPES)] == [
        f"in place {place} {shape}" for shape in PLACE_SHAPES for place in PLACES
    ]
    assert len({row.session for row in PLACE_ROWS}) == len(PLACE_SHAPES)


def test_rows_in_place_of_one_thread_do_not_exist():
    assert not in_section(rows(threads=1), "in place")


def test_place_row_value_is_a_ratio_of_quantiles_to_the_better_baseline():
    job, one, several = (Job("library", work, SMALL, place="loop") for work in "abc")
    times = {job: [3.0, 1.0, 2.0], one: [4.0, 4.0, 4.0], several: [8.0, 1.0, 1.0]}
    assert PlaceRow("in place", "", job, (one, several)).value(times) == 2
    assert PlaceRow("in place", "", job, (one, several), quantile=1).value(times) == 0.75


def test_runner_pool_sample_in_a_place_times_each_call():
    with RunnerPool() as pool:
        for place in PLACES:
            for work in SETTINGS:
                sample = pool.sample(Job("library", work, SMALL, place=place))
                min_calls, max_calls = runners.BLOCK_CALLS
                assert min_calls <= len(sample) <= max_calls
                assert all(seconds > 0 for seconds in sample)
        assert len(pool._runners) == 1
        assert len(pool.sample(Job("library", "forward", SMALL))) == 1


def test_seconds_of_calls_excludes_the_preparation():
    called = []
    sample = runners.seconds_of_calls(
        lambda: called.append("work"), lambda: (called.append("before"), time.sleep(0.01))
    )
    assert called == ["before", "work"] * (len(sample) + 1)
    assert sorted(sample)[len(sample) // 2] < 0.01


def test_before_call_of_the_second_call_runs_the_work_after_the_pause():
    called = []
    before = runners.before_call("second", lambda: called.append("pause"), lambda: called.append("work"))
    before()
    assert called == ["pause", "work"]
    before_call = runners.before_call("pause", prepared := object(), None)
    assert before_call is prepared


def test_call_rows_are_on_one_thread_and_each_group_has_one_baseline():
    for members in by_group(CALL_ROWS).values():
        assert {job.threads for row in members for job in row.jobs} == {1}
        assert len({row.baseline for row in members}) == 1
        assert len({row.baseline[0].place for row in members} | {row.job.place for row in members}) == 1


def small(job):
    """The work of a job at a small shape, in a loop on one thread; groups divide the inputs and the units."""
    return Job(job.module, job.work, (2, 2, 32, 32) if job.work == "grouped" else SMALL, threads=1)


def test_jobs_of_the_library_and_of_numpy_run():
    """Those of long sequences have a test of their own."""
    of_rows = [job for row in ALL_ROWS if row not in LONG_ROWS and not row.missing for job in row.jobs]
    jobs = dict.fromkeys(small(job) for job in of_rows if not job.module.startswith("peers."))
    with RunnerPool() as pool:
        assert all(seconds > 0 for job in jobs for seconds in pool.sample(job))


def test_calls_table_shows_time_ratio_and_target_of_every_row():
    lines = tables.calls_table(measured_everywhere(), CALL_ROWS).splitlines()
    assert lines[0] == "| call / baseline | time of the call | ratio | target |"
    assert len(lines) == 2 + len(CALL_ROWS)
    add = "`numpy.add(a, b, out=c)` of 32 floats"
    assert f"| `stream.push`, (2, 1, 8, 8) / {add} | 2 ms | 2.00 |  |" in lines
    small = [line for line in lines if "small / matmul | " in line]
    assert small[0] == "| forward, small / matmul | 2 ms | **2.00** | ≤ 1.25 |"


def test_steps_section_missing_peer_has_no_time():
    measured, step_rows = measured_everywhere(), in_section(ALL_ROWS, "steps")
    for row in step_rows:
        if row.title == "torch.nn.GRUCell *":
            measured.times[row.group][row.job] = []
    lines = tables.steps_section(measured, step_rows, "a machine").splitlines()
    assert "| torch.nn.GRUCell * | -, - | -, - | -, - |" in lines
    assert any(line.startswith("| `push` | 2 ms, 2.00 | 2 ms, **2.00** (≤ 0.6) |") for line in lines)


def test_calls_section_names_one_thread():
    place = report.machine.machine(threads=2)
    text = report.SECTIONS["calls"].write(measured_everywhere(), CALL_ROWS, place)
    assert ", 1 thread; " in text


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.title)
def test_figures_are_measured(figure):
    if figure.missing:
        pytest.skip(figure.missing)
    small_figure = dataclasses.replace(figure, shape=(3, 1, 5, 7))
    assert np.isfinite(measure_figure(small_figure, threads=1))


def test_long_jobs_run():
    """The shape has several calls of a long sequence."""
    jobs = dict.fromkeys(
        job._replace(shape=(5000, 1, 2, 3)) for row in LONG_ROWS if row.job.module == "library_long" for job in row.jobs
    )
    with RunnerPool() as pool:
        assert all(seconds > 0 for job in jobs for seconds in pool.sample(job))


@pytest.mark.parametrize("update_bias", [library_long.FORGETTING, library_long.RETENTIVE])
def test_long_work_in_calls_computes_the_results_of_one_call(update_bias):
    case = Case((5000, 1, 2, 3), "float32", 1)
    y, _ = library_long.forward(case, update_bias)()
    np.testing.assert_array_equal(library_long.forward_in_calls(case, update_bias)(), y)
    *_, grads = library_long.training(case, update_bias)()
    np.testing.assert_allclose(library_long.training_in_calls(case, update_bias)(), grads.h0, rtol=1e-5)


def test_long_section_shows_every_row_of_its_tables():
    text = tables.long_section(measured_everywhere(), LONG_ROWS, "a machine")
    lines = text.splitlines()
    assert "| (500, 64, 1, 8) | 7.81 ns (**2.05** (≤ 1.2)) |" in text
    assert sum(line.startswith("| forward, 1 thread / 2 threads | **1.00** (≥ 1.8)") for line in lines) == 1
    assert "| indygru_cpu, 16384 steps | 122 |" in text
    assert "| torch.nn.GRU * | 3000 |" in text
    assert text.endswith("a machine.")


@pytest.mark.parametrize("place", PLACES)
def test_places_prepared_function_can_be_repeated(place):
    before = PLACES[place].prepare()
    start = time.perf_counter()
    before()
    before()
    assert place != "pause" or time.perf_counter() - start >= 0.03


def test_place_tables_show_all_places_with_ratios_and_targets():
    measured = measured_in_place()
    settings = tables.place_settings_table(measured, PLACE_ROWS).splitlines()
    assert len(settings) == 2 + 3 * len(PLACE_SHAPES)
    page = tables.place_section(measured, PLACE_ROWS, "a machine")
    assert "| 2 ms / 102 ms | 4 ms / 104 ms | 1 ms / 101 ms | 0.50 (≤ 1.1) | 0.99 (≤ 1.5) | 0.50 (≤ 0.7) |" in page
    assert "| 3 ms / 103 ms (3.00) |" in page
    assert page.endswith("a machine.")


def test_place_tables_missed_target_is_bold():
    table = tables.place_settings_table(measured_in_place(default=3e-3), PLACE_ROWS)
    first, second = table.splitlines()[2:4]
    assert "| in a loop |" in first
    assert "**1.50** (≤ 1.1) | 1.01 (≤ 1.5) | 1.50 |" in first
    assert "| after 20 ms |" in second
    assert "**1.50** (≤ 1.1) | 1.01 (≤ 1.5) | **1.50** (≤ 1.1) |" in second


def test_place_tables_missing_peer_is_reported_once():
    measured = measured_in_place()
    for row in PLACE_ROWS:
        if row.title == "Numba by hand":
            del measured.times[row.group][row.job]
            measured.missing[row.job] = "not installed: numba"
    text = tables.place_section(measured, PLACE_ROWS, "a machine")
    assert text.count("- Not measured: peers.numba_tiles: not installed: numba\n") == 1
    assert "| in a loop | - (-) | 3 ms / 103 ms (3.00) |" in text


def test_summary_table_of_some_shapes_shows_these_alone():
    rows = [row for row in SUMMARY_ROWS if row.column == "speech"]
    (_, _, line) = tables.summary_table(measured_everywhere(), rows).splitlines()
    assert line.startswith(f"| {SHAPES['speech']} | 2 ms | 1 | ")


def test_summary_table_shows_every_shape_without_targets():
    lines = tables.summary_table(measured_everywhere(), SUMMARY_ROWS).splitlines()
    assert lines[0].split(" | ")[3:] == [
        "indygru_cpu", "Numba by hand", "onnxruntime, Scan", "onnxruntime GRU *", "torch.nn.GRU * |",
    ]  # fmt: skip
    assert lines[2:] == [f"| {shape} | 2 ms | 1 | 2.00 | 3.00 | 3.00 | 3.00 | 3.00 |" for shape in SHAPES.values()]


def test_report_write_sections_writes_the_named_section_alone(tree, monkeypatch):
    monkeypatch.setattr(report, "measure", lambda *_: measured_in_place())
    only = ["--only", "in place", "--write-sections", "in place", "--into", str(tree)]
    monkeypatch.setattr(sys, "argv", ["report.py", *only])
    report.main()
    text = (tree / "docs" / "speed.md").read_text(encoding="utf-8")
    assert text.startswith("before\n<!-- in place: ")
    assert text.endswith("\n".join([report.marks("speeds")[0], "old", report.marks("speeds")[1], "after\n"]))
    assert "| (256, 32, 512, 512) | after a product |" in text
    assert "\nold\n" in (tree / "README.md").read_text(encoding="utf-8")
    (history,) = (tree / "benchmarks" / "history").iterdir()
    line = json.loads(history.read_text(encoding="utf-8"))
    assert line["rows"][1]["target"] == 1.1
    assert len(line["rows"]) == len(PLACE_ROWS)
    assert line["rows"][0]["p50 and p90"] == {
        SETTINGS[0]: [2e-3, pytest.approx(0.1018)],
        SETTINGS[1]: [4e-3, pytest.approx(0.1036)],
    }


def test_report_only_prints_and_writes_nothing(tree, monkeypatch, capsys):
    monkeypatch.setattr(report, "measure", lambda *_: measured_in_place())
    monkeypatch.setattr(sys, "argv", ["report.py", "--only", "in place pause", "--into", str(tree)])
    report.main()
    assert "after 20 ms" in capsys.readouterr().out
    assert not (tree / "benchmarks").exists()
    assert "old" in (tree / "README.md").read_text(encoding="utf-8")


def test_report_record_of_some_rows_writes_their_line_alone(tree, monkeypatch):
    monkeypatch.setattr(report, "measure", lambda *_: measured_in_place())
    monkeypatch.setattr(sys, "argv", ["report.py", "--only", "in place pause", "--record", "--into", str(tree)])
    report.main()
    (history,) = (tree / "benchmarks" / "history").iterdir()
    rows = json.loads(history.read_text(encoding="utf-8"))["rows"]
    assert {row["group"] for row in rows} == {row.group for row in PLACE_ROWS if row.group.startswith("in place pause")}
    assert "old" in (tree / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "in place pause", "--write-sections", "in place"], "rows that --only or --skip leave out"),
        (["--only", "in place", "--write-sections", "speeds"], "rows that --only or --skip leave out"),
        (["--threads", "1", "--write-sections", "in place"], "has no rows with --threads 1"),
        (["--from-history", "file.jsonl"], "expected --write-sections NAME, got none"),
        (["--from-history", "file.jsonl", "--record"], "expected a measurement, got --from-history"),
    ],
)
def test_report_section_without_all_its_rows_is_refused(tree, arguments, message, capsys):
    with pytest.raises(SystemExit):
        report.parse([*arguments, "--into", str(tree)])
    assert message in capsys.readouterr().err


def test_report_page_without_marks_is_refused_before_measuring(tree):
    (tree / "docs" / "speed.md").write_text("no marks\n", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"speed\.md: expected the marks"):
        report.parse(["--only", "in place", "--write-sections", "in place", "--into", str(tree)])
    assert report.parse(["--only", "peers", "--write-sections", "summary", "--into", str(tree)])


@pytest.mark.parametrize("name", SECTION_PAGES)
def test_report_from_history_writes_what_the_measurement_wrote(tree, monkeypatch, name):
    """A newer line without the rows is passed over."""
    measured, every_row = measured_everywhere(), [*ALL_ROWS, *FIGURES]
    place = report.machine.machine(threads=2)
    section = report.SECTIONS[name]
    section_rows = [row for row in every_row if section.needs(row)]
    report.append(report.history(measured, every_row, place), "a-machine", tree)
    report.append(report.history(measured, [], place | {"commit": "newer, without rows"}), "a-machine", tree)
    file = tree / "benchmarks" / "history" / "a-machine.jsonl"
    arguments = ["report.py", "--from-history", str(file), "--write-sections", name, "--into", str(tree)]
    monkeypatch.setattr(sys, "argv", arguments)
    report.main()
    _, text, _ = tables.between(tree / section.page, *report.marks(name))
    assert text.strip() == section.write(measured, section_rows, place)


def test_report_from_history_without_the_rows_is_refused(tree, monkeypatch):
    report.append(report.history(Measured(), [], {}), "a-machine", tree)
    file = tree / "benchmarks" / "history" / "a-machine.jsonl"
    with pytest.raises(SystemExit, match=rf"expected a line with the {len(SUMMARY_ROWS)} rows, except for"):
        report.write_recorded(file, ALL_ROWS, ["summary"], tree)


@pytest.mark.parametrize(("name", "page"), SECTION_PAGES.items())
def test_pages_have_the_marks(name, page):
    tables.between(helpers.ROOT / page, *report.marks(name))


@pytest.mark.parametrize("name", SECTION_PAGES)
def test_page_has_the_recorded_values(name):
    """A section is the newest recorded line of the machine that it names."""
    section = report.SECTIONS[name]
    _, text, _ = tables.between(helpers.ROOT / section.page, *report.marks(name))
    files = (helpers.ROOT / "benchmarks" / "history").glob("*cores*.jsonl")
    written = []
    for file in files:
        try:
            recorded, recorded_rows, record = report.from_history(
                file, [row for row in (*ALL_ROWS, *FIGURES) if section.needs(row)]
            )
        except SystemExit:
            continue  # a machine without these rows
        written.append(section.write(recorded, recorded_rows, record))
    assert text.strip() in written


def test_report_from_history_leaves_out_peers_that_were_added_later(tree):
    recorded_rows = [row for row in SUMMARY_ROWS if row.title != "Numba by hand"]
    place = report.machine.machine(threads=2)
    report.append(report.history(measured_everywhere(), recorded_rows, place), "a-machine", tree)
    report.write_recorded(tree / "benchmarks" / "history" / "a-machine.jsonl", ALL_ROWS, ["summary"], tree)
    _, text, _ = tables.between(tree / "README.md", *report.marks("summary"))
    assert f"| {SHAPES['lm']} | 2 ms | 1 | 2.00 | - | 3.00 |" in text
