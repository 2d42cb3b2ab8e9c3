"""Flags of the build, the tier that import selects, and the effects of import. `.ci/run` tests the build itself."""

from __future__ import annotations

import ast
import re
import shutil
import sys
from pathlib import Path

import helpers
import pytest

import indygru_cpu
from indygru_cpu._engine import _core

TIERS = ["baseline", "x86_v3", "x86_v4"]
SOURCES = sorted(path for path in (helpers.ROOT / "indygru_cpu" / "_engine" / "csrc").glob("*.[ch]"))
FORBIDDEN = [
    *("fast-math", "Ofast", "unsafe-math", "finite-math", "associative-math", "reciprocal-math"),
    *("no-signed-zeros", "daz", "ftz", "march=native", "mtune=native"),
]


def test_tiers_are_ordered_from_slowest_to_fastest():
    assert _core.tiers() == tuple(name for name in TIERS if name in _core.tiers())
    assert _core.tiers()[0] == "baseline"


def test_tier_in_use_default_is_the_fastest(run_python):
    code = "from indygru_cpu._engine import _core; print(_core.tier_in_use())"
    assert run_python(code) == _core.tiers()[-1]
    assert run_python(code, INDYGRU_CPU_TIER="") == _core.tiers()[-1]


@pytest.mark.parametrize("name", _core.tiers())
def test_tier_of_the_environment_is_used(run_script, name):
    """It is named, and results have its bits."""
    tier, bits = run_script("build/tier_bits.py", INDYGRU_CPU_TIER=name, PYTHONHASHSEED="0").split()
    assert tier == name
    assert run_script("build/tier_bits.py", name, PYTHONHASHSEED="0").split() == [name, bits]


@pytest.mark.parametrize("name", ["x86_v5", "fast", "BASELINE", *(set(TIERS) - set(_core.tiers()))])
def test_tier_of_the_environment_unavailable_is_an_import_error(run_python, name):
    error = run_python("import indygru_cpu", status=1, INDYGRU_CPU_TIER=name).splitlines()[-1]
    assert error.startswith(f"ImportError: INDYGRU_CPU_TIER={name!r}")
    assert ", ".join(_core.tiers()) in error
    before = _core.tier_in_use()
    with pytest.raises(ImportError, match=re.escape(name)):
        _core.testing.use_tier(name)
    assert _core.tier_in_use() == before


def test_import_does_not_change_denormals(run_script):
    """Nothing that is linked flushes them for the whole process."""
    assert run_script("build/denormals_around_import.py") == "True True"


def test_flags_contain_no_fast_math_and_no_native_build():
    """In setup.py, in pragmas and attributes of the C files, and in pyproject.toml."""
    script = ast.parse((helpers.ROOT / "setup.py").read_text())
    flags = {node.value for node in ast.walk(script) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    cflags = {flag for flag in flags if re.fullmatch(r"-[a-zA-Z][\w=+-]*", flag)}
    assert {"-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"} <= cflags
    options = [
        line for path in SOURCES for line in path.read_text().splitlines() if "pragma" in line or "target" in line
    ]
    assert len(options) > 10
    for text in [*cflags, *options, (helpers.ROOT / "pyproject.toml").read_text()]:
        assert not any(word in text for word in FORBIDDEN), text


def test_fast_math_in_cflags_is_a_compile_error():
    assert re.search(
        r"#ifdef __FAST_MATH__\s+#error", (helpers.ROOT / "indygru_cpu/_engine/csrc/target_begin.h").read_text()
    )
    for path in SOURCES:
        if path.match("kernels_*.c"):
            assert '#include "kernel_tier.inc.h"' in path.read_text()


def test_import_without_the_extension_names_the_build_command(run_python, tmp_path):
    """A clone has the Python files alone."""
    folder = tmp_path / "clone"
    shutil.copytree(Path(indygru_cpu.__file__).parent, folder / "indygru_cpu",
                    ignore=shutil.ignore_patterns("_core*", "__pycache__"))  # fmt: skip
    error = run_python("import indygru_cpu", status=1, PYTHONPATH=str(folder)).splitlines()[-1]
    assert error.startswith("ImportError: ")
    for words in (str(folder / "indygru_cpu"), "pip install .", "pip install -e .", "not built"):
        assert words in error


def test_import_of_a_broken_extension_raises_its_own_error(run_python, tmp_path):
    folder = tmp_path / "clone"
    shutil.copytree(Path(indygru_cpu.__file__).parent, folder / "indygru_cpu",
                    ignore=shutil.ignore_patterns("_core*", "__pycache__"))  # fmt: skip
    (folder / "indygru_cpu" / "_engine" / "_core.py").write_text("import no_such_module_at_all")
    error = run_python("import indygru_cpu", status=1, PYTHONPATH=str(folder)).splitlines()[-1]
    assert "no_such_module_at_all" in error
    assert "pip install" not in error


def test_version_is_a_semantic_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.?(dev|a|b|rc)\d+)?", indygru_cpu.__version__)


def test_dependencies_are_numpy_and_openblas():
    text = (helpers.ROOT / "pyproject.toml").read_text()
    dependencies = ast.literal_eval(re.search(r"^dependencies = (\[.*?\])", text, re.M | re.S).group(1))
    assert [re.split("[<>=!~]", name)[0] for name in dependencies] == ["numpy", "scipy-openblas32"]


def test_import_loads_no_optional_package(run_script):
    assert run_script("build/optional_imports.py") == "[]"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads ELF symbols through the loader")
def test_openmp_is_loaded_if_the_build_has_it(run_script):
    """An OpenMP build has loaded a runtime; a serial build has none and reports no threads."""
    assert run_script("build/openmp_loaded.py") == "True"
