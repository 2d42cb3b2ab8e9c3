"""C files: compilers take them without warnings, and their steps give the results of the layer."""

from __future__ import annotations

import ctypes
import platform
import re
import shutil
import subprocess

import activation_accuracy
import c_files
import helpers
import numpy as np
import pytest
from c_files import FORMATS, TOOLCHAINS, toolchain

from indygru_cpu import IndyGRU

PAGE = (helpers.ROOT / "docs" / "c_file.md").read_text(encoding="utf-8")

CASES = [
    pytest.param(name, dtype, weights, id=f"{name}-{weights}")
    for name in c_files.LAYERS for dtype, formats in FORMATS.items() for weights in formats
]  # fmt: skip


def assert_close(actual, expected):
    helpers.assert_close({"y": actual}, {"y": expected}, actual.dtype)


@pytest.mark.parametrize(("name", "dtype", "weights"), CASES)
def test_steps_equal_the_reference_with_the_stored_weights(tmp_path, name, dtype, weights):
    layer = c_files.layer_of(name, dtype)
    x, h0 = c_files.inputs(layer)
    states = c_files.run_steps(toolchain("c"), layer, tmp_path, x, h0, weights=weights)
    assert_close(states, c_files.expected_states(layer, x, h0, weights))


@pytest.mark.parametrize(("name", "dtype", "weights"), CASES)
def test_steps_equal_those_of_a_stream_with_the_same_weights(tmp_path, name, dtype, weights):
    layer = c_files.layer_of(name, dtype)
    x, h0 = c_files.inputs(layer)
    states = c_files.run_steps(toolchain("c"), layer, tmp_path, x, h0, weights=weights)
    compact = weights if weights in ("bfloat16", "int8") else None
    assert_close(states, c_files.stream_states(layer, x, h0, compact).astype(np.float64))


@pytest.mark.parametrize("name", [name for name in TOOLCHAINS if name != "c"])
def test_other_compiler_or_processor_computes_the_same_bits(tmp_path, name):
    """Without contraction to fused multiply-adds, a file has the same bits on every processor."""
    chosen = toolchain(name)
    for dtype, formats in FORMATS.items():
        layer = c_files.layer_of("stack", dtype)
        x, h0 = c_files.inputs(layer)
        for weights in formats:
            if chosen.runner is None:
                c_files.compile_object(chosen, layer, tmp_path, weights=weights)
                continue
            expected, states = (
                c_files.run_steps(each, layer, tmp_path, x, h0, "-ffp-contract=off", weights=weights)
                for each in (toolchain("c"), chosen)
            )
            helpers.assert_same_bits(states, expected)


@pytest.mark.parametrize("flags", [["-O0"], ["-O1"], ["-O3"], ["-Os"]], ids=" ".join)
def test_optimisation_does_not_change_bits(tmp_path, dtype, flags):
    layer = c_files.layer_of("wide", dtype)
    x, h0 = c_files.inputs(layer)
    expected = c_files.run_steps(toolchain("c"), layer, tmp_path, x, h0)
    helpers.assert_same_bits(
        c_files.run_steps(toolchain("c"), layer, tmp_path, x, h0, "-ffp-contract=off", *flags), expected
    )


#: Flags for which the page says that all loops over units are vectorised, those that report it, and what they report.
VECTORISERS = {
    "c": (["-O3"], ["-fopt-info-vec"], "loop vectorized"),
    "clang": (["-O2"], ["-Rpass=loop-vectorize"], "vectorized loop"),
    "zig": (["-O2"], ["-Rpass=loop-vectorize"], "vectorized loop"),
}


@pytest.mark.parametrize("n_units", [9, 64])
@pytest.mark.parametrize("name", VECTORISERS)
def test_compilers_vectorise_all_loops_over_units(tmp_path, name, n_units):
    (command, *_), (optimisation, report, words) = toolchain(name), VECTORISERS[name]
    text = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True).stdout
    maker, first = (r"Free Software Foundation", 12) if name == "c" else (r"clang version", 22)
    version = re.search(maker, text) and re.search(r"(?:\)|version) (\d+)\.", text)
    if platform.machine() != "x86_64" or version is None or int(version[1]) < first:
        pytest.skip("the page says this of GCC 12 and of Clang 22, on x86-64")
    (tmp_path / "run.c").write_text(
        '#include "model.h"\nvoid run(const float *x, float *h);\n'
        "void run(const float *x, float *h) { model_step(x, h); }\n"
    )
    layers = [IndyGRU(64, n_units, activation=activation) for activation in helpers.ACTIVATIONS]
    for layer in layers:
        for weights in FORMATS[np.float32] if layer.activation == "tanh" else ["float32"]:
            layer.to_c(tmp_path / "model.h", weights=weights)
            lines = (tmp_path / "model.h").read_text().splitlines()
            loops = {i for i, line in enumerate(lines, 1) if line.strip().startswith("for (j = 0;")}
            done = subprocess.run(
                [*command, *optimisation, *report, "-c", "run.c", "-o", "run.o"], cwd=tmp_path, capture_output=True,
                text=True, check=True,
            )  # fmt: skip
            vectorised = re.findall(rf"model\.h:(\d+):.*{words}", done.stderr)
            assert loops <= set(map(int, vectorised)), (layer.activation, weights)
            assert len(loops) == 5 + (weights == "int8")


