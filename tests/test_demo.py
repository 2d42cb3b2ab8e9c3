"""The main job: its gradient, its training from end to end, its files, and its errors."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import indygru_cpu
from indygru_cpu import IndyGRU, _demo, _demo_model
from indygru_cpu.__main__ import main
from indygru_cpu.datasets import japanese_vowels

QUICK = ["demo", "--hidden-size", "5", "--iterations", "3"]


@pytest.fixture(scope="module")
def data():
    return _demo_model.standardised(japanese_vowels(), np.float64)[0]


def accuracy(text):
    percent, right, total = re.search(r"Test accuracy: ([\d.]+)% \((\d+) of (\d+);", text).groups()
    assert percent == f"{100 * int(right) / int(total):.1f}"
    return int(right) / int(total)


def run_demo(cwd, *options):
    environment = {**os.environ, "PYTHONPATH": str(Path(indygru_cpu.__file__).parents[1])}
    command = [sys.executable, "-W", "error", "-m", "indygru_cpu", "demo", *options]
    return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, check=True)


def test_standardised_by_the_training_frames():
    raw = japanese_vowels()
    found, scale = _demo_model.standardised(raw, np.float64)
    frames = found.train.x[found.train.valid]
    np.testing.assert_allclose(frames.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(frames.std(axis=0), 1, rtol=1e-12)
    for part, before in zip(found, raw, strict=True):
        assert part.x.dtype == np.float64
        assert not part.x[~part.valid].any()
        back = part.x * scale["std"] + scale["mean"]
        np.testing.assert_allclose(back[part.valid], before.x[part.valid], rtol=1e-6, atol=1e-6)


def test_gradient_against_finite_differences(data):
    part = data.train.select(np.array([3, 40, 77, 101, 134, 169, 250]))
    model = _demo_model.SpeakerModel((12, 8, 9), dtype=np.float64, seed=5)
    rng = np.random.default_rng(6)
    vector = model.vector + rng.uniform(-0.3, 0.3, model.vector.size)
    penalty, step = 0.37, 1e-5
    model.vector = vector
    _, gradient = model.loss_and_gradient(part, penalty)
    for _ in range(9):
        direction = rng.standard_normal(vector.size)
        losses = []
        for sign in (1, -1):
            model.vector = vector + sign * step * direction
            losses.append(model.loss_and_gradient(part, penalty)[0])
        slope = (losses[0] - losses[1]) / (2 * step)
        np.testing.assert_allclose(gradient @ direction, slope, rtol=1e-7, atol=1e-8)


def test_loss_is_the_formula(data):
    part = data.test.select(np.array([9, 88, 260]))
    model = _demo_model.SpeakerModel((12, 7, 9), dtype=np.float64, seed=2)
    expected = 0.0
    for i, (length, speaker) in enumerate(zip(part.lengths, part.speakers, strict=True)):
        y, _ = model.layer(np.ascontiguousarray(part.x[:length, i]))
        logits = y.mean(axis=0) @ model.readout_kernel + model.readout_bias
        expected -= np.log(np.exp(logits[speaker]) / np.exp(logits).sum()) / 3
    weights = [array for name, array in model.parameters.items() if "bias" not in name]
    assert len(weights) == 3
    expected += 0.01 / 2 * sum((array**2).sum() for array in weights)
    assert model.loss_and_gradient(part, 0.01)[0] == pytest.approx(expected, rel=1e-12)


def test_vector_is_all_parameters():
    model = _demo_model.SpeakerModel((12, 7, 9), dtype=np.float64, seed=2)
    values = np.random.default_rng(3).standard_normal(model.vector.size)
    model.vector = values
    np.testing.assert_array_equal(model.vector, values)
    np.testing.assert_array_equal(model.layer.parameters["kernel_l0"].ravel(), values[: 12 * 21])
    np.testing.assert_array_equal(model.readout_bias, values[-9:])


def test_stream_is_the_batch(data):
    model = _demo_model.SpeakerModel((12, 17, 9), dtype=np.float64, seed=4)
    part = data.test.select(np.array([1, 33, 200]))
    streamed = [list(_demo.stream(model, part.x[:length, i])) for i, length in enumerate(part.lengths)]
    assert [len(logits) for logits in streamed] == part.lengths.tolist()
    np.testing.assert_allclose(np.stack([s[-1] for s in streamed]), model.logits(part), rtol=0, atol=1e-12)
    first_seven = part._replace(lengths=np.full(3, 7))
    np.testing.assert_allclose(np.stack([s[6] for s in streamed]), model.logits(first_seven), rtol=0, atol=1e-12)


def test_from_end_to_end_twice(tmp_path, capsys):
    """Once as a program, away from a terminal; once by `main`, with both files."""
    done = run_demo(tmp_path)
    assert not done.stderr
    assert "\r" not in done.stdout
    assert done.stdout.isascii()
    plot, saved = tmp_path / "plot.png", tmp_path / "weights"
    assert main(["demo", "--plot", str(plot), "--save", str(saved)]) == 0
    text = capsys.readouterr().out
    assert accuracy(text) == accuracy(done.stdout) >= 0.941
    assert "370 of 370 answers equal the batch's" in text
    assert float(re.search(r"difference of logits (\S+)", text)[1]) < 1e-11
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
    kernel = saved["kernel_l0"]
    layer = IndyGRU(kernel.shape[0], kernel.shape[1] // 3, dtype=kernel.dtype)
    layer.load_state_dict({name: saved[name] for name in layer.parameters})
    test = japanese_vowels().test
    y, _ = layer((test.x - saved["mean"]) / saved["std"], lengths=test.lengths)
    logits = y.sum(axis=0) / test.lengths[:, None] @ saved["readout_kernel"] + saved["readout_bias"]
    assert (logits.argmax(axis=1) == test.speakers).mean() == expected


@pytest.mark.parametrize("option", ["--plot", "--save"])
def test_unwritable_files_are_found_before_the_training(tmp_path, capsys, monkeypatch, option):
    monkeypatch.setattr(_demo, "trained", None)  # calling it would be a TypeError
    path = tmp_path / "nowhere" / "file.png"
    assert main([*QUICK, option, str(path)]) == 1
    captured = capsys.readouterr()
    assert not captured.out
    assert captured.err == f"indygru-cpu demo: {option} {path}: cannot write there: No such file or directory\n"
    assert main([*QUICK, option, str(tmp_path)]) == 1
    assert "Is a directory" in capsys.readouterr().err


def test_the_check_of_files_leaves_nothing_behind(tmp_path):
    _demo.check_writable("--save", tmp_path / "new.npz")
    assert not list(tmp_path.iterdir())
    old = tmp_path / "old.npz"
    old.write_bytes(b"precious")
    _demo.check_writable("--save", old)
    assert old.read_bytes() == b"precious"


def test_a_picture_that_matplotlib_cannot_write(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(_demo, "trained", None)
    assert main([*QUICK, "--plot", str(tmp_path / "plot.docx")]) == 1
    error = capsys.readouterr().err
    assert "plot.docx" in error
    assert ".png" in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("module", ["scipy.optimize", "tqdm", "matplotlib"])
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
    assert main([*QUICK, "--seed", "3", "--threads", "2"]) == 0
    text = capsys.readouterr().out
    assert "IndyGRU(12, 5, dtype=float64)" in text
    assert ": 3 iterations in" in text


def test_interrupted(capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(_demo, "trained", interrupt)
    assert main(QUICK) == 130
    assert capsys.readouterr().err.endswith("stopped\n")
