"""What tests share: random and golden cases, comparisons, error bounds, and programs in fresh interpreters."""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import indygru_cpu
from indygru_cpu import functional, reference

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
GOLDEN = DATA / "golden"
SCRIPTS = ROOT / "tests" / "scripts"
SUPPORT = ROOT / "tests" / "support"
#: Activations that TensorFlow, Keras and GRU of ONNX have.
COMMON_ACTIVATIONS = ("tanh", "relu", "sigmoid", "identity", "elu", "softsign")
ACTIVATIONS = (*COMMON_ACTIVATIONS, "mingru")
DTYPES = (np.float32, np.float64)
#: The smallest number of inputs with which a tier gives a projection of many steps to BLAS.
BLAS_INPUTS = {"baseline": 16, "x86_v3": 4096, "x86_v4": 4096}
#: (T, B, D, N) of calls whose projection goes through BLAS on the tier "baseline", without `reproducible`: one row,
#: several rows, all rows in a tile. tests/engine/test_blas.py checks that it does.
THROUGH_BLAS = [(300, 1, 38, 140), (140, 25, 34, 60), (140, 17, 34, 9), (130, 3, 33, 1921), (300, 2, 38, 40)]
FORWARD = ("y", "h_n")
GRADIENTS = ("x", "h0", "kernel", "recurrent_kernel", "bias")


def bound(name, dtype, saturated=False):
    """The largest scaled error of a result of the forward pass, or of a gradient."""
    single = np.dtype(dtype) == np.float32
    if name in FORWARD:
        return 5e-6 if single else 1e-12
    return (5e-5 if saturated else 1e-5) if single else 1e-10


def scaled_error(actual, expected):
    """max|a - b| / max(1, max|b|) over the finite numbers; infinite if the other numbers differ."""
    assert actual.shape == expected.shape
    finite = np.isfinite(expected)
    if not np.array_equal(actual[~finite], expected[~finite], equal_nan=True):
        return np.inf
    if not np.isfinite(actual[finite]).all():
        return np.inf
    difference = np.abs(actual[finite].astype(np.float64) - expected[finite])
    return difference.max(initial=0) / np.abs(expected[finite]).max(initial=1)


def assert_close(actual, expected, dtype, saturated=False):
    """Both arguments are dicts of arrays; `actual` has the dtype."""
    assert actual.keys() == expected.keys()
    for name, array in actual.items():
        assert array.dtype == dtype, name
        error = scaled_error(array, expected[name])
        assert error <= bound(name, dtype, saturated), f"{name}: scaled error {error:.2g}"


def same_bits(a, b):
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def assert_same_bits(actual, expected):
    """Both arguments are arrays, or dicts of arrays. NaN equals NaN of the same bits, +0 is not -0."""
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        for name, array in actual.items():
            assert same_bits(array, expected[name]), name
    else:
        assert same_bits(actual, expected)


def in_order(*values):
    """A pattern of texts that have the values as whole words in this order."""
    patterns = []
    for value in values:
        start, end = "" if not value[0].isalnum() else r"(?<!\w)", "" if not value[-1].isalnum() else r"(?!\w|\.\d)"
        patterns.append(start + re.escape(value) + end)
    return ".*".join(patterns)


def assert_refusal(text, argument, expected, got=None, fix=""):
    """An error text names the argument first, then the words of `expected`, then `got` after "got", then the fix.

    A group in parentheses is one word. Other words of the text are free.
    """
    assert re.match(rf"{re.escape(argument)}(:| and )", text), text
    before_got, *after_got = text.split(", got ", 1)
    words = re.findall(r"[\w.]*\([^()]*\)|\S+", expected)
    assert re.search(in_order(*words), before_got.removeprefix(argument)), text
    if got is None:
        assert not after_got, text
    else:
        assert re.match(r"(an? |one |shape )?" + in_order(got), after_got[0]), text
    assert fix in text


