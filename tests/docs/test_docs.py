"""Examples of the docstrings, the README and the pages run, and what they name exists."""

from __future__ import annotations

import doctest
import fnmatch
import importlib
import inspect
import re

import helpers
import numpy as np
import pytest

import indygru_cpu
from indygru_cpu import IndyGRU, functional

README = helpers.ROOT / "README.md"
#: Modules with examples. The examples of the modules below in `EXAMPLES_TESTED_ELSEWHERE` run in other tests.
MODULES = [
    "_engine.memory", "_engine.messages", "_engine.quantization", "_engine.threads", "_layers.parameters", "c_api",
    "functional", "layer", "stream", "torch", "torch._onnx",
]  # fmt: skip
#: Modules, or the packages of modules, and the tests that run their examples.
EXAMPLES_TESTED_ELSEWHERE = {
    "_tf1": "tf1/test_cell_docstrings",
    "dask": "bridges/test_dask",
    "datasets": "cli/test_datasets",
    "initializers": "tf1/test_cell_docstrings",
    "interop": "interop/test_interop_docs",
    "jax": "support/jax_checks",
    "sklearn": "sklearn/test_sklearn_docs",
    "tensorflow": "tensorflow/test_checkpoint_writing",
}
DOCS = helpers.ROOT / "docs"
#: Pages with a test of their own. The blocks of every other page are one Python program, which
#: `test_page_blocks_run` runs.
TESTED_ELSEWHERE = {
    "c_api": "engine/test_c_api",
    "c_file": "files/test_c_file",
    "interop": "interop/test_interop_docs",
    "jax": "bridges/test_jax",
    "migration": "docs/test_migration",
    "ray": "bridges/test_ray",
    "sklearn": "sklearn/test_sklearn_docs",
    "spark": "bridges/test_spark",
}
#: Packages whose absence skips the program of a page.
OPTIONAL = {"dask", "torch"}
#: Files that a page asks the reader to create, or that another project has.
FILES_OF_EXAMPLES = {
    "effect.c",
    "stddef.h",
    "stdint.h",
    "in_c.c",
    "in_cython.pyx",
    "in_numba.py",
    "train.py",
    "peers/NAME.py",
}
WITH_EXAMPLES = [functional.forward, functional.backward, functional.step, IndyGRU, IndyGRU.__call__, IndyGRU.forward,
                 IndyGRU.load, IndyGRU.load_state_dict, IndyGRU.ragged, IndyGRU.save, IndyGRU.stream,
                 IndyGRU.to_c]  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name):
    if name.startswith("torch"):
        pytest.importorskip("torch", reason="torch is not installed, and the examples use it")
    if name == "torch._onnx":
        pytest.importorskip("onnxscript", reason="onnxscript is not installed, and the examples use it")
    results = doctest.testmod(importlib.import_module(f"indygru_cpu.{name}"))
    assert results.attempted > 0
    assert results.failed == 0


