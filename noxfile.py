"""Runs of the tests on other versions and with coverage, and a wheel: `nox -l` lists them.

pip install nox
nox -s tests-3.12 -- tests/engine/test_golden.py     # all of the tests without the path
nox -s wheel
"""

from __future__ import annotations

import sys
from pathlib import Path

import nox

sys.path.insert(0, str(Path(__file__).parent / "tools"))
import core_tests

nox.options.sessions = ["tests"]
nox.options.error_on_missing_interpreters = False

PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14"]


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The tests on one version of Python, with the newest NumPy there is for it."""
    session.install(".[test]")
    session.run("pytest", *session.posargs)


@nox.session(python=PYTHONS)
def core(session: nox.Session) -> None:
    """The core on one version of Python."""
    session.install(".", *core_tests.NEEDS)
    session.run("pytest", *(session.posargs or core_tests.PATHS))


@nox.session(python=["3.10", "3.11", "3.12"])
@nox.parametrize("numpy", ["1.26", "2.0", "2.2"])
def numpy(session: nox.Session, numpy: str) -> None:
    """The core with an older NumPy. It was built without one: the extension has nothing of NumPy's C-API."""
    session.install(".", *core_tests.NEEDS, f"numpy=={numpy}.*")
    session.run("pytest", *(session.posargs or core_tests.PATHS))


@nox.session
def coverage(session: nox.Session) -> None:
    """Lines of Python that the tests run: at least 98 %."""
    session.install("-e", ".[test]", "coverage>=7.10")
    session.run("coverage", "run", "-m", "pytest", *session.posargs)
    session.run("coverage", "combine")
    session.run("coverage", "report")


@nox.session
def mutation(session: nox.Session) -> None:
    """Changes of the modules that check arguments, each of which a test must notice."""
    session.install("-e", ".[test]")
    session.run("python", "tools/mutate.py", *(session.posargs or ["functional", "_engine.checks"]))


@nox.session
def wheel(session: nox.Session) -> None:
    """A wheel of Linux: built, audited, repaired, and tested where nothing else is."""
    session.run("tools/wheel.sh", f"{session.bin}/python", external=True)
