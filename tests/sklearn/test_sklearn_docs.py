"""The page docs/sklearn.md, the docstrings and the examples run, and docstrings list every parameter."""

from __future__ import annotations

import doctest
import inspect
import re
import runpy

import helpers
import pytest

pytest.importorskip("sklearn", reason="scikit-learn, of the extra sklearn, is not installed")

from indygru_cpu import sklearn
from indygru_cpu.sklearn._base import SequenceEstimator

PAGE = (helpers.ROOT / "docs" / "sklearn.md").read_text(encoding="utf-8")
EXAMPLES = sorted((helpers.ROOT / "examples").glob("sklearn_*.py"))


def test_examples_of_the_page_run(run_python):
    """In their order and one namespace."""
    pytest.importorskip("skops", reason="skops, of the extra test, is not installed")
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    assert len(blocks) == 5
    printed = run_python("".join(blocks), timeout=300)
    one, three = re.search(r"^(\d+)% of 370 new.*^three together: (\d+)%", printed, re.M | re.S).groups()
    assert int(one) > 90
    assert int(three) > 90
    assert float(re.search(r"^logistic regression: ([\d.]+)%", printed, re.M)[1]) == pytest.approx(99.2, abs=0.3)
    assert re.search(r"^sure of speaker 1 after \d+ frames", printed, re.M)


@pytest.mark.parametrize("name", sklearn.__all__)
def test_docstring_examples_run(name):
    tests = doctest.DocTestFinder().find(getattr(sklearn, name), name, globs={})
    results = [doctest.DocTestRunner().run(test) for test in tests]
    assert sum(result.attempted for result in results) > 4
    assert not any(result.failed for result in results)


def test_docstring_lists_every_parameter():
    text = inspect.getdoc(sklearn.IndyGRUClassifier)
    section = re.search(r"^Parameters\n-+\n(.*?)\n\n\w+\n-+\n", text, re.M | re.S).group(1)
    names = {name.strip() for line in re.findall(r"^\S.*", section, re.M) for name in line.split(" : ")[0].split(",")}
    assert names == set(inspect.signature(sklearn.IndyGRUClassifier).parameters)


def test_defaults_of_the_classifier_are_those_of_both_estimators():
    both, classifier = (inspect.signature(each).parameters for each in (SequenceEstimator, sklearn.IndyGRUClassifier))
    assert {**both, "class_weight": classifier["class_weight"]} == {**classifier}


def test_examples_exist():
    assert EXAMPLES


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_short_and_reaches_its_accuracy(path, capsys):
    assert len(path.read_text().splitlines()) <= 60
    runpy.run_path(str(path), run_name="__main__")
    printed = capsys.readouterr().out
    assert float(re.search(r"([\d.]+)% after epoch 20", printed)[1]) > 90
    assert float(re.search(r"99% sure: ([\d.]+)% right", printed)[1]) > 90
