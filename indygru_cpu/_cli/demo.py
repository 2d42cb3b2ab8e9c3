"""`indygru-cpu demo`: train on real speech, show what was learned, and how the layer did it."""

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
from indygru_cpu._cli.demo_model import Part, classifier, inside, listen, trained_networks
from indygru_cpu._cli.demo_plot import check_format, draw
from indygru_cpu._typing import Array
from indygru_cpu.datasets import Utterances, japanese_vowels

if TYPE_CHECKING:
    from sklearn.ensemble import VotingClassifier

    from indygru_cpu.sklearn._training import Network


#: Test accuracy of the paper that came with the data (see datasets.py).
PAPER = 0.941
#: Times that each side of the comparison with NumPy runs.
ROUNDS = 3


class DemoError(Exception):
    """Something that the user can mend; its text is all that is shown."""


@dataclass(frozen=True)
class Settings:
    """What the command line can change. CONTRIBUTING.md says how the values were chosen."""

    hidden_size: int = 64
    networks: int = 5
    epochs: int = 60
    seed: int = 0
    # A step of training takes a millisecond: on a busy machine, waiting for a second thread costs more than it brings.
    threads: int = 1
    plot: Path | None = None
    save: Path | None = None


def run(settings: Settings) -> None:
    """Run the demo and print what it finds."""
    start = perf_counter()
    check_needs(settings)
    data = japanese_vowels()
    train, test = (Part.of(part) for part in data)
    print("Nine speakers say the Japanese vowels /ae/. Who speaks?")
    print(f"  {len(train.y)} utterances to learn from, {len(test.y)} to be tested with")
    model = trained(train, settings)
    networks = trained_networks(model)
    print_answers(model, test)
    print_comparison(networks[0], data.train)
    heard = print_listening(model, test)
    if settings.save:
        save(settings.save, networks)
    if settings.plot:
        losses = [member.loss_curve_ for member in model.estimators_]
        draw(losses, heard, PAPER, inside(networks[0], max(test.X, key=len)), settings.plot)
        print(f"Plot of losses and accuracy, and of gates and states of one utterance: {settings.plot}\n")
    print(f"All of it took {perf_counter() - start:.1f} s.")


def check_needs(settings: Settings) -> None:
    """Find out before the training what would fail after it."""
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
    """Open the file as it will be opened later: only that tells for sure. Nothing is left behind."""
    existed = path.exists()
    try:
        path.open("ab").close()
    except OSError as error:
        raise DemoError(f"{option} {path}: cannot write there: {error.strerror}") from None
    if not existed:
        path.unlink()


def trained(train: Part, settings: Settings) -> VotingClassifier:
    """Train the networks, with progress bars where there is a terminal; say how it went."""
    start = perf_counter()
    model = classifier(
        settings.networks, settings.seed, hidden_size=settings.hidden_size, max_iter=settings.epochs,
        num_threads=settings.threads, verbose=sys.stderr.isatty(),
    ).fit(train.X, train.y)  # fmt: skip
    member, curves = model.estimators_[0], np.array([each.loss_curve_ for each in model.estimators_])
    n_weights = sum(array.size for array in member.network_.parameters.values())
    print(f"  {len(curves)} times {member.network_.layer!r}, its states' {', '.join(member.pooling)}, softmax:")
    print(f"  {n_weights} weights each; their mean probability decides\n")
    print(f"Trained by Adam: {curves.shape[1]} epochs each, in {perf_counter() - start:.1f} s")
    first, last = curves.mean(axis=0)[[0, -1]]
    print(f"  loss {first:.3f} -> {last:.4f}, training accuracy {model.score(train.X, train.y):.1%}\n")
    return model


def print_answers(model: VotingClassifier, part: Part) -> None:
    """Print the accuracy and who was taken for whom."""
    from sklearn.metrics import confusion_matrix

    counts = confusion_matrix(part.y, model.predict(part.X))
    right, total = int(counts.trace()), int(counts.sum())
    print(f"Test accuracy: {right / total:.1%} ({right} of {total}; the paper of 1999: {PAPER:.1%})\n")
    print("Who spoke (rows), and who the model says it was (columns)")
    print("           " + "".join(f"{speaker:>4}" for speaker in model.classes_ + 1) + "    right")
    for speaker, row in enumerate(counts):
        cells = "".join(f"{count or '.':>4}" for count in row)
        print(f"  speaker {speaker + 1}{cells}{row[speaker] / row.sum():>9.1%}")
    print()


