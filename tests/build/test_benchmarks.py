"""Benchmarks for pytest, at tiny sizes, and their history: runs are added, compared and drawn."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import helpers
import pytest

pytest.importorskip("pytest_benchmark")
pytest.importorskip("threadpoolctl")
sys.path.insert(0, str(helpers.ROOT / "benchmarks"))
import machine
import test_in_place
import track

#: One shape, on one thread, of the forward pass; with few rounds.
FORWARD = ("benchmarks/test_forward.py", "-k", "speech and f32-1", "--benchmark-only", "--benchmark-max-time=0.01")
GROUP = "forward: speech-f32-1"


def run_benchmarks(*arguments, status=0):
    command = [
        sys.executable,
        "-P",
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "--tiny",
        *arguments,
    ]
    # The plug-in refuses to measure in a worker of pytest-xdist, which it recognises by variables.
    environment = {name: value for name, value in helpers.clean_environment().items() if "XDIST" not in name}
    done = subprocess.run(
        command, cwd=helpers.ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def pytest_file(path, medians, commit="abc", tiny=False, processor="Some CPU"):
    """What pytest-benchmark writes, as far as it is read: seconds by name."""
    info = {
        "processor": processor, "cores": 2, "system": "Linux x86_64", "tier": "baseline",
        "versions": {"python": "3.12.1"}, "threads": 2, "commit": commit, "tiny": tiny,
    }  # fmt: skip
    benchmarks = [
        {
            "group": GROUP, "name": name, "extra_info": info,
            "stats": {"median": median, "iqr": 0.1 * median, "rounds": 5},
        }
        for name, median in medians.items()
    ]  # fmt: skip
    path.write_text(json.dumps({"datetime": "2026-01-02T03:04:05", "benchmarks": benchmarks}), encoding="utf-8")
    return path


def history_of(tmp_path, *runs):
    for number, medians in enumerate(runs):
        file = track.add(pytest_file(tmp_path / "run.json", medians, commit=f"commit{number}"), tmp_path)
    return file


def test_benchmarks_all_run_once_at_tiny_sizes():
    text = run_benchmarks("benchmarks", "--benchmark-disable")
    assert int(re.search(r"(\d+) passed", text)[1]) > 150
    assert "failed" not in text


def test_time_in_place_with_codspeed_passes_no_arguments_to_the_setup():
    """CodSpeed's `pedantic` calls the setup with the arguments of the call, and pytest-benchmark's without."""
    calls = []

    class Benchmark:
        group = "in place"

        def pedantic(self, target, args=(), kwargs=None, setup=None, rounds=1, warmup_rounds=0):
            assert setup(*args, **(kwargs or {})) is None
            target(*args, **(kwargs or {}))

    benchmark = Benchmark()
    test_in_place.time_in_place(benchmark, "loop", lambda *x, **options: calls.append((x, options)), 1, out=2)
    assert calls == [((1,), {"out": 2})]
    assert benchmark.group == "in place, in a loop"


def test_benchmarks_saved_run_has_groups_machine_and_a_baseline_to_compare(tmp_path):
    storage = f"--benchmark-storage={tmp_path.as_uri()}"
    run_benchmarks(*FORWARD, storage, "--benchmark-autosave", "--benchmark-compare")  # with no run yet: a warning
    (saved,) = tmp_path.glob("*/0001_*.json")
    assert saved.parent.name.startswith(machine.slug(machine.machine(threads=1)))
    content = json.loads(saved.read_text(encoding="utf-8"))
    benchmarks = content["benchmarks"]
    assert {each["group"] for each in benchmarks} == {GROUP}
    names = {each["name"] for each in benchmarks}
    assert {"test_forward[speech-f32-1]", "test_matmul[speech-f32-1]"} <= names
    info = benchmarks[0]["extra_info"]
    assert info["tier"] == machine.machine(threads=1)["tier"]
    assert info["versions"]["numpy"]
    compared = run_benchmarks(
        *FORWARD, storage, "--benchmark-compare=0001", "--benchmark-compare-fail=median:10000000%"
    )
    assert "test_forward[speech-f32-1] (0001_" in compared
    with pytest.raises(track.HistoryError, match="without --tiny"):
        track.add(saved, tmp_path)


def test_track_add_appends_a_line_to_the_file_of_the_machine(tmp_path):
    file = history_of(tmp_path, {"test_forward[a]": 1e-3}, {"test_forward[a]": 2e-3})
    assert file.name == "some-cpu-2-cores-baseline-python-3-12.jsonl"
    first, second = track.read(file)
    assert (first["commit"], second["commit"], first["date"], first["threads"]) == (
        "commit0", "commit1", "2026-01-02", 2,
    )  # fmt: skip
    assert second["rows"][0]["value"] == 2e-3
    assert machine.as_text(first).startswith("Some CPU, 2 cores")


def test_track_add_tiny_or_empty_run_is_refused(tmp_path):
    for medians, tiny in (({"test_forward[a]": 1.0}, True), ({}, False)):
        with pytest.raises(track.HistoryError, match=r"run\.json: expected the results of pytest benchmarks"):
            track.add(pytest_file(tmp_path / "run.json", medians, tiny=tiny), tmp_path)


def test_track_slower_names_rows_above_the_median_of_the_runs_before(tmp_path, capsys):
    runs = [{"a": 1e-3, "b": 1e-3}, {"a": 9e-3, "b": 1e-3}, {"a": 1e-3}, {"a": 1.2e-3, "b": 1.05e-3, "new": 1.0}]
    file = history_of(tmp_path, *runs)
    assert track.main(["slower", "--file", str(file)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:] == [f"| {GROUP}: a | 1 ms | 1.2 ms | +20 % |"]
    assert track.main(["slower", "--file", str(file), "--percent", "30"]) == 0
    assert capsys.readouterr().out == "None of 2 rows got slower by more than 30 %.\n"


@pytest.mark.parametrize("content", ["hello", "[1, 2]", "{}", '{"benchmarks": [{}]}', None], ids=str)
def test_track_add_file_of_another_program_is_refused(content, tmp_path, capsys):
    path = tmp_path / "run.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(SystemExit, match="2"):
        track.main(["--history", str(tmp_path), "add", str(path)])
    assert "expected a file that pytest benchmarks --benchmark-json wrote" in capsys.readouterr().err


def test_track_add_makes_the_folder_and_reads_threads_that_no_row_names(tmp_path):
    path = pytest_file(tmp_path / "run.json", {"a": 1.0})
    path.write_text(path.read_text(encoding="utf-8").replace('"threads": 2', '"threads": "auto"'), encoding="utf-8")
    file = track.add(path, tmp_path / "new" / "history")
    assert track.read(file)[0]["threads"] == 1


@pytest.mark.parametrize("command", ["slower", "plot", "add"])
def test_track_damaged_line_is_named(command, tmp_path, capsys):
    file = history_of(tmp_path, {"a": 1.0})
    content = file.read_text(encoding="utf-8") + '\n{"rows": ['
    file.write_text(content, encoding="utf-8")
    arguments = {
        "slower": ["slower", "--file", str(file)],
        "plot": ["plot"],
        "add": ["add", str(tmp_path / "run.json")],
    }
    with pytest.raises(SystemExit, match="2"):
        track.main(["--history", str(tmp_path), *arguments[command]])
    assert f"{file}:3: expected a run as JSON, got a damaged line" in capsys.readouterr().err
    assert file.read_text(encoding="utf-8") == content


def test_track_slower_of_an_empty_file_is_refused(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text("\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="2"):
        track.main(["slower", "--file", str(tmp_path / "a.jsonl")])
    assert "got an empty file" in capsys.readouterr().err


def test_track_slower_of_one_run_says_that_nothing_was_compared(tmp_path, capsys):
    assert track.main(["slower", "--file", str(history_of(tmp_path, {"a": 1.0}))]) == 0
    assert capsys.readouterr().out.startswith("No row was compared")


def test_track_plot_of_a_file_name_with_spaces_links_its_picture(tmp_path):
    history_of(tmp_path, {"a": 1.0}).rename(tmp_path / "my machine.jsonl")
    assert track.main(["--history", str(tmp_path), "plot"]) == 0
    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "(my%20machine.svg)" in page
    assert "1 run from" in page
    assert (tmp_path / "my machine.svg").exists()


def changes_of(row, *values):
    """Changes of a history of one row."""
    return track.changes([
        {"threads": 2, "rows": [{"group": row.group, "title": row.title, "value": value, "work": "forward"}]}
        for value in values
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("section", "title"),
    [
        ("shapes", "forward, 1 thread / 2 threads"),
        ("in place", "1 thread / 2 threads"),
        ("in place", "Numba by hand"),
        ("long sequences", "forward in calls of 2048 steps / in one call, 1 thread"),
        ("long sequences", "torch.nn.GRU"),
    ],
)
def test_track_slower_speed_up_and_peer_as_a_multiple_of_the_library_get_worse_when_they_fall(section, title):
    row = next(row for row in track.rows(2) if (row.section, row.title) == (section, title))
    (change,) = changes_of(row, 1.8, 1.2)
    assert change.factor == pytest.approx(1.5)


@pytest.mark.parametrize("title", ["torch.nn.GRU", "the three matrix products of training alone", "torch.nn.GRUCell *"])
def test_track_slower_ratio_without_the_library_is_left_out(title):
    row = next(row for row in track.rows(2) if row.title == title and row.section in ("peers", "shapes", "steps"))
    assert changes_of(row, 1.2, 1.8) == []


def test_track_slower_of_a_machine_without_history_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        track.main(["--history", str(tmp_path), "slower"])
    assert "expected the history of a kind of machine" in capsys.readouterr().err


def test_track_plot_writes_a_picture_for_every_machine(tmp_path):
    history_of(tmp_path, {"a": 1e-3, "b": 1.0}, {"a": 2e-3}, {"b": 2.0})
    track.add(pytest_file(tmp_path / "run.json", {"a": 0.0}, processor="Another"), tmp_path)
    (tmp_path / "workers.jsonl").write_text('{"layouts": []}\n', encoding="utf-8")
    assert track.main(["--history", str(tmp_path), "plot"]) == 0
    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    pictures = re.findall(r"\]\((.*\.svg)\)", page)
    assert pictures == ["another-2-cores-baseline-python-3-12.svg", "some-cpu-2-cores-baseline-python-3-12.svg"]
    assert "3 runs from 2026-01-02 to 2026-01-02" in page
    svg = (tmp_path / pictures[1]).read_text(encoding="utf-8")
    assert GROUP in svg
    assert all(f"commit{number}" in svg for number in range(3))


def test_history_page_has_every_run_of_every_machine():
    folder = helpers.ROOT / "benchmarks" / "history"
    page = (folder / "README.md").read_text(encoding="utf-8")
    for path in track.machine_files(folder):
        picture = path.with_suffix(".svg")
        text = page.partition(f"({picture.name})")[0].rpartition("\n## ")[2]
        n_runs = len(track.read(path))
        assert f"\n{n_runs} {'run' if n_runs == 1 else 'runs'} from" in text
        assert picture.exists()
