"""The version, the changelog and the metadata agree, and the workflows use only files that exist."""

from __future__ import annotations

import re
import shlex
import sys
import tomllib

import helpers
import pytest

import indygru_cpu

sys.path.insert(0, str(helpers.ROOT / "tools"))
import core_tests

yaml = pytest.importorskip("yaml")

PROJECT = tomllib.loads((helpers.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
WORKFLOWS = sorted((helpers.ROOT / ".github" / "workflows").glob("*.yml"))
VERSION = indygru_cpu.__version__

pytestmark = pytest.mark.skipif(not WORKFLOWS, reason="needs a clone: the source distribution has no workflows")


def read_yaml(name):
    return yaml.safe_load((helpers.ROOT / name).read_text(encoding="utf-8"))


def steps_of(workflow):
    return [step for job in read_yaml(workflow)["jobs"].values() for step in job["steps"]]


def python_versions():
    """Return the versions of the classifiers, as ("3", "11"), in their order."""
    classifiers = PROJECT["project"]["classifiers"]
    return [name.split(" :: ")[-1] for name in classifiers if re.search(r":: 3\.\d+$", name)]


def test_changelog_newest_version_is_the_package_version():
    headings = re.findall(r"^## \[(.+?)\](?: - (\S+))?$", (helpers.ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    released = [(version, date) for version, date in headings if version != "Unreleased"]
    assert released[0][0] == VERSION
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", date) for _, date in released)


def test_citation_has_the_version_licence_and_authors_of_the_project():
    citation, project = read_yaml("CITATION.cff"), PROJECT["project"]
    assert citation["title"] == project["name"]
    assert citation["version"] == VERSION
    assert citation["license"] == project["license"]
    assert citation["authors"] == project["authors"]


def test_python_versions_are_consecutive_from_the_oldest_that_is_required():
    oldest = PROJECT["project"]["requires-python"].removeprefix(">=")
    versions = python_versions()
    assert versions == [f"3.{minor}" for minor in range(int(oldest[2:]), int(oldest[2:]) + len(versions))]
    assert PROJECT["tool"]["mypy"]["python_version"] == oldest
    build = PROJECT["tool"]["cibuildwheel"]["build"].split()
    assert [f"cp{version.replace('.', '')}-*" for version in versions] == build[: len(versions)]


def test_python_versions_are_all_tested_by_workflows():
    matrices = [
        job["strategy"]["matrix"]
        for job in read_yaml(".github/workflows/tests.yml")["jobs"].values()
        if "strategy" in job
    ]
    tested = {version for matrix in matrices for version in matrix["python"]}
    assert tested == set(python_versions())


def test_dependency_groups_refer_to_extras():
    for name, requirements in PROJECT["dependency-groups"].items():
        assert requirements == [f"{PROJECT['project']['name']}[{name}]"]
        assert name in PROJECT["project"]["optional-dependencies"]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_pins_actions_by_commit(workflow):
    uses = [step["uses"] for step in steps_of(workflow) if "uses" in step]
    assert uses
    assert [use for use in uses if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", use)] == []


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_has_no_permission_but_to_read(workflow):
    document = read_yaml(workflow)
    assert document["permissions"] == {"contents": "read"}
    publish = {name: job["permissions"] for name, job in document["jobs"].items() if "permissions" in job}
    assert publish in ({}, {"publish": {"id-token": "write"}})


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_runs_only_files_that_exist(workflow):
    commands = [step["run"] for step in steps_of(workflow) if "run" in step]
    words = [word for command in commands for word in re.findall(r"[\w./-]+", command)]
    paths = [word for word in words if re.match(r"(tools|tests|benchmarks|examples|\.ci)/", word)]
    assert [path for path in paths if not (helpers.ROOT / path).exists()] == []


def test_weekly_workflow_names_checks_of_check_sh():
    script = (helpers.ROOT / "tools" / "check.sh").read_text(encoding="utf-8")
    checks = set(re.findall(r"^check_([\w-]+)\(\)", script, re.MULTILINE)) | {"asan", "ubsan", "tsan", "valgrind"}
    named = read_yaml(".github/workflows/weekly.yml")["jobs"]["check"]["strategy"]["matrix"]["check"]
    assert set(named) <= checks


def test_workflow_of_the_core_installs_the_packages_that_its_tests_need():
    installs = [
        step["run"] for step in steps_of(".github/workflows/tests.yml") if "pip install . " in step.get("run", "")
    ]
    assert installs
    for install in installs:
        assert set(core_tests.NEEDS) <= set(shlex.split(install))


def test_pre_commit_hooks_are_local_and_their_patterns_match_files():
    paths = [path for folder in ("indygru_cpu", ".github") for path in (helpers.ROOT / folder).rglob("*.*")]
    files = [path.relative_to(helpers.ROOT).as_posix() for path in paths]
    hooks = [hook for repository in read_yaml(".pre-commit-config.yaml")["repos"] for hook in repository["hooks"]]
    assert {hook["language"] for hook in hooks} == {"system"}
    for hook in hooks:
        assert "files" not in hook or any(re.search(hook["files"], name) for name in files), hook["id"]


def test_source_distribution_has_every_file_of_the_root():
    manifest = (helpers.ROOT / "MANIFEST.in").read_text(encoding="utf-8")
    generated = {"pyproject.toml", "setup.py"}  # setuptools adds them
    names = {path.name for path in helpers.ROOT.iterdir() if path.is_file() and not path.name.startswith(".")}
    tracked = {name for name in names if name.endswith((".md", ".cff", ".in", ".toml", ".py")) or name == "LICENSE"}
    assert {name for name in tracked - generated - {"MANIFEST.in"} if name not in manifest.split()} == set()