def test_every_module_with_examples_is_run_by_a_test():
    package = helpers.ROOT / "indygru_cpu"
    paths = [path for path in package.rglob("*.py") if ">>> " in path.read_text(encoding="utf-8")]
    names = {".".join(path.relative_to(package).with_suffix("").parts).removesuffix(".__init__") for path in paths}
    assert {name for name in names if name.split(".")[0] not in EXAMPLES_TESTED_ELSEWHERE} == set(MODULES)
    for test in EXAMPLES_TESTED_ELSEWHERE.values():
        assert "import doctest\n" in (helpers.ROOT / "tests" / f"{test}.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("thing", WITH_EXAMPLES, ids=lambda thing: thing.__qualname__)
def test_docstring_has_parameters_and_an_example(thing):
    text = inspect.getdoc(thing)
    assert doctest.DocTestParser().get_examples(text)
    for section in ["Parameters", "Examples"]:
        assert re.search(rf"^{section}\n-+$", text, re.M)


@pytest.mark.parametrize("name", indygru_cpu.__all__)
def test_public_name_exists_and_has_a_docstring(name):
    value = getattr(indygru_cpu, name)
    assert inspect.ismodule(value) or not callable(value) or inspect.getdoc(value)


@pytest.mark.parametrize("thing", [functional.forward, functional.backward, functional.step, IndyGRU])
def test_docstring_lists_every_parameter(thing):
    text = inspect.getdoc(thing)
    section = re.search(r"^Parameters\n-+\n(.*?)(\n\n\w+\n-+\n|\Z)", text, re.M | re.S).group(1)
    names = {name.strip() for line in re.findall(r"^\S.*", section, re.M) for name in line.split(" : ")[0].split(",")}
    assert names == set(inspect.signature(thing).parameters)


def blocks_of(page):
    """(language, code) of each fenced block."""
    return re.findall(r"^ *(?:```|~~~)(\S*).*?\n(.*?)^ *(?:```|~~~) *$", page.read_text(encoding="utf-8"), re.M | re.S)


def programs():
    """Pages with blocks, except for the README and pages with a test of their own."""
    pages = [*helpers.ROOT.glob("*.md"), *DOCS.rglob("*.md"), *helpers.ROOT.glob("*/README.md")]
    tested_elsewhere = {README, *(DOCS / f"{name}.md" for name in TESTED_ELSEWHERE)}
    return [page for page in sorted(set(pages) - tested_elsewhere) if blocks_of(page)]


def test_readme_blocks_run(tmp_path, monkeypatch, capsys):
    """All Python blocks in order, in one namespace, in an empty folder; those with prompts as doctests."""
    monkeypatch.chdir(tmp_path)
    languages, blocks = zip(*blocks_of(README), strict=True)
    assert set(languages) == {"python"}
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


@pytest.mark.parametrize("page", programs(), ids=lambda page: page.stem)
def test_page_blocks_run(tmp_path, monkeypatch, page):
    """New pages are included automatically; a page with blocks in another language needs a test of its own."""
    languages, blocks = zip(*blocks_of(page), strict=True)
    assert set(languages) == {"python"}, "expected blocks in Python: others need a test of their own"
    program = compile("\n".join(blocks), page.name, "exec")
    for name in OPTIONAL & set(re.findall(r"^\s*(?:import|from) (\w+)", "\n".join(blocks), re.M)):
        pytest.importorskip(name, reason=f"{name} is not installed, and the page's program uses it")
    monkeypatch.chdir(tmp_path)
    exec(program, {"__name__": page.stem})


@pytest.mark.parametrize("page", TESTED_ELSEWHERE)
def test_page_tested_elsewhere_has_a_test(page):
    assert blocks_of(DOCS / f"{page}.md")
    test = helpers.ROOT / "tests" / f"{TESTED_ELSEWHERE[page]}.py"
    assert f'"docs" / "{page}.md"' in test.read_text(encoding="utf-8")


def test_readme_contains_the_two_commands():
    text = README.read_text()
    assert 'pip install ".[demo]" && indygru-cpu demo' in text
    assert 'pip install ".[test]" && pytest' in text


def test_readme_has_at_most_140_lines():
    assert README.read_text(encoding="utf-8").count("\n") <= 140


def test_no_test_folder_is_excluded_from_collection(pytestconfig):
    """pytest's default for `norecursedirs` contains `build`, the name of a folder of tests."""
    tests = helpers.ROOT / "tests"
    folders = [path for path in tests.rglob("*") if path.is_dir() and path.name != "__pycache__"]
    patterns = pytestconfig.getini("norecursedirs")
    excluded = {path for path in folders if any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns)}
    assert {path.parent for path in tests.rglob("test_*.py")} <= set(folders) - excluded
    assert excluded == {tests / "data", tests / "scripts"}


def test_docs_name_existing_files():
    """File names in backticks exist: with a path below the root or the package, or by name alone."""
    pages = [*helpers.ROOT.glob("*.md"), *DOCS.rglob("*.md"), *helpers.ROOT.glob("*/README.md")]
    folders = [helpers.ROOT / name for name in ("indygru_cpu", "tests", "benchmarks", "tools", "examples")]
    files = [path.as_posix() for folder in folders for path in folder.rglob("*.*")] + ["/setup.py"]
    for page in set(pages) - {helpers.ROOT / "CHANGELOG.md"}:
        for name in re.findall(r"`([\w/][\w./]*\.(?:py|pyx|pxd|c|h|sh))`", page.read_text(encoding="utf-8")):
            assert name in FILES_OF_EXAMPLES or any(path.endswith(f"/{name}") for path in files), f"{page.name}: {name}"


def test_layer_forward_example_reduces_the_loss():
    """The docstring of IndyGRU.forward shows one step of gradient descent."""
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