#: Undefined behaviour, also in the conversion of a NaN to an integer, stops the program. This needs no library.
SANITIZERS = ["-O1", "-fsanitize=undefined,float-cast-overflow", "-fsanitize-undefined-trap-on-error"]


@pytest.mark.parametrize("name", helpers.ACTIVATIONS)
def test_special_inputs_and_states_give_those_of_the_reference(tmp_path, dtype, name):
    """NaN, infinities, and numbers beyond all limits of the activations, in x and in h0; no undefined behaviour."""
    layer = c_files.layer_of(name, dtype)
    special = np.array([np.nan, np.inf, -np.inf, 1e4, -1e4, 1e30, -1e30, 1e-30, 0, -0.0], dtype)
    n = len(special)
    x, h0 = c_files.inputs(layer, 3 * n)
    h0 = np.repeat(h0[None], 3 * n, 0)
    x[:n, 0], x[n : 2 * n], h0[2 * n :, 0, 0] = special, special[:, None], special
    states = c_files.run_single_steps(toolchain("c"), layer, tmp_path, x, h0, *SANITIZERS)
    for row, actual in enumerate(states):
        assert_close(actual, c_files.expected_states(layer, x[row : row + 1], h0[row])[0])


@pytest.mark.parametrize("name", helpers.ACTIVATIONS)
def test_activations_are_as_accurate_as_those_of_the_kernels(tmp_path, dtype, name):
    layer, chosen = c_files.layer_of(name, dtype), toolchain("c")
    x = activation_accuracy.arguments(dtype)
    file = c_files.compile_program(chosen, layer, tmp_path, "activations")
    results = c_files.run_program(chosen, [file], dtype, x).reshape(-1, 2)
    for column, function in enumerate(["sigmoid", name]):
        activation_accuracy.assert_within_ulp(function, dtype, results[:, column])


#: Writes the bytes of the arrays.
DUMP = """\
#include <stdio.h>
#include "model.h"

int main(void)
{
    fwrite(model_kernel_l0, sizeof model_kernel_l0, 1, stdout);
    fwrite(model_bias_l0, sizeof model_bias_l0, 1, stdout);
    return 0;
}
"""


def test_compiler_reads_the_numbers_that_were_written(tmp_path, dtype):
    """Without warnings, for numbers of all exponents."""
    layer = IndyGRU(70, 8, dtype=dtype)
    c_files.fill_with_extremes(layer)
    layer.to_c(tmp_path / "model.h")
    (tmp_path / "main.c").write_text(DUMP)
    c_files.compile_c(toolchain("c"), tmp_path / "main.c", tmp_path / "main")
    done = subprocess.run([tmp_path / "main"], capture_output=True, check=True)
    kernel, bias = (c_files.flushed(layer.parameters[name]) for name in ("kernel_l0", "bias_l0"))
    assert done.stdout == kernel.tobytes() + bias.tobytes()


@pytest.mark.parametrize("weights", ["float32", "bfloat16", "int8", "float64"])
def test_subnormal_weights_are_zeros_as_in_a_stream(tmp_path, weights):
    """Large inputs and states make products with subnormal numbers large."""
    dtype = np.float64 if weights == "float64" else np.float32
    layer, large = IndyGRU(2, 3, dtype=dtype, activation="identity"), np.sqrt(np.finfo(dtype).max)
    for name, array in layer.parameters.items():
        array[...] = np.finfo(dtype).tiny / 2 * (-1) ** np.arange(array.size).reshape(array.shape)
        if name.startswith("kernel"):
            array[1, ::2] = np.finfo(dtype).tiny * 2
    x, h0 = np.full((1, 2), large, dtype), np.full((1, 3), large, dtype)
    states = c_files.run_steps(toolchain("c"), layer, tmp_path, x, h0, weights=weights)
    compact = weights if weights in ("bfloat16", "int8") else None
    assert_close(states, c_files.stream_states(layer, x, h0, compact).astype(np.float64))


