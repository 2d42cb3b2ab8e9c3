"""The functions for C, Cython and Numba: bits of `functional`, every status, and the programs of docs/c_api.md."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig

import c_calls
import helpers
import numpy as np
import pytest
from c_calls import SIZES, WEIGHTS

import indygru_cpu
from indygru_cpu import c_api
from indygru_cpu._engine import threads

SHAPE = (17, 7, 8, 9)
PAGE = (helpers.ROOT / "docs" / "c_api.md").read_text(encoding="utf-8")
HEADER = (helpers.ROOT / "indygru_cpu" / "_engine" / "include" / "indygru_call.h").read_text(encoding="utf-8")
STATUSES = re.findall(r"^    INDYGRU_(\w+),?$", HEADER.split("indygru_status")[1], re.M)

FORWARD, BACKWARD, STEP = map(c_calls.c_function, ("forward", "backward", "step"))


def call_status(function, case, **fields):
    """The name of the status of a call."""
    return STATUSES[c_calls.status_of_call(function, case, **fields)]


def run_c_functions(case, with_tape=True, **fields):
    """The results of the C functions, forward and backward."""
    outputs, gradients = c_calls.forward_outputs(case, with_tape), c_calls.backward_outputs(case)
    assert call_status(FORWARD, case, **outputs, **fields) == "DONE"
    inputs = {"y": outputs["y"], "tape": outputs["tape"], "h0": case.h0, "dy": case.dy}
    assert call_status(BACKWARD, case, **inputs, **gradients, **fields) == "DONE"
    return {"y": outputs["y"], "h_n": outputs["h"]} | c_calls.gradients(gradients)


@pytest.mark.parametrize("shape", [SHAPE, (0, 7, 8, 9), (9, 0, 8, 17), (9, 7, 0, 1), (140, 25, 770, 60), (1, 1, 1, 33)])
@pytest.mark.parametrize("ragged", [False, True])
def test_c_functions_compute_the_bits_of_functional(shape, dtype, ragged):
    case = helpers.random_case(shape, dtype, ragged=ragged)
    helpers.assert_same_bits(run_c_functions(case), case.run())


@pytest.mark.parametrize(("fields", "options"), [
    ({"n_threads": 1}, {}),
    ({"n_threads": 1000}, {}),
    ({"reproducible": 1}, {"reproducible": True}),
    ({"with_tape": False}, {"recompute": True}),
])  # fmt: skip
def test_c_options_are_those_of_functional(fields, options):
    case = helpers.random_case((140, 25, 770, 60), np.float32, "softsign")
    helpers.assert_same_bits(run_c_functions(case, **fields), case.run(**options))


def test_c_groups_are_those_of_functional():
    case = helpers.random_case((17, 7, 8, 12), np.float64)
    case = helpers.replace(case, kernel=case.kernel[:2].copy())
    helpers.assert_same_bits(run_c_functions(case, n_groups=4), case.run(groups=4))


def test_c_backward_adds_to_gradients_of_weights():
    case = helpers.random_case(SHAPE, np.float64)
    expected, start = case.run(), np.full_like(case.bias, 3.5)
    bias, dweights = start.copy(), {f"d{name}": np.zeros_like(getattr(case, name)) for name in WEIGHTS[:2]}
    arrays = {"y": expected["y"], "h0": case.h0, "dy": case.dy, "dh": case.dh_n.copy(), "dx": np.zeros_like(case.x)}
    assert call_status(BACKWARD, case, dbias=bias, **arrays, **dweights) == "DONE"
    np.testing.assert_allclose(bias, start + expected["bias"], rtol=1e-13)


def test_c_step_computes_the_bits_of_functional_step(dtype):
    """A step does not read n_steps and lengths."""
    case = helpers.random_case((9, 33, 8, 17), dtype)
    h, expected = case.h0.copy(), case.h0
    for x_t in case.x:
        expected = indygru_cpu.functional.step(x_t, expected, *case.arguments[2:])
        assert call_status(STEP, case, n_steps=-1, n_threads=0, x=x_t, h=h, lengths=np.full(33, -1)) == "DONE"
        helpers.assert_same_bits(h, expected)


WRONG = {
    "BAD_CALL": [{"size": c_api.CALL.itemsize - 8}, {"size": 0}],
    "BAD_DTYPE": [{"dtype": -1}, {"dtype": 2}],
    "BAD_ACTIVATION": [{"activation": -1}, {"activation": 7}],
    "BAD_THREADS": [{"n_threads": 0}, {"n_threads": -3}],
    "BAD_SIZES": [*({name: -1} for name in SIZES), {"n_units": 0}, {"n_units": 2**31 // 3 + 1}, {"n_inputs": 2**31},
                  {"n_batch": 2**31}, {"n_steps": 2**59}],
    "BAD_GROUPS": [{"n_groups": 0}, {"n_groups": -1}, {"n_groups": 3}, {"n_groups": 2}, {"n_groups": 2**40}],
    "BAD_LENGTHS": [{"lengths": np.array([1, 2, 3, 4, 5, 6, 18])}, {"lengths": np.array([0, -1, 3, 4, 5, 6, 7])}],
    "BAD_POINTER": [*({name: None} for name in ("x", *WEIGHTS, "h")),
                    {"x": None, "lengths": None, "n_steps": 2**20, "n_batch": 2**12}],  # a multiple of 2^32 numbers
}  # fmt: skip


@pytest.mark.parametrize("status", WRONG)
def test_wrong_call_returns_its_status_and_writes_nothing(status):
    case = helpers.random_case(SHAPE, np.float32)
    y, h = np.full_like(case.dy, 7.5), case.h0.copy()
    for fields in WRONG[status]:
        arrays = {"y": y, "h": h} | fields
        assert call_status(FORWARD, case, **arrays) == status, fields
        if not {"n_steps", "n_threads", "lengths"} & fields.keys():
            assert call_status(STEP, case, **arrays) == status, fields
    assert (y == 7.5).all()
    helpers.assert_same_bits(h, case.h0)


@pytest.mark.parametrize(
    "missing", [["dx"], [f"d{name}" for name in WEIGHTS], ["dx", *(f"d{name}" for name in WEIGHTS)]]
)
def test_c_backward_without_pointers_of_some_gradients_computes_the_others(missing, dtype):
    case = helpers.random_case(SHAPE, dtype)
    expected, outputs = case.run(), c_calls.backward_outputs(case)
    arrays = {"y": expected["y"], "h0": case.h0, "dy": case.dy, **outputs, **dict.fromkeys(missing)}
    assert call_status(BACKWARD, case, **arrays) == "DONE"
    for name, array in c_calls.gradients(outputs).items():
        if ("dh" if name == "h0" else f"d{name}") in missing:
            assert not array.any()
        else:
            helpers.assert_same_bits(array, expected[name])


@pytest.mark.parametrize("name", ["y", "h0", "dy", "dh", *(f"d{name}" for name in WEIGHTS)])
def test_backward_without_one_of_its_arrays_returns_bad_pointer(name):
    case = helpers.random_case(SHAPE, np.float32)
    arrays = {"y": case.dy, "h0": case.h0, "dy": case.dy, "dh": case.dh_n, "dx": case.x.copy()}
    arrays |= {f"d{name}": getattr(case, name).copy() for name in WEIGHTS}
    assert call_status(BACKWARD, case, **(arrays | {name: None})) == "BAD_POINTER"


def test_message_of_a_status_names_its_field():
    assert STATUSES[0] == "DONE"
    fields = {"BAD_CALL": "call", "BAD_SIZES": "n_steps", "BAD_THREADS": "n_threads", "BAD_GROUPS": "n_groups"}
    for number, status in enumerate(STATUSES[:-1]):
        text = fields.get(status, status.removeprefix("BAD_").lower().replace("_", " "))
        assert text in c_api.message(number) or status == "BAD_POINTER"
    assert {c_api.message(number) for number in (-1, len(STATUSES) - 1)} == {"unknown status"}


def test_header_defines_the_bound_of_threads():
    assert f"#define INDYGRU_MAX_THREADS {threads.MAX_THREADS}\n" in HEADER


def page_program(file):
    """The program of the page: the code block after a file's name."""
    return re.search(rf"`{re.escape(file)}`:\n\n```\w+\n(.*?)```", PAGE, re.S).group(1)


