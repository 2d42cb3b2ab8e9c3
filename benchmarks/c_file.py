"""C files of `IndyGRU.to_c` beside streams: time of a step and bytes of arrays; accuracy of each format in the demo.

``python benchmarks/c_file.py`` prints the tables of docs/c_file.md. It needs ``cc`` and the extra ``sklearn``. The
variable CFLAGS has additional flags for ``cc``, such as the processor to compile for.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from indygru_cpu import IndyGRU
from indygru_cpu._cli.demo import Settings
from indygru_cpu._cli.demo_model import SpeakerData, fitted_networks, new_classifier
from indygru_cpu._engine.quantization import quantize_int8, round_to_bfloat16, widen_bfloat16
from indygru_cpu.datasets import japanese_vowels

SHAPES = ((1, 16), (1, 40), (8, 64), (64, 64), (256, 256), (1024, 1024))
FORMATS = ("float32", "bfloat16", "int8")
REPETITIONS = 15
#: Prints the smallest of several times of a step, in microseconds.
PROGRAM = """\
#include <stdio.h>
#include <time.h>
#include "model.h"

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e6 * (double)t.tv_sec + 1e-3 * (double)t.tv_nsec;
}

int main(void)
{
    static float x[MODEL_INPUT_SIZE], h[MODEL_STATE_SIZE];
    double smallest = 1e9;
    int i, k;
    for (i = 0; i < MODEL_INPUT_SIZE; i++)
        x[i] = 0.1f * (float)(i % 7 + 1);
    for (i = 0; i < 200; i++) {
        double start = now(), mean;
        for (k = 0; k < 20; k++)
            model_step(x, h);
        mean = (now() - start) / 20;
        smallest = mean < smallest ? mean : smallest;
    }
    printf("%g\\n", smallest);
    return 0;
}
"""


def compile_steps(layer: IndyGRU, weights: str, folder: Path) -> Path:
    """The program for a layer."""
    layer.to_c(folder / "model.h", weights=weights)
    (folder / "main.c").write_text(PROGRAM)
    program = folder / weights
    flags = ["-std=gnu99", "-O3", *shlex.split(os.environ.get("CFLAGS", ""))]
    subprocess.run(["cc", *flags, folder / "main.c", "-o", program], check=True)
    return program


def microseconds_of_push(layer: IndyGRU) -> float:
    """The smallest of several times of `Stream.push` on one thread."""
    stream, x = layer.stream(num_threads=1), np.full(layer.input_size, 0.1, np.float32)
    times = []
    for _ in range(200):
        start = time.perf_counter()
        for _ in range(20):
            stream.push(x)
        times.append((time.perf_counter() - start) / 20)
    return 1e6 * min(times)


def print_times() -> None:
    """Steps of all formats and pushes, in turns."""
    print("| D, N | push | " + " | ".join(FORMATS) + " |")
    for n_inputs, n_units in SHAPES:
        layer = IndyGRU(n_inputs, n_units, seed=0)
        with tempfile.TemporaryDirectory() as folder:
            programs = [compile_steps(layer, weights, Path(folder)) for weights in FORMATS]
            rows = [
                [microseconds_of_push(layer), *(float(subprocess.check_output([program])) for program in programs)]
                for _ in range(REPETITIONS)
            ]
        smallest = " | ".join(f"{value:.2f}" for value in np.min(rows, axis=0))
        print(f"| {n_inputs}, {n_units} | {smallest} |", flush=True)


def as_stored(kernel: np.ndarray, weights: str) -> np.ndarray:
    """The numbers that a file of the format has for a kernel."""
    single = kernel.astype(np.float32)
    if weights == "bfloat16":
        single = widen_bfloat16(round_to_bfloat16(single))
    elif weights == "int8":
        integers, scales = quantize_int8(single)
        single = integers * scales
    return single


def print_accuracy() -> None:
    """Test accuracy of the demo's classifier with the kernels of each format; the mean and largest error of a state."""
    train, test = (SpeakerData.from_utterances(part) for part in japanese_vowels())
    settings = Settings()
    model = new_classifier(
        settings.networks, settings.seed, hidden_size=settings.hidden_size, max_iter=settings.epochs,
        num_threads=settings.threads,
    ).fit(train.X, train.y)  # fmt: skip
    networks = fitted_networks(model)
    kernels = [network.layer.parameters["kernel_l0"].copy() for network in networks]

    def states() -> np.ndarray:
        return np.concatenate([
            network.layer(network.standardize(frames)[:, None])[0] for network in networks for frames in test.X
        ])  # fmt: skip

    expected = states()
    print(f"| float64 | {model.score(test.X, test.y):.2%} | 0 | 0 |")
    for weights in FORMATS:
        for network, kernel in zip(networks, kernels, strict=True):
            network.layer.parameters["kernel_l0"][...] = as_stored(kernel, weights)
        errors = np.abs(states() - expected)
        accuracy = model.score(test.X, test.y)
        print(f"| {weights} | {accuracy:.2%} | {errors.mean():.2g} | {errors.max():.2g} |", flush=True)


if __name__ == "__main__":
    print_times()
    print_accuracy()