def print_comparison(network: Network, part: Utterances) -> None:
    """Print how long the layer and its NumPy reference take for the training utterances, and that they agree."""
    layer, x, lengths = network.layer, network.standardised(part.x), part.lengths
    kernel, recurrent_kernel, bias = layer.parameters.values()
    h0 = np.zeros((len(lengths), layer.hidden_size), x.dtype)
    dy = np.random.default_rng(0).standard_normal((len(x), *h0.shape))

    def reference_forward() -> tuple[Array, Array, reference.Tape]:
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
    print(f"The layer beside its NumPy reference on this job (medians of {ROUNDS} runs in turn)")
    print("               layer       NumPy   NumPy / layer")
    for name in ("forward", "backward"):
        ours, theirs = seconds[name, "layer"], seconds[name, "NumPy"]
        print(f"  {name:<8} {1e3 * ours:>7.2f} ms {1e3 * theirs:>8.2f} ms {theirs / ours:>15.1f}")
    pairs = zip((y, *grads.parameters.values()), (reference_y, *reference_grads[2:]), strict=True)
    print(f"  largest scaled difference of results: {max(scaled_difference(*pair) for pair in pairs):.0e}\n")


def medians(jobs: dict[Any, Callable[[], object]]) -> dict[Any, float]:
    """Seconds of each job, run in turn so that a busy moment of the machine meets them all."""
    seconds: dict[Any, list[float]] = {name: [] for name in jobs}
    for _ in range(ROUNDS):
        for name, job in jobs.items():
            start = perf_counter()
            job()
            seconds[name].append(perf_counter() - start)
    return {name: median(values) for name, values in seconds.items()}


def scaled_difference(a: Array, b: Array) -> float:
    """Return max |a - b| / max(1, max |b|)."""
    return float(np.abs(a - b).max() / max(1, np.abs(b).max()))


def print_listening(model: VotingClassifier, part: Part) -> Array:
    """Classify frame by frame, print how that agrees with the batch; return the accuracy after 1, 2, ... frames."""
    start = perf_counter()
    streams = [np.stack(list(listen(model, frames))) for frames in part.X]
    seconds = perf_counter() - start
    batch, streamed = model.predict_proba(part.X), np.stack([each[-1] for each in streams])
    equal = int((batch.argmax(axis=1) == streamed.argmax(axis=1)).sum())
    frames = range(max(map(len, streams)))
    right = [[each[min(frame, len(each) - 1)].argmax() for each in streams] == part.y for frame in frames]
    heard: Array = np.mean(right, axis=1)
    print("The test utterances again, frame by frame, as a microphone would bring them")
    print(f"  {equal} of {len(batch)} answers equal the batch's, ", end="")
    print(f"largest difference of probabilities {np.abs(batch - streamed).max():.0e}")
    for count in (1, 3, 7):
        print(f"  after frame {count}: {heard[count - 1]:.1%} right")
    print(f"  {1e6 * seconds / sum(map(len, streams)):.0f} microseconds a frame, on one thread\n")
    return heard


def save(path: Path, networks: list[Network]) -> None:
    """Write the weights of all networks, and the mean and deviation that the frames were standardised with."""
    arrays = {f"{i}/{name}": array for i, each in enumerate(networks) for name, array in each.parameters.items()}
    scale = {"mean": networks[0].mean, "std": networks[0].scale}
    with path.open("wb") as file:  # given a path, np.savez would append .npz to some names
        np.savez(file, **arrays, **scale)  # type: ignore[arg-type, unused-ignore]
    print(f"Weights: {path}. To use those of the first network:")
    print(f"  saved = np.load({str(path)!r})")
    print('  layer.load_state_dict({name: saved["0/" + name] for name in layer.parameters})\n')
