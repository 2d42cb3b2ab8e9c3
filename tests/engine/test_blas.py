"""The private BLAS: one thread, symbols outside the global scope, and replaceable by the environment."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import helpers
import numpy as np
import pytest
from blas_products import INPUT_GRADIENT, KERNEL_GRADIENT, PROJECTION

from indygru_cpu._engine import _core, blas

needs_proc = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/maps")


def test_private_openblas_has_one_thread():
    assert blas.blas.threads == 1
    assert "OpenBLAS" in blas.blas.version


@pytest.mark.parametrize("shape", helpers.THROUGH_BLAS)
def test_projection_of_many_steps_goes_through_blas_on_baseline(tier, dtype, shape, products):
    """Other tests rely on the sizes of `helpers.THROUGH_BLAS`."""
    case = helpers.random_case(shape, dtype)
    by_blas = case.forward()["y"]
    assert (products()[PROJECTION] > 0) == (tier == "baseline")
    by_kernel = case.forward(reproducible=True)["y"]
    assert not products()
    assert helpers.scaled_error(by_blas, by_kernel) <= helpers.bound("y", dtype)


@pytest.mark.parametrize(("more", "engine"), [(-1, "micro-kernel"), (0, "BLAS"), (4, "BLAS")])
def test_projection_goes_through_blas_from_a_number_of_inputs_on(tier, dtype, products, more, engine):
    case = helpers.random_case((300, 1, helpers.BLAS_INPUTS[tier] + more, 9), dtype)
    helpers.assert_close(case.forward(), case.expected_forward(), dtype)
    assert (products()[PROJECTION] > 0) == (engine == "BLAS")


@pytest.mark.parametrize("shape", [(3, 2, 66000, 5), (2, 1, 769, 257), (1500, 3, 257, 7)])
def test_products_of_partial_blocks_equal_the_reference(dtype, shape):
    """Sizes are one more than a block holds, or need more blocks than a block has numbers."""
    case = helpers.random_case(shape, dtype)
    helpers.assert_close(case.run(num_threads=2), case.expected(), dtype)


#: (T, B, D, N), and whether the micro-kernel computes dx if the tier gives it so few inputs.
INPUT_GRADIENTS = [
    ((64, 17, 80, 9), True),
    ((173, 9, 17, 33), True),
    ((64, 17, 512, 9), True),
    ((4200, 4, 3, 7), True),
    ((64, 17, 513, 9), False),
    ((25, 17, 80, 9), False),
    ((80, 9, 33, 300), False),
]


@pytest.mark.parametrize(("shape", "by_micro_kernel"), INPUT_GRADIENTS)
def test_input_gradient_of_few_inputs_and_many_steps_is_computed_by_the_micro_kernel(
    tier, dtype, shape, by_micro_kernel, products
):
    """The micro-kernel gives a row the same bits in any batch."""
    case, few = helpers.random_case(shape, dtype), shape[1] * 2 // 3 + 1
    results = case.run(num_threads=2)
    helpers.assert_close(results, case.expected(), dtype)
    by_kernel = by_micro_kernel and shape[2] < helpers.BLAS_INPUTS[tier]
    counts = products()
    assert (counts[INPUT_GRADIENT] == 0) == by_kernel
    assert counts[KERNEL_GRADIENT] > 0
    part = replace(case, **{name: getattr(case, name)[:, :few] for name in ("x", "dy")})
    part = replace(part, **{name: getattr(case, name)[:few] for name in ("h0", "dh_n")})
    gradient = part.run()["x"]
    if by_kernel:
        assert products()[INPUT_GRADIENT] == 0
        helpers.assert_same_bits(gradient, np.ascontiguousarray(results["x"][:, :few]))


@pytest.mark.parametrize("shape", [shape for shape, _ in INPUT_GRADIENTS])
def test_gradient_of_inputs_of_ragged_rows_equals_the_reference(tier, dtype, shape):
    case = helpers.random_case(shape, dtype, ragged=True)
    helpers.assert_close(case.run(num_threads=2), case.expected(), dtype)


@pytest.mark.parametrize("threads", [None, "3"])
def test_import_leaves_environment_variables_as_they_were(run_script, threads):
    """The import sets OPENBLAS_NUM_THREADS only while it loads the library, for Python and for C."""
    environment = {} if threads is None else {"OPENBLAS_NUM_THREADS": threads}
    assert run_script("engine/blas_environment.py", **environment) == f"1 {threads and threads.encode()}"


def test_import_does_not_import_the_package_of_blas(run_python):
    """Its import would load the library for the whole process."""
    code = "import sys, indygru_cpu; print([name for name in sys.modules if name.startswith('scipy_openblas')])"
    assert run_python(code) == "[]"


@needs_proc
def test_symbols_of_blas_are_not_in_the_global_scope(run_script):
    """A library opened later would bind its calls to symbols of the global scope."""
    assert run_script("engine/blas_symbols.py") == "[True, True, True]"


@needs_proc
@pytest.mark.parametrize("n_threads", [None, "2"])
def test_scipy_in_any_import_order_keeps_its_threads(run_script, n_threads):
    """Imported before indygru_cpu, after it, or without it, SciPy's BLAS has the same number of threads."""
    pytest.importorskip("scipy")
    environment = {} if n_threads is None else {"OPENBLAS_NUM_THREADS": n_threads}

    def threads_of_scipy(*, before=(), after=()):
        return run_script("engine/scipy_threads.py", *before, "after", *after, **environment)

    alone = threads_of_scipy()
    assert threads_of_scipy(before=["indygru_cpu"]) == alone
    assert threads_of_scipy(before=["scipy.linalg", "indygru_cpu"]) == alone
    assert threads_of_scipy(after=["indygru_cpu", "indygru_cpu.functional"]) == alone


