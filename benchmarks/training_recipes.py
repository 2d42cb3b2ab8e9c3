"""Training recipes: the tables of docs/training_recipes.md. Each row changes one setting of an example.

    python benchmarks/training_recipes.py adding  # examples/adding_problem.py
    python benchmarks/training_recipes.py digits  # examples/digits_by_pixels.py
    python benchmarks/training_recipes.py grid    # the digits with torch.nn.GRU too: a grid of settings with seed 0
    python benchmarks/training_recipes.py seeds   # the best setting of each grid with other seeds
    python benchmarks/training_recipes.py plot    # writes docs/digits_by_pixels.svg from the recorded runs

Runs are recorded in history/training_recipes.jsonl, and a recorded run is not repeated. Several commands may run at the
same time, because times are processor times of one thread, which other programs change less than times by the clock.
They include the test after each epoch.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch

from indygru_cpu import IndyGRU
from indygru_cpu.initializers import Chrono, Constant, RandomUniform
from indygru_cpu.torch import IndyGRU as TorchIndyGRU

ROOT = Path(__file__).parent.parent
LOG, PICTURE = ROOT / "benchmarks" / "history" / "training_recipes.jsonl", ROOT / "docs" / "digits_by_pixels.svg"
sys.path.append(str(ROOT / "examples"))

import adding_problem  # noqa: E402
import digits_by_pixels  # noqa: E402

#: Test accuracy to reach.
TARGET = 0.95
N_STEPS = 400

Options = dict[str, Any]
Record = dict[str, Any]
ADDING: dict[str, Options] = {
    "the example": {},
    "biases of the update gate 1, the default": {"bias": 1},
    "biases of the update gate 3": {"bias": 3},
    "biases of the update gate 5": {"bias": 5},
    "biases of the update gate `Chrono(400)`": {"bias": "chrono"},
    "recurrent weights 0": {"recurrent": 0},
    "learning rate 0.003": {"learning_rate": 0.003},
    "learning rate 0.01": {"learning_rate": 0.01},
    "learning rate 0.1": {"learning_rate": 0.1},
    "largest gradient norm 0.1": {"max_norm": 0.1},
    "no clipping": {"max_norm": 1e9},
    "16 rows a batch": {"batch_size": 16},
    "64 rows a batch": {"batch_size": 64},
    "32 units": {"hidden_size": 32},
    "128 units": {"hidden_size": 128},
    "two layers of 32 units": {"hidden_size": 32, "num_layers": 2},
}


def adding(
    seed: int, *, bias: float | str = "log-uniform", recurrent: float = 1, hidden_size: int = 64, num_layers: int = 1,
    **options: Any,
) -> Record:  # fmt: skip
    """Train on the adding problem, and return the test errors."""
    rng = np.random.default_rng(seed)
    layer = IndyGRU(2, hidden_size, num_layers, seed=rng, num_threads=1)
    initializers = {"log-uniform": RandomUniform(0, math.log(N_STEPS), rng), "chrono": Chrono(N_STEPS, rng)}
    for number in range(num_layers):
        initializer = initializers[bias] if isinstance(bias, str) else Constant(bias)
        layer.parameters[f"bias_l{number}"][hidden_size : 2 * hidden_size] = initializer((hidden_size,))
        layer.parameters[f"recurrent_kernel_l{number}"][...] *= recurrent
    start = process_time()
    errors = [error for _, error in adding_problem.train(layer, rng, N_STEPS, 800, **options)]
    return {"errors": errors, "seconds": process_time() - start}


DIGITS: dict[str, Options] = {
    "the example": {},
    "default initial biases": {"biases": False},
    "contrast 3": {"contrast": 3},
    "learning rate 0.04": {"learning_rate": 0.04},
    "no dropout": {"dropout": 0},
    "one layer of 128 units": {"num_layers": 1, "hidden_size": 128, "dropout": 0},
    "two layers of 64 units": {"num_layers": 2},
    "three layers of 32 units": {"hidden_size": 32},
    "two layers of 64 units in both directions": {"num_layers": 2, "bidirectional": True},
}


def digits(
    seed: int, *, cell: str = "IndyGRU", biases: bool = True, contrast: float = 10, hidden_size: int = 64,
    num_layers: int = 3, dropout: float = 0.1, bidirectional: bool = False, learning_rate: float = 0.02,
    max_norm: float = 0.1, n_epochs: int = 30,
) -> Record:  # fmt: skip
    """Train until the target is reached, and return the test accuracies and the seconds after each epoch."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    cls = {"IndyGRU": TorchIndyGRU, "torch.nn.GRU": torch.nn.GRU}[cell]
    rnn = cls(1, hidden_size, num_layers, dropout=dropout, bidirectional=bidirectional)
    if biases and cell == "IndyGRU":
        digits_by_pixels.long_memory(rnn, 64)
    model, data = digits_by_pixels.Digits(rnn), digits_by_pixels.digits(contrast)
    start, accuracies, seconds = process_time(), [], []
    for accuracy in digits_by_pixels.train(model, data, n_epochs, learning_rate, max_norm):
        accuracies.append(accuracy)
        seconds.append(process_time() - start)
        if accuracy >= TARGET:
            break
    return {"accuracies": accuracies, "seconds": seconds}