LAYOUT = """
#include <indygru_call.h>
#include <stdio.h>
int main(void)
{
%s
    printf("itemsize %%zu\\n", sizeof(indygru_call));
    return 0;
}
"""


@pytest.fixture(scope="module")
def built_extensions(tmp_path_factory):
    """A folder with the page's two extensions, and a program that prints the layout of a call in C."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler here")
    for package in ("Cython", "setuptools"):
        pytest.importorskip(package, reason=f"{package} is not installed, and the page's setup.py uses it")
    folder = tmp_path_factory.mktemp("beside")
    for file in ("in_cython.pyx", "in_c.c", "setup.py"):
        (folder / file).write_text(page_program(file))
    lines = [f'    printf("{name} %zu\\n", offsetof(indygru_call, {name}));' for name in c_api.CALL.names]
    (folder / "layout.c").write_text(LAYOUT % "\n".join(lines))
    strict = ["-Wall", "-Wextra", "-Werror", f"-I{indygru_cpu.get_include()}"]
    subprocess.run(["cc", *strict, "layout.c", "-o", "layout"], cwd=folder, check=True, timeout=60)
    if shutil.which("c++") is not None:
        (folder / "twice.cpp").write_text("#include <indygru_cpu.h>\n#include <indygru_cpu.h>\n")
        python = f"-I{sysconfig.get_path('include')}"
        subprocess.run(["c++", *strict, python, "-fsyntax-only", "twice.cpp"], cwd=folder, check=True, timeout=60)
    build = [sys.executable, "setup.py", "build_ext", "--inplace"]
    environment = os.environ | {"CFLAGS": "-O0"}
    done = subprocess.run(build, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_layout_of_a_record_is_that_of_the_c_struct(built_extensions):
    done = subprocess.run([built_extensions / "layout"], capture_output=True, text=True, check=True, timeout=60)
    offsets = {name: str(offset) for name, (_, offset) in c_api.CALL.fields.items()}
    assert dict(line.split() for line in done.stdout.splitlines()) == offsets | {"itemsize": str(c_api.CALL.itemsize)}


def load_extension(folder, name):
    (file,) = folder.glob(f"{name}.*.so")
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_cython_program_of_the_page_computes_same_bits(built_extensions):
    case = helpers.random_case(SHAPE, np.float32)
    h = case.h0.copy()
    load_extension(built_extensions, "in_cython").last_states(case.x, h, *case.arguments[2:])
    helpers.assert_same_bits(h, case.forward()["h_n"])


def test_c_program_of_the_page_computes_same_bits_and_raises(built_extensions):
    case = helpers.random_case(SHAPE, np.float32)
    h, module = case.h0.copy(), load_extension(built_extensions, "in_c")
    arrays = {name: getattr(case, name) for name in ("x", *WEIGHTS)}
    assert module.last_states(arrays | {"h": h}) is None
    helpers.assert_same_bits(h, case.forward()["h_n"])
    with pytest.raises(ValueError, match="n_units: expected"):
        module.last_states(arrays | {"h": h[:, :0].copy()})
    with pytest.raises(KeyError, match="x"):
        module.last_states({})


def test_numba_program_of_the_page_computes_same_states(run_python):
    """In a process of its own, because Numba emits warnings."""
    pytest.importorskip("numba", reason="numba is not installed, and the page's program uses it")
    source = page_program("in_numba.py") + "print(rises, h.tobytes().hex())"
    rises, states = run_python(source).split()
    rng = np.random.default_rng(0)
    x = rng.standard_normal((33, 7, 3))
    weights = [rng.uniform(-1, 1, size) for size in [(3, 15), 15, 15]]
    y = indygru_cpu.functional.forward(x, None, *weights)[0]
    assert helpers.scaled_error(np.frombuffer(bytes.fromhex(states)).reshape(7, 5), y[-1]) < 1e-12
    before = np.concatenate([np.zeros(1), y[:-1, 0, 0]])
    assert int(rises) == (y[:, 0, 0] > before).sum()
