"""C files of layers: compilers for this and other processors, programs that run such a file, and expected results."""

from __future__ import annotations

import importlib.util
import io
import shutil
import subprocess
import sys
from typing import NamedTuple

import helpers
import numpy as np
import pytest

from indygru_cpu import IndyGRU, reference
from indygru_cpu._engine.quantization import quantize_int8, round_to_bfloat16, widen_bfloat16

STRICT = ("-Wall", "-Wextra", "-pedantic", "-Wconversion", "-Wshadow", "-Werror")
C99, CXX11 = ("-std=c99",), ("-x", "c++", "-std=c++11")
_ZIG = (sys.executable, "-m", "ziglang", "cc", "-target")
_WASI = ("node", "--no-warnings", str(helpers.SUPPORT / "run_wasi.mjs"))
NUMBERS = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}
FORMATS = {np.float32: ["float32", "bfloat16", "int8"], np.float64: ["float64"]}
#: Layers by name: the input size, the hidden size and options.
LAYERS = {
    "one unit": (1, 1, {}),
    "stack": (3, 10, {"num_layers": 3}),
    "wide": (37, 64, {}),
    "groups": (12, 8, {"num_layers": 2, "groups": 4}),
    "no bias": (5, 7, {"bias": False}),
    "no reset gate": (6, 9, {"reset_gate": False, "num_layers": 2, "groups": 3}),
    "minGRU": (5, 8, {"reset_gate": False, "bias": False, "activation": "mingru"}),
    **{activation: (4, 9, {"activation": activation}) for activation in helpers.ACTIVATIONS},
}


class Toolchain(NamedTuple):
    """A compiler, what runs its programs, and their byte order. A runner of None: nothing here runs them."""

    command: tuple[str, ...]
    runner: tuple[str, ...] | None = ()
    byte_order: str = "<"

    def missing(self):
        """What it needs and this machine does not have, or None."""
        programs = [self.command[0], *(self.runner or ())[:1]]
        if "ziglang" in self.command and importlib.util.find_spec("ziglang") is None:
            return "the package ziglang"
        return next((program for program in programs if shutil.which(program) is None), None)


#: The machine's C and C++ compilers are tested with everything; the others, if they are installed, with a few files.
TOOLCHAINS = {
    "c": Toolchain(("cc", *C99)),
    "c++": Toolchain(("c++", *CXX11)),
    "clang": Toolchain(("clang", *C99)),
    "clang++": Toolchain(("clang++", *CXX11)),
    "zig": Toolchain((*_ZIG, "native", *C99)),
    "zig c++": Toolchain((*_ZIG, "native", *CXX11)),
    "zig aarch64": Toolchain((*_ZIG, "aarch64-linux-musl", *C99), ("qemu-aarch64-static",)),
    "zig arm": Toolchain((*_ZIG, "arm-linux-musleabihf", *C99), ("qemu-arm-static",)),
    "zig riscv64": Toolchain((*_ZIG, "riscv64-linux-musl", *C99), ("qemu-riscv64-static",)),
    "zig powerpc": Toolchain((*_ZIG, "powerpc-linux-musleabihf", *C99), ("qemu-ppc-static",), ">"),
    "zig webassembly": Toolchain((*_ZIG, "wasm32-wasi", *C99), _WASI),
    "aarch64": Toolchain(("aarch64-linux-gnu-gcc", "-static", *C99), ("qemu-aarch64-static",)),
    "clang webassembly": Toolchain(("clang", "--target=wasm32", "-msimd128", *C99), None),
    "cortex-m4": Toolchain(("arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mfloat-abi=hard", *C99), None),
}  # fmt: skip


def toolchain(name):
    """A toolchain of `TOOLCHAINS`. The test is skipped if a part of it is missing."""
    chosen = TOOLCHAINS[name]
    if (missing := chosen.missing()) is not None:
        pytest.skip(f"{missing} is not installed")
    return chosen


def text_of(layer, **options):
    """The text of the C file of a layer."""
    memory = io.BytesIO()
    layer.to_c(memory, **options)
    return memory.getvalue().decode("ascii")


def compile_c(chosen, source, file, *flags):
    """Compile without warnings, and with optimisation unless a flag says something else."""
    done = subprocess.run(
        [*chosen.command, *STRICT, "-O2", *flags, source, "-o", file], capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stderr) == (0, "")


def compile_program(chosen, layer, folder, program, *flags, **options):
    """The program `tests/support/c_file_<program>.c` with the C file of a layer."""
    layer.to_c(folder / "model.h", **options)
    file = folder / program
    definitions = [f'-DFILE_NAME="{folder / "model.h"}"', f"-DNUMBER={NUMBERS[layer.dtype]}"]
    compile_c(chosen, helpers.SUPPORT / f"c_file_{program}.c", file, *definitions, *flags)
    return file


def compile_object(chosen, layer, folder, *flags, **options):
    """An object file with one function, which runs a step. The headers of the C library are not used."""
    layer.to_c(folder / "model.h", **options)
    number, source = NUMBERS[layer.dtype], folder / "run.c"
    arguments = f"(const {number} *x, {number} *h)"
    source.write_text(f'#include "model.h"\nvoid run{arguments};\nvoid run{arguments} {{ model_step(x, h); }}\n')
    compile_c(chosen, source, folder / "run.o", "-c", "-ffreestanding", *flags)
    return folder / "run.o"