@pytest.fixture
def library_copy(tmp_path):
    """A copy of the library and its dependencies in another folder under another name."""
    folder = tmp_path / "elsewhere"
    shutil.copytree(Path(blas.blas.path).parent, folder)
    library = folder / Path(blas.blas.path).name
    return library.rename(folder / f"libother{library.suffix}")


def test_library_from_the_environment_is_used(run_script, library_copy):
    digest, _, _ = run_script("engine/blas_digest.py").split("|")
    for environment in ({}, {"INDYGRU_CPU_BLAS_PREFIX": "scipy_"}):
        printed = run_script("engine/blas_digest.py", INDYGRU_CPU_BLAS=str(library_copy), **environment)
        assert printed.split("|") == [digest, str(library_copy), "'scipy_'"]


@pytest.mark.skipif(not shutil.which("cc"), reason="compiles a library")
def test_library_of_products_only_computes_within_bounds(run_script, tmp_path):
    """It exports no version and no number of threads."""
    library = tmp_path / "libplain.so"
    source = helpers.SUPPORT / "plain_blas.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, source], check=True, timeout=60)
    environment = {"INDYGRU_CPU_BLAS": str(library), "INDYGRU_CPU_TIER": "baseline"}
    assert run_script("engine/blas_products_only.py", library, **environment) == f"{library} '' unknown None"


def import_error(run_python, **environment):
    text = run_python("import indygru_cpu", status=1, **environment)
    assert text.splitlines()[-1].startswith("ImportError: ")
    return text.splitlines()[-1]


def test_import_with_a_missing_library_names_its_path(run_python, tmp_path):
    path = str(tmp_path / "libnowhere.so")
    assert path in import_error(run_python, INDYGRU_CPU_BLAS=path)


def test_import_with_a_file_that_is_no_library_names_its_path(run_python, tmp_path):
    path = tmp_path / "libtext.so"
    path.write_text("no library")
    assert str(path) in import_error(run_python, INDYGRU_CPU_BLAS=str(path))


def test_import_with_a_library_without_blas_names_path_symbols_and_prefix(run_python):
    error = import_error(run_python, INDYGRU_CPU_BLAS=_core.__file__)
    assert _core.__file__ in error
    assert "scipy_cblas_sgemm or cblas_sgemm" in error
    assert "INDYGRU_CPU_BLAS_PREFIX" in error


def test_import_with_a_wrong_prefix_names_library_and_symbol(run_python):
    error = import_error(run_python, INDYGRU_CPU_BLAS_PREFIX="mine_")
    assert blas.blas.path in error
    assert "mine_cblas_sgemm" in error


def test_import_without_the_package_of_blas_names_package_and_variable(run_script):
    error = run_script("import_without.py", "indygru_cpu", "scipy_openblas32", status=1).splitlines()[-1]
    assert error.startswith("ImportError: ")
    assert "scipy-openblas32" in error
    assert "INDYGRU_CPU_BLAS" in error


def test_import_with_an_incomplete_package_of_blas_names_its_folder(run_python, tmp_path):
    """An interrupted installation leaves such a package."""
    package = tmp_path / "scipy_openblas32"
    (package / "lib").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "lib" / "scipy_openblas.pc").write_text("no library")
    path = os.pathsep.join([str(tmp_path), helpers.package_path()])
    error = run_python("import indygru_cpu", status=1, PYTHONPATH=path).splitlines()[-1]
    assert error.startswith("ImportError: ")
    assert str(package / "lib") in error
    assert "scipy-openblas32" in error


def test_version_and_threads_are_those_of_the_library_in_use():
    library = ctypes.CDLL(blas.blas.path)
    assert library.scipy_openblas_get_num_threads() == 1