@pytest.mark.parametrize("n_inputs", [1, 16, 300])
def test_int8_sums_of_inputs_up_to_the_bound_of_the_page_are_finite(tmp_path, n_inputs):
    """The largest weights of all inputs: a gate of 0.5 makes the state half of the sum."""
    (bound,) = re.findall(r"magnitudes up to (\S+) / D", PAGE)
    layer = IndyGRU(n_inputs, 3, bias=False, activation="identity")
    for array in layer.parameters.values():
        array[...] = 0
    layer.parameters["kernel_l0"][:, 6:] = 1, -1, 1
    x, h0 = np.full((1, n_inputs), float(bound) / n_inputs, np.float32), np.zeros((1, 3), np.float32)
    states = c_files.run_steps(toolchain("c"), layer, tmp_path, x, h0, weights="int8")
    np.testing.assert_allclose(states[0, 0], np.array([0.5, -0.5, 0.5]) * float(bound), rtol=1e-5)


#: Two models, of which one has the other's name and a word of its identifiers.
NESTED_NAMES = """\
#include "a.h"
#include "a_recurrent.h"
#include "a_kernel_l0.h"

int main(void)
{
    float h[3 * A_STATE_SIZE] = {0}, x[A_INPUT_SIZE] = {1, 2};
    a_step(x, h);
    a_recurrent_step(x, h + A_STATE_SIZE);
    a_kernel_l0_step(x, h + 2 * A_STATE_SIZE);
    return h[0] == a_recurrent_output(h + A_STATE_SIZE)[0] || h[0] == a_kernel_l0_output(h + 2 * A_STATE_SIZE)[0];
}
"""


@pytest.mark.parametrize("language", ["c", "c++"])
@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_names_that_begin_with_another_name_work_in_one_program(tmp_path, language, weights):
    for seed, name in enumerate(["a", "a_recurrent", "a_kernel_l0"]):
        IndyGRU(2, 3, num_layers=2, seed=seed).to_c(tmp_path / f"{name}.h", name=name, weights=weights)
    (tmp_path / "main.c").write_text(NESTED_NAMES)
    c_files.compile_c(toolchain(language), tmp_path / "main.c", tmp_path / "main", "-Wno-float-equal")
    subprocess.run([tmp_path / "main"], check=True)


@pytest.mark.parametrize("weights", ["float32", "int8", "float64"])
def test_file_calls_no_function_of_a_library(tmp_path, weights):
    """Not even those that compilers insert, such as memset."""
    if not shutil.which("nm"):
        pytest.skip("nm is not installed")
    layer = c_files.layer_of("stack", np.float64 if weights == "float64" else np.float32)
    for optimisation in ("-O0", "-O3"):
        file = c_files.compile_object(toolchain("c"), layer, tmp_path, optimisation, weights=weights)
        done = subprocess.run(["nm", "--undefined-only", file], capture_output=True, text=True, check=True)
        assert done.stdout == ""


#: Two models and one of them a second time, in one program.
TWO_MODELS = """\
#include <stdio.h>
#include "amp.h"
#include "Pedal2.h"
#include "amp.h"

int main(void)
{
    float amp_state[AMP_STATE_SIZE] = {0}, x[AMP_INPUT_SIZE] = {1, 2};
    double pedal_state[PEDAL2_STATE_SIZE] = {0}, x2[PEDAL2_INPUT_SIZE] = {1, 2, 3};
    amp_step(x, amp_state);
    Pedal2_step(x2, pedal_state);
    printf("%.9g %.17g\\n", amp_output(amp_state)[0], Pedal2_output(pedal_state)[0]);
    return 0;
}
"""


