"""Sessions: tests on other versions, coverage, mutation testing, the site, a wheel. `nox -l` lists them.

pip install nox
nox -s tests-3.12 -- tests/engine/test_golden.py     # without a path: all tests
nox -s wheel
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import nox

sys.path.insert(0, str(Path(__file__).parent / "tools"))
import core_tests

nox.needs_version = ">=2024.10"
nox.options.sessions = ["tests"]
nox.options.error_on_missing_interpreters = False

PYTHONS = ["3.11", "3.12", "3.13", "3.14", "3.15"]


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The tests on one version of Python, with the newest NumPy for it."""
    session.install(".[test]")
    session.run("pytest", *session.posargs)


@nox.session(python=PYTHONS)
def core(session: nox.Session) -> None:
    """The core on one version of Python."""
    session.install(".", *core_tests.NEEDS)
    session.run("pytest", *(session.posargs or core_tests.PATHS))


@nox.session(python=["3.11", "3.12"])
@nox.parametrize("numpy", ["1.26", "2.0", "2.2"])
def numpy(session: nox.Session, numpy: str) -> None:
    """The core with an older NumPy. One build works with every NumPy: the extension does not use its C-API."""
    session.install(".", *core_tests.NEEDS, f"numpy=={numpy}.*")
    session.run("pytest", *(session.posargs or core_tests.PATHS))


@nox.session
def coverage(session: nox.Session) -> None:
    """Coverage of the lines of Python: at least 98 %."""
    session.install("-e", ".[test]", "coverage>=7.10")
    session.run("coverage", "run", "-m", "pytest", *session.posargs)
    session.run("coverage", "combine")
    session.run("coverage", "report")


@nox.session
def mutation(session: nox.Session) -> None:
    """Mutation testing by the configurations in tools/mutation, or by those that are named; prints the survivors.

    cosmic-ray changes the source in place, so that it runs in a clone of the last commit.
    """
    root = Path(__file__).parent
    configurations = session.posargs or sorted(f"tools/mutation/{path.name}" for path in root.glob("tools/mutation/*"))
    tree = Path(session.create_tmp()).resolve() / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    session.run("git", "clone", "--quiet", str(root), str(tree), external=True)
    session.chdir(tree)
    session.install("-e", ".[test]", "cosmic-ray>=8.7")
    for configuration in configurations:
        database = f"{Path(configuration).stem}.sqlite"
        session.run("cosmic-ray", "baseline", configuration)  # the tests pass without a mutation
        session.run("cosmic-ray", "init", configuration, database)
        session.run("cr-filter-operators", database, configuration)
        session.run("cosmic-ray", "exec", configuration, database)
        session.run("cr-report", "--surviving-only", "--show-diff", database)


@nox.session
def docs(session: nox.Session) -> None:
    """The site, into site/: the reference, the guide, and the gallery and the notebook, which run."""
    session.install("-e", ".[docs]")
    session.run("python", "-m", "sphinx", "-W", "--keep-going", "-n", *session.posargs, "docs", "site")


@nox.session
def wheel(session: nox.Session) -> None:
    """A wheel for Linux: built, audited, repaired, and tested where nothing else is installed."""
    session.run("tools/wheel.sh", f"{session.bin}/python", external=True)