def run_program(chosen, command, dtype, *arrays):
    """The numbers that a program writes when it reads those of the arrays."""
    dtype = np.dtype(dtype)
    on_target = dtype.newbyteorder(chosen.byte_order)
    data = b"".join(array.astype(on_target).tobytes() for array in arrays)
    done = subprocess.run([*chosen.runner, *command], input=data, capture_output=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, b"")
    return np.frombuffer(done.stdout, on_target).astype(dtype)


def run_steps(chosen, layer, folder, x, h0, *flags, **options):
    """States of all layers after each step of x (T, D) from h0 (layers, N): (T, layers, N)."""
    file = compile_program(chosen, layer, folder, "steps", *flags, **options)
    return run_program(chosen, [file], layer.dtype, h0, x).reshape(len(x), *h0.shape)


def run_single_steps(chosen, layer, folder, x, h0, *flags):
    """States after a step of each row of x (B, D) from its own states, h0 (B, layers, N): (B, layers, N)."""
    file = compile_program(chosen, layer, folder, "steps", *flags)
    rows = [array for pair in zip(h0, x, strict=True) for array in pair]
    return run_program(chosen, [file, "each"], layer.dtype, *rows).reshape(h0.shape)


def layer_of(name, dtype, seed=0):
    """A layer with random biases, and weights for which states of unbounded activations do not grow."""
    n_inputs, n_units, options = LAYERS[name]
    layer = IndyGRU(n_inputs, n_units, dtype=dtype, seed=seed, **options)
    rng = np.random.default_rng([seed, 1])
    for parameter, array in layer.parameters.items():
        if parameter.startswith("recurrent"):
            array *= 0.7
        if parameter.startswith("bias"):
            array[...] = rng.uniform(-1, 1, array.shape)
    return layer


def inputs(layer, n_steps=50, seed=2):
    """x (T, D) and h0 (layers, N)."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n_steps, layer.input_size)).astype(layer.dtype)
    return x, rng.uniform(-1, 1, (layer.num_layers, layer.hidden_size)).astype(layer.dtype)


def fill_with_extremes(layer):
    """Give a layer weights of all exponents and both signs, with subnormal numbers and zeros of both signs."""
    rng = np.random.default_rng(4)
    for array in layer.parameters.values():
        limits = np.finfo(array.dtype)
        low, high = np.log10(float(limits.smallest_subnormal)), np.log10(float(limits.max)) - 0.01
        array[...] = 10.0 ** rng.uniform(low, high, array.shape) * rng.choice([-1, 1], array.shape)
        extremes = [limits.max, limits.tiny, limits.smallest_subnormal, 0, -0.0, 1, 0.1, 1e9]
        array.flat[: len(extremes)] = extremes[: array.size]


def flushed(array):
    """The array with zeros of the same sign in place of subnormal numbers, as C files have it."""
    return np.where(np.abs(array) < np.finfo(array.dtype).tiny, array * 0, array)


def as_stored(name, array, weights):
    """The float64 numbers that a file of the format has for a parameter."""
    if not name.startswith("kernel") or weights in (None, array.dtype):
        return array.astype(np.float64)
    if weights == "bfloat16":
        return widen_bfloat16(round_to_bfloat16(array)).astype(np.float64)
    integers, scales = quantize_int8(array)
    return integers * scales.astype(np.float64)


def expected_states(layer, x, h0, weights=None):
    """The states of `run_steps` by the reference in float64, with the weights as they are stored."""
    parameters = {name: as_stored(name, array, weights) for name, array in layer.parameters.items()}
    n, groups, states, n_planes = layer.hidden_size, layer.groups, [], 3 if layer.reset_gate else 2
    y = x[:, None].astype(np.float64)
    for k in range(layer.num_layers):
        blocks = parameters[f"kernel_l{k}"].reshape(-1, n_planes, groups, n // groups)
        n_rows = len(blocks)
        kernel = np.zeros((groups * n_rows, n_planes, groups, n // groups))
        for group in range(groups):
            kernel[group * n_rows : (group + 1) * n_rows, :, group] = blocks[:, :, group]
        bias = parameters.get(f"bias_l{k}", np.zeros(n_planes * n))
        y, _, _ = reference.forward(
            y, h0[k : k + 1].astype(np.float64), kernel.reshape(len(kernel), -1), parameters[f"recurrent_kernel_l{k}"],
            bias, layer.activation, reset_gate=layer.reset_gate,
        )  # fmt: skip
        states.append(y[:, 0])
    return np.stack(states, 1)


def stream_states(layer, x, h0, weights=None):
    """The states of `run_steps` by a stream."""
    stream = layer.stream(num_threads=1, weights=weights)
    stream.state = h0[:, None]
    states = []
    for x_t in x:
        stream.push(x_t)
        states.append(stream.state[:, 0])
    return np.stack(states)