@pytest.mark.parametrize("language", ["c", "c++"])
def test_files_of_several_models_work_in_one_program(tmp_path, language):
    layers = IndyGRU(2, 3, seed=0), IndyGRU(3, 2, num_layers=2, dtype=np.float64, seed=0)
    layers[0].to_c(tmp_path / "amp.h", name="amp", weights="bfloat16")
    layers[1].to_c(tmp_path / "Pedal2.h", name="Pedal2")
    (tmp_path / "main.c").write_text(TWO_MODELS)
    c_files.compile_c(
        toolchain(language), tmp_path / "main.c", tmp_path / "main", "-Wno-float-conversion", "-Wno-double-promotion"
    )
    done = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True)
    x = [np.array([1, 2], np.float32), np.array([1, 2, 3], np.float64)]
    expected = [
        c_files.expected_states(layer, row[None], np.zeros((layer.num_layers, layer.hidden_size)), weights)[0, -1, 0]
        for layer, row, weights in zip(layers, x, ["bfloat16", None], strict=True)
    ]
    np.testing.assert_allclose(np.array(done.stdout.split(), float), expected, rtol=1e-6)


def test_two_models_of_one_name_in_a_program_are_an_error(tmp_path):
    for seed in (0, 1):
        IndyGRU(2, 3, seed=seed).to_c(tmp_path / f"{seed}.h")
    source = tmp_path / "main.c"
    source.write_text('#include "0.h"\n#include "1.h"\n')
    done = subprocess.run([*toolchain("c").command, "-c", source], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode != 0
    assert "two different models have the name MODEL" in done.stderr


#: A model that reads its own output, which is a part of its states.
OWN_OUTPUT = """\
#include <stdio.h>
#include "model.h"

int main(void)
{
    float h[MODEL_STATE_SIZE] = {1.0f / 8, 2.0f / 8, 3.0f / 8, 4.0f / 8, 5.0f / 8, 6.0f / 8};
    int step;
    for (step = 0; step < 5; step++)
        model_step(model_output(h), h);
    return fwrite(model_output(h), sizeof(float), MODEL_OUTPUT_SIZE, stdout) != MODEL_OUTPUT_SIZE;
}
"""


def test_input_may_be_the_output_of_the_last_step(tmp_path):
    layer = IndyGRU(3, 3, num_layers=2, seed=0)
    layer.to_c(tmp_path / "model.h")
    source = tmp_path / "main.c"
    source.write_text(OWN_OUTPUT)
    c_files.compile_c(toolchain("c"), source, tmp_path / "main")
    done = subprocess.run([tmp_path / "main"], capture_output=True, check=True)
    stream = layer.stream()
    stream.state = np.array([[1, 2, 3], [4, 5, 6]], np.float32)[:, None] / 8
    for _ in range(5):
        y = stream.push(stream.state[-1, 0])
    assert_close(np.frombuffer(done.stdout, np.float32), y.astype(np.float64))


@pytest.fixture
def effect(tmp_path, monkeypatch):
    """The names of the page's Python program, and the library of its C file."""
    monkeypatch.chdir(tmp_path)
    names = {}
    exec("\n".join(re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)), names)
    (program,) = re.findall(r"`effect.c`:\n\n```c\n(.*?)```", PAGE, re.S)
    (tmp_path / "effect.c").write_text(program)
    c_files.compile_c(toolchain("c"), tmp_path / "effect.c", tmp_path / "effect.so", "-shared", "-fPIC")
    return names, ctypes.CDLL(str(tmp_path / "effect.so"))


def test_effect_of_the_page_computes_the_layer_and_its_readout(effect):
    """Two channels in turns, in blocks of several lengths, one of them in place."""
    names, library = effect
    layer, rng = names["layer"], np.random.default_rng(3)
    channels = np.zeros((2, layer.num_layers * layer.hidden_size), np.float32)
    signals = rng.uniform(-1, 1, (2, 100)).astype(np.float32)
    results = [signals[0].copy(), np.zeros_like(signals[1])]
    for start, stop in [(0, 1), (1, 64), (64, 100)]:
        for channel, source, result in zip(channels, [results[0], signals[1]], results, strict=True):
            addresses = (ctypes.c_void_p(array.ctypes.data) for array in (channel, source[start:], result[start:]))
            library.effect_process(*addresses, stop - start)
    for signal, result in zip(signals, results, strict=True):
        y, _ = layer(signal[:, None])
        assert_close(result, signal + y.astype(np.float64) @ names["readout"])


def test_sizes_of_the_page_are_those_of_the_files():
    rows = re.findall(r"^\| (\d+), (\d+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|$", PAGE, re.M)
    assert len(rows) == 5
    for n_inputs, n_units, *sizes in rows:
        layer = IndyGRU(int(n_inputs), int(n_units))
        for weights, size in zip(FORMATS[np.float32], sizes, strict=True):
            assert f"({size} bytes)" in c_files.text_of(layer, weights=weights)
