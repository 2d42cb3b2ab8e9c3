"""What was built, and what import chooses from it. Building itself is left to `.ci/run`."""

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


def test_tiers_come_slowest_first():
    assert _core.tiers() == tuple(name for name in TIERS if name in _core.tiers())
    assert _core.tiers()[0] == "baseline"


def test_the_fastest_tier_is_chosen(run_python):
    code = "from indygru_cpu._engine import _core; print(_core.tier_in_use())"
    assert run_python(code) == _core.tiers()[-1]
    assert run_python(code, INDYGRU_CPU_TIER="") == _core.tiers()[-1]


@pytest.mark.parametrize("name", _core.tiers())
def test_tier_from_the_environment(run_python, name):
    """Chosen, and used: the numbers are those of that tier."""
    code = """
        import numpy as np
        from indygru_cpu import IndyGRU
        from indygru_cpu._engine import _core
        x = np.random.default_rng(0).standard_normal((33, 7, 9), np.float32)
        print(_core.tier_in_use(), hash(IndyGRU(9, 17, seed=0)(x)[0].tobytes()))
    """
    found, bits = run_python(code, INDYGRU_CPU_TIER=name, PYTHONHASHSEED="0").split()
    assert found == name
    switch = f"from indygru_cpu._engine import _core; _core.testing.use_tier({name!r})\n"
    lines = "\n".join(line.strip() for line in code.splitlines())
    assert run_python(switch + lines, PYTHONHASHSEED="0").split() == [name, bits]


@pytest.mark.parametrize("name", ["x86_v5", "fast", "BASELINE", *(set(TIERS) - set(_core.tiers()))])
def test_a_tier_that_cannot_be(run_python, name):
    error = run_python("import indygru_cpu", status=1, INDYGRU_CPU_TIER=name).splitlines()[-1]
    assert error.startswith(f"ImportError: INDYGRU_CPU_TIER={name!r}")
    assert ", ".join(_core.tiers()) in error
    before = _core.tier_in_use()
    with pytest.raises(ImportError, match=re.escape(name)):
        _core.testing.use_tier(name)
    assert _core.tier_in_use() == before


def test_import_leaves_floating_point_alone(run_python):
    """Denormals are numbers before and after: nothing linked in here flushes them for the whole process."""
    code = """
        import numpy as np
        product = lambda: float(np.float32(1e-30) * np.float32(1e-10)) > 0 and 1e-310 / 2 > 0
        before = product()
        import indygru_cpu
        from indygru_cpu import functional
        print(before, product())
    """
    assert run_python(code) == "True True"


def test_flags():
    """Strings of setup.py, of the C files' pragmas and attributes, and of the project's settings."""
    script = ast.parse((helpers.ROOT / "setup.py").read_text())
    flags = {node.value for node in ast.walk(script) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    given = {flag for flag in flags if re.fullmatch(r"-[a-zA-Z][\w=+-]*", flag)}
    assert {"-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"} <= given
    options = [
        line for path in SOURCES for line in path.read_text().splitlines() if "pragma" in line or "target" in line
    ]
    assert len(options) > 10
    for text in [*given, *options, (helpers.ROOT / "pyproject.toml").read_text()]:
        assert not any(word in text for word in FORBIDDEN), text


def test_fast_math_cannot_be_built():
    """Whoever forces it through CFLAGS is stopped by the compiler."""
    assert re.search(
        r"#ifdef __FAST_MATH__\s+#error", (helpers.ROOT / "indygru_cpu/_engine/csrc/target_begin.h").read_text()
    )
    for path in SOURCES:
        if path.match("kernels_*.c"):
            assert '#include "kernel_tier.inc.h"' in path.read_text()


def test_the_unbuilt_source_folder_says_so(run_python, tmp_path):
    """Python files without the extension, as a clone has them."""
    folder = tmp_path / "clone"
    shutil.copytree(Path(indygru_cpu.__file__).parent, folder / "indygru_cpu",
                    ignore=shutil.ignore_patterns("_core*", "__pycache__"))  # fmt: skip
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); import indygru_cpu"
    error = run_python(code, status=1).splitlines()[-1]
    assert error.startswith("ImportError: ")
    for words in (str(folder / "indygru_cpu"), "pip install .", "pip install -e .", "not built"):
        assert words in error


def test_a_broken_extension_is_not_called_unbuilt(run_python, tmp_path):
    """An extension that is there but cannot be loaded keeps its own error."""
    folder = tmp_path / "clone"
    shutil.copytree(Path(indygru_cpu.__file__).parent, folder / "indygru_cpu",
                    ignore=shutil.ignore_patterns("_core*", "__pycache__"))  # fmt: skip
    (folder / "indygru_cpu" / "_engine" / "_core.py").write_text("import no_such_module_at_all")
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); import indygru_cpu"
    error = run_python(code, status=1).splitlines()[-1]
    assert "no_such_module_at_all" in error
    assert "pip install" not in error


def test_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.?(dev|a|b|rc)\d+)?", indygru_cpu.__version__)


def test_run_time_needs_are_few():
    """numpy and scipy-openblas32 only; the rest are extras."""
    text = (helpers.ROOT / "pyproject.toml").read_text()
    needs = ast.literal_eval(re.search(r"^dependencies = (\[.*?\])", text, re.M | re.S).group(1))
    assert [re.split("[<>=!~]", need)[0] for need in needs] == ["numpy", "scipy-openblas32"]


def test_import_loads_no_extra(run_python):
    """Nor any heavy package: SciPy, Matplotlib and tqdm wait until they are used."""
    code = """
        import sys
        import indygru_cpu
        heavy = {"scipy", "matplotlib", "tqdm", "tensorflow", "torch", "pytest", "google_crc32c"}
        assert {"IndyGRU", "IndyGRUCell", "variable_scope"} <= set(dir(indygru_cpu))
        print(sorted((heavy | {"indygru_cpu._tf1.cell"}) & sys.modules.keys()))
    """
    assert run_python(code) == "[]"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads ELF symbols through the loader")
def test_openmp_is_what_the_build_says(run_python):
    """An OpenMP build has loaded a runtime; a serial build has none and counts no threads."""
    code = """
        import indygru_cpu
        from indygru_cpu._engine import _core
        maps = open("/proc/self/maps").read()
        loaded = any(name in maps for name in ("libgomp", "libomp", "libiomp"))
        print(loaded == bool(_core.openmp_threads()))
    """
    assert run_python(code) == "True"
