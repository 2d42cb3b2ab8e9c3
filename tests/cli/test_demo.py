"""The demo: its networks, a run from end to end, its files, and its errors."""

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

QUICK_DEMO = ["demo", "--hidden-size", "5", "--networks", "1", "--epochs", "3"]


def printed_accuracy(text):
    percent, n_correct, total = re.search(r"Test accuracy: ([\d.]+)% \((\d+) of (\d+);", text).groups()
    assert percent == f"{100 * int(n_correct) / int(total):.1f}"
    return int(n_correct) / int(total)


def run_demo(cwd, *options):
    environment = helpers.clean_environment(PYTHONPATH=helpers.package_path())
    command = [sys.executable, "-W", "error", "-m", "indygru_cpu", "demo", *options]
    return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, check=True)


def test_networks_differ_by_seed_and_are_reproducible():
    train, test = (demo_model.SpeakerData.from_utterances(part) for part in japanese_vowels())
    untrained = [demo_model.new_classifier(2, seed, hidden_size=5, max_iter=1) for seed in (3, 3, 4)]
    models = [model.fit(train.X, train.y) for model in untrained]
    first, repeated, different = (model.predict_proba(test.X) for model in models)
    np.testing.assert_array_equal(first, repeated)
    one, two = (member.predict_proba(test.X) for member in models[0].estimators_)
    assert len({p[0, 0] for p in (one, two, first, different)}) == 4
    np.testing.assert_allclose((one + two) / 2, first, rtol=1e-12)


def test_interpolated_frames_are_evenly_spaced():
    x = np.array([[0.0, 5.0], [1.0, 7.0], [2.0, 3.0]])
    np.testing.assert_allclose(
        demo_model.interpolated_frames([x, x[:1]], 5), [[0, 0.5, 1, 1.5, 2, 5, 6, 7, 5, 3], [0] * 5 + [5] * 5]
    )
    np.testing.assert_allclose(demo_model.mean_frames([x, x[:1]]), [[1, 5], [0, 5]])


def test_demo_without_a_terminal_prints_ascii_and_no_progress_bar(tmp_path):
    done = run_demo(tmp_path, *QUICK_DEMO[1:])
    assert printed_accuracy(done.stdout) > 0.2
    assert not done.stderr
    assert "\r" not in done.stdout
    assert done.stdout.isascii()


def test_demo_reaches_its_accuracy_and_writes_its_files(tmp_path, capsys):
    plot, saved = tmp_path / "plot.png", tmp_path / "weights"
    assert main(["demo", "--plot", str(plot), "--save", str(saved)]) == 0
    text = capsys.readouterr().out
    assert printed_accuracy(text) >= 0.97
    baselines = dict(re.findall(r"^  (\S.* frames?) +([\d.]+)% \(\d+ of 370\)$", text, re.M))
    assert list(baselines) == list(demo_model.new_baselines())
    assert float(baselines["logistic regression of 12 interpolated frames"]) == pytest.approx(99.2, abs=0.3)
    assert "370 of 370 predictions equal those of the batch" in text
    assert float(re.search(r"difference of probabilities (\S+)", text)[1]) < 1e-11
    early = [float(share) for share in re.findall(r"after frame [137]: ([\d.]+)% correct", text)]
    assert 20 < early[0] < early[2] < 100 * printed_accuracy(text)
    assert float(re.search(r"scaled difference of results: (\S+)", text)[1]) < 1e-10
    rows = [row.split()[2:11] for row in text.splitlines() if row.startswith("  speaker")]
    confusion = np.array([[0 if cell == "." else int(cell) for cell in row] for row in rows])
    assert confusion.sum(axis=1).tolist() == [31, 35, 88, 44, 29, 24, 40, 50, 29]
    assert confusion.trace() / 370 == printed_accuracy(text)
    assert plot.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    check_saved(saved, printed_accuracy(text))


def check_saved(path, expected):
    """Assert that the saved weights, loaded as the demo explains, give the same accuracy."""
    saved = np.load(path, allow_pickle=False)
    test = japanese_vowels().test
    x, p = (test.x - saved["mean"]) / saved["std"], 0
    for network in range(5):
        arrays = {name.partition("/")[2]: array for name, array in saved.items() if name.startswith(f"{network}/")}
        layer = IndyGRU(12, len(arrays["bias_l0"]) // 3, dtype=x.dtype)
        layer.load_state_dict({name: arrays[name] for name in layer.parameters})
        y, h_n = layer(x, lengths=test.lengths)
        maxima = np.where(test.valid[:, :, None], y, -np.inf).max(axis=0)
        features = np.hstack([y.sum(axis=0) / test.lengths[:, None], h_n[0], maxima])
        exp = np.exp(features @ arrays["readout_kernel"] + arrays["readout_bias"])
        p += exp / exp.sum(axis=1, keepdims=True)
    assert (p.argmax(axis=1) == test.speakers).mean() == expected


@pytest.mark.parametrize("option", ["--plot", "--save"])
def test_unwritable_file_ends_the_demo_before_the_training(tmp_path, capsys, monkeypatch, option):
    monkeypatch.setattr(demo, "train_classifier", None)  # a call would raise TypeError
    path = tmp_path / "nowhere" / "file.png"
    assert main([*QUICK_DEMO, option, str(path)]) == 1
    captured = capsys.readouterr()
    assert not captured.out
    assert captured.err == f"indygru-cpu demo: {option} {path}: cannot write there: No such file or directory\n"
    assert main([*QUICK_DEMO, option, str(tmp_path)]) == 1
    assert "Is a directory" in capsys.readouterr().err


def test_check_writable_creates_and_changes_no_file(tmp_path):
    demo.check_writable("--save", tmp_path / "new.npz")
    assert not list(tmp_path.iterdir())
    old = tmp_path / "old.npz"
    old.write_bytes(b"precious")
    demo.check_writable("--save", old)
    assert old.read_bytes() == b"precious"


def test_plot_suffix_that_matplotlib_does_not_support_ends_the_demo(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "train_classifier", None)
    assert main([*QUICK_DEMO, "--plot", str(tmp_path / "plot.docx")]) == 1
    error = capsys.readouterr().err
    assert "plot.docx" in error
    assert ".png" in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("module", ["sklearn", "tqdm", "matplotlib"])
def test_missing_package_ends_the_demo_with_its_name(tmp_path, capsys, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)  # importing it raises ImportError
    assert main([*QUICK_DEMO, "--plot", str(tmp_path / "plot.png")]) == 1
    captured = capsys.readouterr()
    assert not captured.out
    assert captured.err.startswith(f"indygru-cpu demo: needs {module}")
    assert 'pip install "indygru_cpu[demo]"' in captured.err
    assert captured.err.count("\n") == 1


def test_demo_without_a_plot_needs_no_matplotlib(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(QUICK_DEMO) == 0
    assert printed_accuracy(capsys.readouterr().out) > 0.2


def test_options_of_the_command_line_reach_the_model(capsys):
    assert main([*QUICK_DEMO, "--networks", "2", "--seed", "3", "--threads", "2"]) == 0
    text = capsys.readouterr().out
    assert "2 times IndyGRU(12, 5, dropout=0.3, dtype=float64)" in text
    assert ": 3 epochs each, in" in text


def test_interrupted_demo_exits_with_status_130(capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "train_classifier", interrupt)
    assert main(QUICK_DEMO) == 130
    assert capsys.readouterr().err.endswith("stopped\n")
