"""Every example of the docstrings and of the README runs."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re

import helpers
import numpy as np
import pytest

import indygru_cpu
from indygru_cpu import IndyGRU, functional

README = helpers.ROOT / "README.md"
MODULES = ["_weighted", "functional", "layer", "stream", "torch"]
#: Pages whose Python blocks are one program; their names are those of the packages that the program needs.
PAGES = ["torch"]
WITH_EXAMPLES = [functional.forward, functional.backward, functional.step, IndyGRU, IndyGRU.__call__, IndyGRU.forward,
                 IndyGRU.load, IndyGRU.load_state_dict, IndyGRU.ragged, IndyGRU.save, IndyGRU.stream]  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    if name in PAGES:
        pytest.importorskip(name, reason=f"{name} is not installed, and the examples use it")
    results = doctest.testmod(importlib.import_module(f"indygru_cpu.{name}"))
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize("thing", WITH_EXAMPLES, ids=lambda thing: thing.__qualname__)
def test_what_is_public_has_an_example(thing):
    text = inspect.getdoc(thing)
    assert doctest.DocTestParser().get_examples(text)
    for section in ["Parameters", "Examples"]:
        assert re.search(rf"^{section}\n-+$", text, re.M)


@pytest.mark.parametrize("name", indygru_cpu.__all__)
def test_public_names_exist_and_say_what_they_are(name):
    value = getattr(indygru_cpu, name)
    assert inspect.ismodule(value) or not callable(value) or inspect.getdoc(value)


@pytest.mark.parametrize("thing", [functional.forward, functional.backward, functional.step, IndyGRU])
def test_every_parameter_is_documented(thing):
    text = inspect.getdoc(thing)
    section = re.search(r"^Parameters\n-+\n(.*?)(\n\n\w+\n-+\n|\Z)", text, re.M | re.S).group(1)
    names = {name.strip() for line in re.findall(r"^\S.*", section, re.M) for name in line.split(" : ")[0].split(",")}
    assert names == set(inspect.signature(thing).parameters)


def python_blocks(page=README):
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)


def test_readme(tmp_path, monkeypatch, capsys):
    """All Python blocks in order, in one namespace, in an empty folder; those with prompts as doctests."""
    monkeypatch.chdir(tmp_path)
    blocks = python_blocks()
    assert blocks
    namespace = {"__name__": "readme"}
    for number, block in enumerate(blocks, 1):
        if ">>>" in block:
            test = doctest.DocTestParser().get_doctest(block, namespace, f"README.md, block {number}", None, None)
            runner = doctest.DocTestRunner()
            results = runner.run(test, clear_globs=False)
            assert results.failed == 0, capsys.readouterr().out
            namespace |= test.globs
        else:
            exec(compile(block, f"README.md, block {number}", "exec"), namespace)


@pytest.mark.parametrize("name", PAGES)
def test_page(tmp_path, monkeypatch, name):
    pytest.importorskip(name, reason=f"{name} is not installed, and the page's program uses it")
    monkeypatch.chdir(tmp_path)
    blocks = python_blocks(helpers.ROOT / "docs" / f"{name}.md")
    assert blocks
    exec(compile("\n".join(blocks), f"docs/{name}.md", "exec"), {"__name__": name})


def test_readme_names_the_two_commands():
    text = README.read_text()
    assert 'pip install ".[demo]" && indygru-cpu demo' in text
    assert 'pip install ".[test]" && pytest' in text


def test_the_example_of_descent_descends():
    """The docstring of IndyGRU.forward takes a step down: the loss there gets smaller."""
    layer = IndyGRU(3, 5, seed=0)
    x = np.random.default_rng(0).standard_normal((9, 4, 3), dtype=np.float32)
    losses = []
    for _ in range(5):
        y, _, tape = layer.forward(x)
        losses.append((y**2).sum())
        for name, gradient in layer.backward(tape, dy=2 * y).parameters.items():
            layer.parameters[name][...] -= 0.01 * gradient
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.8 * losses[0]