@dataclass(frozen=True, eq=False)
class Case:
    """Arguments of a forward and a backward pass: time-major, weights fused."""

    x: Any
    h0: Any
    kernel: Any
    recurrent_kernel: Any
    bias: Any
    dy: Any
    dh_n: Any
    activation: str = "tanh"
    lengths: Any = None
    reset_gate: bool = True

    @property
    def arrays(self):
        return {name: getattr(self, name) for name in (*GRADIENTS, "dy", "dh_n")}

    @property
    def arguments(self):
        return self.x, self.h0, self.kernel, self.recurrent_kernel, self.bias

    @property
    def options(self):
        return {"activation": self.activation, "lengths": self.lengths, "reset_gate": self.reset_gate}

    def astype(self, dtype):
        return replace(self, **{name: array.astype(dtype) for name, array in self.arrays.items()})

    def copy(self):
        return replace(self, **{name: array.copy() for name, array in self.arrays.items()})

    def forward(self, **options):
        """y and h_n of `functional.forward`."""
        return dict(zip(FORWARD, functional.forward(*self.arguments, **self.options, **options), strict=True))

    def run(self, num_threads=None, **options):
        """Results and gradients of `functional`."""
        y, h_n, tape = functional.forward(
            *self.arguments, **self.options, tape=True, num_threads=num_threads, **options
        )
        gradients = functional.backward(tape, self.dy, self.dh_n, num_threads=num_threads)
        return {"y": y, "h_n": h_n} | gradients._asdict()

    def expected(self):
        """Results and gradients of the reference, in float64."""
        double = self.astype(np.float64)
        y, h_n, tape = reference.forward(*double.arguments, **double.options)
        return {"y": y, "h_n": h_n} | reference.backward(tape, double.dy, double.dh_n)._asdict()

    def expected_forward(self):
        """Results of the reference's forward pass, in float64."""
        double = self.astype(np.float64)
        return dict(zip(FORWARD, reference.forward(*double.arguments, **double.options)[:2], strict=True))


def random_lengths(rng, n_steps, n_batch):
    """Random lengths; one row is full if there are several, one is empty if there are more."""
    lengths = rng.integers(0, n_steps + 1, n_batch)
    if n_batch == 1:
        lengths[0] = (n_steps + 1) // 2
    else:
        lengths[: min(2, n_batch)] = (n_steps, 0)[: min(2, n_batch)]
    return rng.permutation(lengths)


def random_case(shape, dtype, activation="tanh", ragged=False, seed=0, reset_gate=True):
    """`shape` is (T, B, D, N)."""
    rng = np.random.default_rng([seed, *shape])
    n_steps, n_batch, n_inputs, n_units = shape
    n_columns = (3 if reset_gate else 2) * n_units
    arrays = {
        "x": rng.standard_normal((n_steps, n_batch, n_inputs)),
        "h0": rng.uniform(-1, 1, (n_batch, n_units)),
        "kernel": rng.uniform(-1, 1, (n_inputs, n_columns)) * np.sqrt(3 / max(1, n_inputs)),
        # Below 1: states of unbounded activations would grow, and float32 gradients would be inaccurate.
        "recurrent_kernel": rng.uniform(-0.7, 0.7, n_columns),
        "bias": rng.uniform(-1, 1, n_columns),
        "dy": rng.standard_normal((n_steps, n_batch, n_units)),
        "dh_n": rng.standard_normal((n_batch, n_units)),
    }
    lengths = random_lengths(rng, n_steps, n_batch) if ragged else None
    return Case(**arrays, activation=activation, lengths=lengths, reset_gate=reset_gate).astype(dtype)


class Golden(NamedTuple):
    """A case of the original cell. Gradients and the float64 results (`twin`) are empty if the file has none."""

    case: Case
    expected: dict[str, Any]
    twin: dict[str, Any]
    meta: dict[str, Any]


def golden_names():
    return sorted(path.stem for path in GOLDEN.glob("*.npz") if not path.stem.startswith("default_init"))


