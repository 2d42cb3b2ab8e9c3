"""`indygru-cpu demo`: train a speaker classifier on real speech, and report accuracy, speed and streaming results."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from indygru_cpu import reference
from indygru_cpu._cli.demo_model import (
    SpeakerData,
    fitted_networks,
    layer_signals,
    new_baselines,
    new_classifier,
    stream_probabilities,
)
from indygru_cpu._cli.demo_plot import check_format, draw
from indygru_cpu._typing import Array
from indygru_cpu.datasets import Utterances, japanese_vowels

if TYPE_CHECKING:
    from sklearn.ensemble import VotingClassifier

    from indygru_cpu.sklearn._network import Network


#: Test accuracy of the paper that introduced the data set (see datasets.py).
PAPER_ACCURACY = 0.941
#: Repetitions of each timed job.
REPETITIONS = 3


class DemoError(Exception):
    """An error that the user can fix. The command line prints its text only."""


@dataclass(frozen=True)
class Settings:
    """Options of the command line. benchmarks/select_demo_settings.py selected the defaults."""

    hidden_size: int = 64
    networks: int = 5
    epochs: int = 60
    seed: int = 0
    # A training step takes about 1 ms: on a busy machine, a second thread costs more in waiting than it saves.
    threads: int = 1
    plot: Path | None = None
    save: Path | None = None


def run(settings: Settings) -> None:
    """Run the demo and print its results."""
    start = perf_counter()
    check_requirements(settings)
    data = japanese_vowels()
    train, test = (SpeakerData.from_utterances(part) for part in data)
    print("Task: identify which of nine speakers utters the Japanese vowels /ae/")
    print(f"  {len(train.y)} training utterances, {len(test.y)} test utterances")
    model = train_classifier(train, settings)
    networks = fitted_networks(model)
    print_test_accuracy(model, test)
    print_baselines(train, test)
    print_comparison(networks[0], data.train)
    accuracy_by_frame = print_streaming(model, test)
    if settings.save:
        save(settings.save, networks)
    if settings.plot:
        losses = [member.loss_curve_ for member in model.estimators_]
        signals = layer_signals(networks[0], max(test.X, key=len))
        draw(losses, accuracy_by_frame, PAPER_ACCURACY, signals, settings.plot)
        print(f"Plot of losses, accuracy, gates and states: {settings.plot}\n")
    print(f"Total time: {perf_counter() - start:.1f} s")


def check_requirements(settings: Settings) -> None:
    """Raise DemoError before the training for everything that would fail after it."""
    for module in ("sklearn", "tqdm", *(["matplotlib"] if settings.plot else [])):
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise DemoError(f'needs {module} ({error}). Run: pip install "indygru_cpu[demo]"') from None
    for option, path in (("--plot", settings.plot), ("--save", settings.save)):
        if path:
            check_writable(option, path)
    if settings.plot:
        try:
            check_format(settings.plot)
        except ValueError as error:
            raise DemoError(f"--plot {settings.plot}: {error}") from None


def check_writable(option: str, path: Path) -> None:
    """Raise DemoError unless the file can be opened for writing. No new file remains."""
    existed = path.exists()
    try:
        path.open("ab").close()
    except OSError as error:
        raise DemoError(f"{option} {path}: cannot write there: {error.strerror}") from None
    if not existed:
        path.unlink()


def train_classifier(train: SpeakerData, settings: Settings) -> VotingClassifier:
    """Train the networks, with progress bars if stderr is a terminal, and print a summary."""
    start = perf_counter()
    model = new_classifier(
        settings.networks, settings.seed, hidden_size=settings.hidden_size, max_iter=settings.epochs,
        num_threads=settings.threads, verbose=sys.stderr.isatty(),
    ).fit(train.X, train.y)  # fmt: skip
    member, curves = model.estimators_[0], np.array([fitted.loss_curve_ for fitted in model.estimators_])
    n_weights = sum(array.size for array in member.network_.parameters.values())
    print(f"  ensemble of {len(curves)} times {member.network_.layer!r},")
    print(f"  pooling of states by {', '.join(member.pooling)}, softmax; {n_weights} weights each\n")
    print(f"Trained by Adam: {curves.shape[1]} epochs each, in {perf_counter() - start:.1f} s")
    first, last = curves.mean(axis=0)[[0, -1]]
    print(f"  loss {first:.3f} -> {last:.4f}, training accuracy {model.score(train.X, train.y):.1%}\n")
    return model


def print_test_accuracy(model: VotingClassifier, part: SpeakerData) -> None:
    """Print the accuracy and the confusion matrix."""
    from sklearn.metrics import confusion_matrix

    counts = confusion_matrix(part.y, model.predict(part.X))
    n_correct, total = int(counts.trace()), int(counts.sum())
    print(f"Test accuracy: {n_correct / total:.1%} ({n_correct} of {total}; the paper of 1999: {PAPER_ACCURACY:.1%})\n")
    print("Confusion matrix: actual speakers (rows), predicted speakers (columns)")
    print("           " + "".join(f"{speaker:>4}" for speaker in model.classes_ + 1) + "  correct")
    for speaker, row in enumerate(counts):
        cells = "".join(f"{count or '.':>4}" for count in row)
        print(f"  speaker {speaker + 1}{cells}{row[speaker] / row.sum():>9.1%}")
    print()


def print_baselines(train: SpeakerData, test: SpeakerData) -> None:
    """Print the test accuracy of simple classifiers of whole utterances."""
    print("Baselines: simple classifiers of whole utterances, trained on the same ones")
    for name, classifier in new_baselines().items():
        accuracy = classifier.fit(train.X, train.y).score(test.X, test.y)
        print(f"  {name:<46}{accuracy:>6.1%} ({round(accuracy * len(test.y))} of {len(test.y)})")
    print("  These need whole utterances; the network also predicts while one arrives: see the streaming below.\n")


def print_comparison(network: Network, part: Utterances) -> None:
    """Print the times of the layer and of the NumPy reference on the training utterances, and their difference."""
    layer, x, lengths = network.layer, network.standardize(part.x), part.lengths
    kernel, recurrent_kernel, bias = layer.parameters.values()
    h0 = np.zeros((len(lengths), layer.hidden_size), x.dtype)
    dy = np.random.default_rng(0).standard_normal((len(x), *h0.shape))

    def reference_forward() -> tuple[Array, Array, reference.ReferenceTape]:
        return reference.forward(x, h0, kernel, recurrent_kernel, bias, lengths=lengths)

    y, _, tape = layer.forward(x, lengths=lengths)
    reference_y, _, reference_tape = reference_forward()
    grads, reference_grads = layer.backward(tape, dy), reference.backward(reference_tape, dy, h0)
    seconds = medians(
        {
            ("forward", "layer"): lambda: layer.forward(x, lengths=lengths),
            ("forward", "NumPy"): reference_forward,
            ("backward", "layer"): lambda: layer.backward(tape, dy),
            ("backward", "NumPy"): lambda: reference.backward(reference_tape, dy, h0),
        }
    )
    print(f"Layer and NumPy reference on the training utterances (medians of {REPETITIONS} alternating runs)")
    print("               layer       NumPy   NumPy / layer")
    for name in ("forward", "backward"):
        layer_time, numpy_time = seconds[name, "layer"], seconds[name, "NumPy"]
        print(f"  {name:<8} {1e3 * layer_time:>7.2f} ms {1e3 * numpy_time:>8.2f} ms {numpy_time / layer_time:>15.1f}")
    pairs = zip((y, *grads.parameters.values()), (reference_y, *reference_grads[2:]), strict=True)
    print(f"  largest scaled difference of results: {max(scaled_difference(*pair) for pair in pairs):.0e}\n")


def medians(jobs: dict[Any, Callable[[], object]]) -> dict[Any, float]:
    """Return the median time of each job in seconds. Jobs alternate, so that a busy period affects all of them."""
    seconds: dict[Any, list[float]] = {name: [] for name in jobs}
    for _ in range(REPETITIONS):
        for name, job in jobs.items():
            start = perf_counter()
            job()
            seconds[name].append(perf_counter() - start)
    return {name: median(values) for name, values in seconds.items()}


def scaled_difference(a: Array, b: Array) -> float:
    """Return max |a - b| / max(1, max |b|)."""
    return float(np.abs(a - b).max() / max(1, np.abs(b).max()))


def print_streaming(model: VotingClassifier, part: SpeakerData) -> Array:
    """Classify frame by frame, compare with batch predictions, and return the accuracy after 1, 2, ... frames."""
    start = perf_counter()
    streams = [np.stack(list(stream_probabilities(model, frames))) for frames in part.X]
    seconds = perf_counter() - start
    batch, streamed = model.predict_proba(part.X), np.stack([probabilities[-1] for probabilities in streams])
    equal = int((batch.argmax(axis=1) == streamed.argmax(axis=1)).sum())
    frames = range(max(map(len, streams)))
    predicted = [[p[min(frame, len(p) - 1)].argmax() for p in streams] for frame in frames]
    accuracy_by_frame: Array = (np.array(predicted) == part.y).mean(axis=1)
    print("Streaming: the test utterances frame by frame")
    print(f"  {equal} of {len(batch)} predictions equal those of the batch, ", end="")
    print(f"largest difference of probabilities {np.abs(batch - streamed).max():.0e}")
    for count in (1, 3, 7):
        print(f"  after frame {count}: {accuracy_by_frame[count - 1]:.1%} correct")
    print(f"  {1e6 * seconds / sum(map(len, streams)):.0f} microseconds per frame, on one thread: ", end="")
    print("a step of each network, and pooling and vote in NumPy\n")
    return accuracy_by_frame


def save(path: Path, networks: list[Network]) -> None:
    """Write the weights of all networks, and the mean and standard deviation that standardize the frames."""
    arrays = {f"{i}/{name}": array for i, network in enumerate(networks) for name, array in network.parameters.items()}
    scale = {"mean": networks[0].mean, "std": networks[0].scale}
    with path.open("wb") as file:  # np.savez appends .npz to a path without that suffix
        np.savez(file, **arrays, **scale)  # type: ignore[arg-type, unused-ignore]
    print(f"Weights: {path}. To load those of the first network:")
    print(f"  saved = np.load({str(path)!r})")
    print('  layer.load_state_dict({name: saved["0/" + name] for name in layer.parameters})\n')