CELLS: dict[str, Options] = {
    "IndyGRU, three layers of 64": {"cell": "IndyGRU"},
    "torch.nn.GRU, one layer of 128": {"cell": "torch.nn.GRU", "num_layers": 1, "hidden_size": 128, "dropout": 0},
    "torch.nn.GRU, one layer of 64": {"cell": "torch.nn.GRU", "num_layers": 1, "hidden_size": 64, "dropout": 0},
}
GRID: list[Options] = [
    {"contrast": contrast, "max_norm": max_norm, "learning_rate": rate}
    for max_norm in (0.1, 1)
    for contrast in (1, 10)
    for rate in (0.01, 0.02)
]


def recorded(kind: str, seed: int, settings: Options) -> Record | None:
    """The recorded run of these settings."""
    lines = LOG.read_text(encoding="utf-8").splitlines() if LOG.exists() else []
    keys = {"kind": kind, "seed": seed, "settings": settings}
    return next((run for run in map(json.loads, lines) if keys.items() <= run.items()), None)


def run(kind: str, seed: int, settings: Options) -> Record:
    """The recorded run of these settings, which is made now if there is none."""
    if record := recorded(kind, seed, settings):
        return record
    result = {"adding": adding, "digits": digits}[kind](seed, **settings)
    record = {"kind": kind, "seed": seed, "settings": settings, **result}
    with LOG.open("a", encoding="utf-8") as log:
        log.write(json.dumps(record) + "\n")
    return record


def seconds_to_target(record: Record) -> float:
    """Infinity if the run did not reach the target."""
    pairs = zip(record["accuracies"], record["seconds"], strict=True)
    return next((seconds for accuracy, seconds in pairs if accuracy >= TARGET), math.inf)


def row(*cells: object) -> None:
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def adding_row(title: str, record: Record) -> None:
    errors = record["errors"]
    row(title, f"{errors[len(errors) // 4 - 1]:.5f}", f"{errors[-1]:.5f}", f"{record['seconds']:.1f} s")


def digits_row(title: str, record: Record) -> None:
    seconds, n_epochs = seconds_to_target(record), len(record["accuracies"])
    reached = f"{seconds:.1f} s, epoch {record['seconds'].index(seconds) + 1}" if seconds < math.inf else "not reached"
    row(title, f"{max(record['accuracies']):.1%}", reached, f"{record['seconds'][-1] / n_epochs:.2f} s")


def best_settings(cell: str) -> Options:
    """The settings of the grid that reach the target first with seed 0."""
    runs = [record for setting in GRID if (record := recorded("digits", 0, CELLS[cell] | setting))]
    if not runs:
        raise SystemExit(f"{cell}: no run of its grid is recorded")
    return min(runs, key=seconds_to_target)["settings"]


def print_seeds(n_seeds: int) -> None:
    for cell in CELLS:
        settings = best_settings(cell)
        times = []
        for seed in range(1, n_seeds + 1):
            record = run("digits", seed, settings)
            times.append(seconds_to_target(record))
            digits_row(f"{cell}, seed {seed}", record)
        n_reached = sum(time < math.inf for time in times)
        print(f"{cell}: {n_reached} of {n_seeds} seeds, median {statistics.median(times):.1f} s, with {settings}")


def plot() -> None:
    """Accuracy against processor time of the best setting of each grid, a line for each recorded seed."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams.update({"svg.hashsalt": "indygru_cpu", "font.size": 9, "svg.fonttype": "none"})
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.add_subplot(xlabel="processor time on one thread, s", ylabel="test accuracy", ylim=(0.3, 1))
    for cell, color in zip(list(CELLS)[:2], ("tab:blue", "tab:gray"), strict=True):
        settings = best_settings(cell)
        runs = [record for seed in range(1, 100) if (record := recorded("digits", seed, settings))]
        for number, record in enumerate(runs):
            label = None if number else f"{cell} units: {len(runs)} seeds"
            axes.plot(record["seconds"], record["accuracies"], color=color, linewidth=1, label=label)
    axes.axhline(TARGET, color="tab:red", linewidth=1)
    axes.legend(loc="lower right")
    figure.savefig(PICTURE, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=["adding", "digits", "grid", "seeds", "plot"])
    parser.add_argument("--only", default="", help="rows whose title contains this text")
    parser.add_argument("--seed", type=int, default=0, help="of the tables adding and digits")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds of the table seeds")
    options = parser.parse_args()
    if options.table == "plot":
        plot()
    elif options.table == "seeds":
        print_seeds(options.seeds)
    elif options.table == "grid":
        for title, cell in CELLS.items():
            for setting in GRID:
                text = ", ".join([title, *(f"{name} {value}" for name, value in setting.items())])
                if options.only in text:
                    digits_row(text, run("digits", 0, cell | setting))
    else:
        rows, print_row = (ADDING, adding_row) if options.table == "adding" else (DIGITS, digits_row)
        for title, changes in rows.items():
            if options.only in title:
                print_row(title, run(options.table, options.seed, changes))


if __name__ == "__main__":
    main()