def _fused(values, prefix=""):
    """Six variables under the original's names -> kernel, recurrent_kernel, bias."""
    pairs = [("gates/kernel_w", "candidate/kernel"), ("gates/kernel_u", "candidate/kernel_u"),
             ("gates/bias", "candidate/bias")]  # fmt: skip
    kernel, recurrent_kernel, bias = (
        np.concatenate([values[prefix + gates], values[prefix + candidate]], axis=-1) for gates, candidate in pairs
    )
    return {"kernel": kernel, "recurrent_kernel": recurrent_kernel.ravel(), "bias": bias}


@cache
def golden(name):
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        values = dict(file)
    meta = json.loads(str(values.pop("meta")))

    def time_major(array):
        if meta["kind"] == "cell":
            return array[None]
        return array if meta["time_major"] else array.swapaxes(0, 1)

    def results(prefix):
        actual = {"y": time_major(values[f"{prefix}outputs"]), "h_n": values[f"{prefix}final_state"]}
        prefix += "grad/"
        if f"{prefix}inputs" in values:
            actual |= {"x": time_major(values[f"{prefix}inputs"]), "h0": values[f"{prefix}h0"]}
            actual |= _fused(values, prefix)
        return actual

    expected = results("")
    twin = results("ref64/") if "ref64/outputs" in values else {}
    inputs = {"x": time_major(values["inputs"]), "h0": values["h0"]} | _fused(values)
    dy = time_major(values["G"]) if "G" in values else np.full_like(expected["y"], 0.5)
    dh_n = values.get("Gh", np.full_like(expected["h_n"], 0.5))
    lengths = values.get("sequence_length")
    return Golden(
        Case(**inputs, dy=dy, dh_n=dh_n, activation=meta["activation"], lengths=lengths),
        expected, twin, meta,
    )  # fmt: skip


#: Beginnings of the names of variables that change this library, OpenMP, BLAS, malloc or the meaning of `assert`.
VARIABLES = ("INDYGRU_", "OMP_", "GOMP_", "KMP_", "OPENBLAS_", "GOTO_", "MALLOC_", "PYTHONOPTIMIZE", "PYTHONWARNINGS")


def clean_environment(**environment):
    """The variables of this process without those of `VARIABLES`, and the given ones."""
    return {name: value for name, value in os.environ.items() if not name.startswith(VARIABLES)} | environment


def package_path():
    """A PYTHONPATH with the package under test and the paths of this process's PYTHONPATH."""
    paths = [str(Path(indygru_cpu.__file__).parents[1]), os.environ.get("PYTHONPATH")]
    return os.pathsep.join(filter(None, paths))


def give_up_capabilities():
    """Remove the superuser's capabilities from this process: files have the rights of their permissions."""
    if os.geteuid() == 0:
        header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()  # capset(2), version 3
        assert ctypes.CDLL(None).capset(header, none) == 0


def _run(command, arguments, folder, status, timeout, environment):
    """What a fresh interpreter prints, to stderr if `status` is not 0."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *command, *map(str, arguments)],
        env=clean_environment(**environment), cwd=folder, capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip
    assert done.returncode == status, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip() if status == 0 else done.stderr.strip()


def run_python(code, *arguments, folder, status=0, timeout=60, **environment):
    """Output of `code` in a fresh interpreter with a clean environment; stderr if a failure `status` is expected.

    For one or two statements. Longer programs are files, run by `run_script`.
    """
    return _run(["-c", textwrap.dedent(code)], arguments, folder, status, timeout, environment)


def run_script(path, *arguments, folder=None, status=0, timeout=60, **environment):
    """The same of the file `tests/scripts/<path>`, which can import `helpers` and the other modules of tests/support.

    The script's own folder is on its path, too; `folder` is its current directory.
    """
    parts = [str(SUPPORT), environment.pop("PYTHONPATH", os.environ.get("PYTHONPATH"))]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, parts))
    return _run([str(SCRIPTS / path)], arguments, folder, status, timeout, environment)
