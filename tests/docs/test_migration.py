"""The page docs/migration.md: the NumPy side runs as described; the TensorFlow side is valid Python."""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from indygru_cpu import dynamic_rnn, reset_default_scope
from indygru_cpu.tensorflow import load_checkpoint

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "migration.md").read_text(encoding="utf-8")
CHECKPOINT = ROOT / "tests" / "data" / "golden" / "checkpoint"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)

SECTIONS = {title: BLOCK.findall(text) for title, text in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)}
PAIRS = {title: blocks for title, blocks in SECTIONS.items() if blocks}
(ARRAYS,) = BLOCK.findall(PAGE.split("\n## ")[0])


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Run the NumPy side of all sections in order; return the namespace after each section."""
    folder = tmp_path_factory.mktemp("migration")
    for path in CHECKPOINT.glob("model.ckpt*"):
        shutil.copy(path, folder)
    reset_default_scope(seed=3)
    names: dict = {}
    exec(ARRAYS, names)
    namespaces = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for title, (_, numpy_side) in PAIRS.items():
            exec(compile(numpy_side, f"migration.md, {title}", "exec"), names)
            namespaces[title] = dict(names) | {"folder": folder}
    reset_default_scope()
    return namespaces


def test_page_every_section_has_two_sides():
    assert list(PAIRS) == [
        "One step",
        "A sequence",
        "Gradients and training",
        "Sharing variables",
        "Initial values",
        "Checkpoints",
        "Stacks and both directions",
    ]
    assert set(SECTIONS) - set(PAIRS) == {"Differences"}
    assert len(BLOCK.findall(PAGE)) == 2 * len(PAIRS) + 1
    for title, (tensorflow_side, numpy_side) in PAIRS.items():
        ast.parse(tensorflow_side, title)
        assert "tf." in tensorflow_side
        assert "tf." not in numpy_side


def test_one_step_returns_output_and_state(page):
    names = page["One step"]
    assert names["output"].shape == (3, 4)
    assert names["state"] is names["output"]


def test_sequence_has_variable_names_and_zero_padding(page):
    names = page["A sequence"]
    for side in PAIRS["A sequence"]:
        assert f"cell.variables[0].name  # {names['cell'].variables[0].name}\n" in side
    for row, length in enumerate(names["lengths"]):
        assert not names["outputs"][row, length:].any()
        np.testing.assert_array_equal(names["outputs"][row, length - 1], names["final_state"][row])


def test_training_reduces_the_loss(page):
    names = page["Gradients and training"]
    outputs, _ = dynamic_rnn(names["cell"], names["x"], dtype="float32")
    assert np.sum(outputs**2) < 0.9 * names["loss"]


def test_sharing_uses_the_same_variables(page):
    names = page["Sharing variables"]
    first, second = names["first"], names["second"]
    assert second.variables == first.variables
    assert first.scope_name == "decoder/indy_gru_cell"
    (a, _), (b, _) = names["same"]
    np.testing.assert_array_equal(a, b)


def test_initial_values_are_those_of_the_initialisers(page):
    names = page["Initial values"]
    kernel = names["cell"].named_variables["candidate/kernel"]
    np.testing.assert_allclose(kernel.T @ kernel, np.eye(4), atol=1e-6)
    assert (names["cell"].named_variables["candidate/bias"] == 0.5).all()


def test_checkpoint_saved_equals_checkpoint_loaded(page):
    names = page["Checkpoints"]
    assert names["outputs"].shape == (3, 7, 7)
    for a, b in zip(
        load_checkpoint(names["folder"] / "saved.ckpt").get_weights(),
        load_checkpoint(CHECKPOINT / "model.ckpt").get_weights(),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_stacks_and_both_directions_agree_with_single_calls(page):
    names = page["Stacks and both directions"]
    tensorflow_side, numpy_side = PAIRS["Stacks and both directions"]
    for cell in (names["stack"][0], names["fw"]):
        assert f"# {cell.scope_name}/...\n" in tensorflow_side
        assert f"# {cell.scope_name}/...\n" in numpy_side
    assert names["bw"].scope_name == "bidirectional_rnn/bw/indy_gru_cell"
    x, lengths, both = names["x"], names["lengths"], names["both"]
    expected, _ = dynamic_rnn(names["fw"], x, lengths, dtype="float32")
    np.testing.assert_array_equal(both[:, :, :4], expected)
    for row, n in enumerate(lengths):  # each row alone has no padding that could come first
        expected, _ = dynamic_rnn(names["bw"], x[row : row + 1, :n][:, ::-1], dtype="float32")
        np.testing.assert_allclose(both[row, :n, 4:], expected[0, ::-1], atol=1e-6)
        assert not both[row, n:].any()
    assert names["grads"]["inputs"].shape == x.shape
    assert names["outputs"].shape == (3, 7, 4)
