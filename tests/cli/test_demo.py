"""The main job: its networks, its training from end to end, its files, and its errors."""

from __future__ import annotations

import re
import subprocess
import sys

import helpers
import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn, of the extra demo, is not installed")
pytest.importorskip("matplotlib", reason="matplotlib, of the extra demo, is not installed")

from indygru_cpu import IndyGRU
from indygru_cpu.__main__ import main
from indygru_cpu._cli import demo, demo_model
from indygru_cpu.datasets import japanese_vowels

QUICK = ["demo", "--hidden-size", "5", "--networks", "1", "--epochs", "3"]


def accuracy(text):
    percent, right, total = re.search(r"Test accuracy: ([\d.]+)% \((\d+) of (\d+);", text).groups()
    assert percent == f"{100 * int(right) / int(total):.1f}"
    return int(right) / int(total)


def run_demo(cwd, *options):
    environment = helpers.clean_environment(PYTHONPATH=helpers.package_path())
    command = [sys.executable, "-W", "error", "-m", "indygru_cpu", "demo", *options]
    return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, check=True)


def test_the_networks_differ_and_are_the_same_each_time():
    train, test = (demo_model.Part.of(part) for part in japanese_vowels())
    untrained = [demo_model.classifier(2, seed, hidden_size=5, max_iter=1) for seed in (3, 3, 4)]
    models = [model.fit(train.X, train.y) for model in untrained]
    first, again, other = (model.predict_proba(test.X) for model in models)
    np.testing.assert_array_equal(first, again)
    one, two = (member.predict_proba(test.X) for member in models[0].estimators_)
    assert len({p[0, 0] for p in (one, two, first, other)}) == 4
    np.testing.assert_allclose((one + two) / 2, first, rtol=1e-12)


def test_as_a_program(tmp_path):
    """Away from a terminal."""
    done = run_demo(tmp_path, *QUICK[1:])
    assert accuracy(done.stdout) > 0.2
    assert not done.stderr
    assert "\r" not in done.stdout
    assert done.stdout.isascii()


def test_from_end_to_end(tmp_path, capsys):
    plot, saved = tmp_path / "plot.png", tmp_path / "weights"
    assert main(["demo", "--plot", str(plot), "--save", str(saved)]) == 0
    text = capsys.readouterr().out
    assert accuracy(text) >= 0.97
    assert "370 of 370 answers equal the batch's" in text
    assert float(re.search(r"difference of probabilities (\S+)", text)[1]) < 1e-11
    early = [float(share) for share in re.findall(r"after frame [137]: ([\d.]+)% right", text)]
    assert 20 < early[0] < early[2] < 100 * accuracy(text)
    assert float(re.search(r"scaled difference of results: (\S+)", text)[1]) < 1e-10
    rows = [row.split()[2:11] for row in text.splitlines() if row.startswith("  speaker")]
    confusion = np.array([[0 if cell == "." else int(cell) for cell in row] for row in rows])
    assert confusion.sum(axis=1).tolist() == [31, 35, 88, 44, 29, 24, 40, 50, 29]
    assert confusion.trace() / 370 == accuracy(text)
    assert plot.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    check_saved(saved, accuracy(text))


def check_saved(path, expected):
    """The file alone, read as the demo says, gives the same answers."""
    saved = np.load(path, allow_pickle=False)
    test = japanese_vowels().test
    x, p = (test.x - saved["mean"]) / saved["std"], 0
    for network in range(5):
        own = {name.partition("/")[2]: array for name, array in saved.items() if name.startswith(f"{network}/")}
        layer = IndyGRU(12, len(own["bias_l0"]) // 3, dtype=x.dtype)
        layer.load_state_dict({name: own[name] for name in layer.parameters})
        y, h_n = layer(x, lengths=test.lengths)
        largest = np.where(test.valid[:, :, None], y, -np.inf).max(axis=0)
        features = np.hstack([y.sum(axis=0) / test.lengths[:, None], h_n[0], largest])
        exp = np.exp(features @ own["readout_kernel"] + own["readout_bias"])
        p += exp / exp.sum(axis=1, keepdims=True)
    assert (p.argmax(axis=1) == test.speakers).mean() == expected


@pytest.mark.parametrize("option", ["--plot", "--save"])
def test_unwritable_files_are_found_before_the_training(tmp_path, capsys, monkeypatch, option):
    monkeypatch.setattr(demo, "trained", None)  # calling it would be a TypeError
    path = tmp_path / "nowhere" / "file.png"
    assert main([*QUICK, option, str(path)]) == 1
    captured = capsys.readouterr()
    assert not captured.out
    assert captured.err == f"indygru-cpu demo: {option} {path}: cannot write there: No such file or directory\n"
    assert main([*QUICK, option, str(tmp_path)]) == 1
    assert "Is a directory" in capsys.readouterr().err


def test_the_check_of_files_leaves_nothing_behind(tmp_path):
    demo.check_writable("--save", tmp_path / "new.npz")
    assert not list(tmp_path.iterdir())
    old = tmp_path / "old.npz"
    old.write_bytes(b"precious")
    demo.check_writable("--save", old)
    assert old.read_bytes() == b"precious"


def test_a_picture_that_matplotlib_cannot_write(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "trained", None)
    assert main([*QUICK, "--plot", str(tmp_path / "plot.docx")]) == 1
    error = capsys.readouterr().err
    assert "plot.docx" in error
    assert ".png" in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("module", ["sklearn", "tqdm", "matplotlib"])
def test_a_missing_package_is_named(tmp_path, capsys, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)  # then importing it fails
    assert main([*QUICK, "--plot", str(tmp_path / "plot.png")]) == 1
    captured = capsys.readouterr()
    assert not captured.out
    assert captured.err.startswith(f"indygru-cpu demo: needs {module}")
    assert 'pip install "indygru_cpu[demo]"' in captured.err
    assert captured.err.count("\n") == 1


def test_matplotlib_is_needed_for_the_plot_only(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(QUICK) == 0
    assert accuracy(capsys.readouterr().out) > 0.2


def test_settings_reach_the_model(capsys):
    assert main([*QUICK, "--networks", "2", "--seed", "3", "--threads", "2"]) == 0
    text = capsys.readouterr().out
    assert "2 times IndyGRU(12, 5, dropout=0.3, dtype=float64)" in text
    assert ": 3 epochs each, in" in text


def test_interrupted(capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "trained", interrupt)
    assert main(QUICK) == 130
    assert capsys.readouterr().err.endswith("stopped\n")
