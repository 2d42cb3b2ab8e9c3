"""The command line: info, version, and errors for wrong arguments."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import helpers
import numpy as np
import pytest

import indygru_cpu
from indygru_cpu.__main__ import main
from indygru_cpu._cli import info
from indygru_cpu._engine import _core
from indygru_cpu._engine import threads as thread_counts
from indygru_cpu._engine.blas import blas


def test_info_json_has_the_values_of_the_core(capsys):
    assert main(["info", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    threads = thread_counts.default()
    assert values == {
        "version": indygru_cpu.__version__,
        "tier": {"in_use": _core.tier_in_use(), "available": list(_core.tiers())},
        "openmp": {"built_in": _core.openmp_threads() > 0, "maximum": _core.openmp_threads()},
        "threads": {"count": threads.count, "reason": threads.reason, "chosen_up_to_count": True},
        "l2_bytes": _core.l2_bytes(),
        "blas": {"version": blas.version, "path": blas.path, "threads": blas.threads},
        "numpy": np.__version__,
        "python": platform.python_version(),
        "processor": {"name": info.processor(), "count": os.cpu_count()},
        "system": platform.platform(),
    }
    assert Path(values["blas"]["path"]).exists()


def test_info_text_has_the_values_of_json(capsys):
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    values = info.info()
    threads = values["threads"]
    for expected in (
        values["version"],
        values["tier"]["in_use"],
        ", ".join(values["tier"]["available"]),
        f"{threads['count']} (decided by: {threads['reason']})",
        f"{values['l2_bytes'] // 1024} KB per core" if values["l2_bytes"] else "unknown",
        values["blas"]["version"],
        values["blas"]["path"],
        values["numpy"],
        values["python"],
        f"{values['processor']['name']}, {values['processor']['count']} logical processors",
        values["system"],
    ):
        assert expected in text


def test_processor_without_proc_cpuinfo_is_what_platform_knows(monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    assert info.processor() == (platform.processor() or platform.machine())


def test_info_of_a_serial_build_warns(capsys, monkeypatch):
    monkeypatch.setattr(_core, "openmp_threads", lambda: 0)
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("WARNING: built without OpenMP")
    assert "INDYGRU_CPU_OPENMP=1" in text
    assert "1 (decided by: built without OpenMP)" in text
    assert main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["openmp"] == {"built_in": False, "maximum": 0}


def test_info_of_a_build_with_openmp_does_not_warn(monkeypatch):
    monkeypatch.setattr(_core, "openmp_threads", lambda: 3)
    text = info.as_text(info.info())
    assert "WARNING" not in text
    assert "at most 3 threads" in text


def test_python_m_uses_the_tier_of_the_environment(tmp_path):
    environment = helpers.clean_environment(PYTHONPATH=helpers.package_path(), INDYGRU_CPU_TIER="baseline")
    command = [sys.executable, "-m", "indygru_cpu", "info", "--json"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["tier"]["in_use"] == "baseline"
    assert not done.stderr


def test_info_shows_the_number_of_threads_of_the_environment(tmp_path):
    variables = {"PYTHONPATH": helpers.package_path(), thread_counts.VARIABLE: "3"}
    command = [sys.executable, "-m", "indygru_cpu", "info", "--json"]
    done = subprocess.run(
        command, env=helpers.clean_environment(**variables), cwd=tmp_path, capture_output=True, text=True, check=True
    )
    expected = {"count": 3, "reason": thread_counts.VARIABLE} if _core.openmp_threads() else {"count": 1}
    assert (json.loads(done.stdout)["threads"] | {"chosen_up_to_count": False}).items() >= expected.items()


def test_output_whose_reader_has_ended_ends_the_command_without_a_traceback(tmp_path):
    command = [sys.executable, "-m", "indygru_cpu", "info"]
    environment = helpers.clean_environment(PYTHONPATH=helpers.package_path())
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed_pipe:
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, stdout=closed_pipe, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (1, "")


def test_version_is_printed(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"indygru_cpu {indygru_cpu.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        ([], ["COMMAND"]),
        (["dance"], ["'dance'", "demo"]),
        (["info", "--plot", "a.png"], ["--plot"]),
        (["demo", "--hidden-size", "0"], ["--hidden-size", "at least 1", "'0'"]),
        (["demo", "--epochs", "many"], ["--epochs", "at least 1", "'many'"]),
        (["demo", "--seed", "-1"], ["--seed", "at least 0", "'-1'"]),
        (["demo", "--threads", "1.5"], ["--threads", "at least 1", "'1.5'"]),
    ],
)
def test_wrong_arguments_exit_with_an_error_that_names_them(capsys, arguments, texts):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert not captured.out
    assert all(text in captured.err for text in texts), captured.err
