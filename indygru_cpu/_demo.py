"""`indygru-cpu demo`: train on real speech, show what was learned, and how the layer did it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from indygru_cpu import reference
from indygru_cpu._demo_model import SpeakerModel, standardised, train
from indygru_cpu._demo_plot import Progress, check_format, draw
from indygru_cpu.datasets import JapaneseVowels, Utterances, japanese_vowels

Array = np.ndarray[Any, Any]

#: Test accuracy of the paper that came with the data (see datasets.py).
PAPER = 0.941
#: Times that each side of the comparison with NumPy runs.
ROUNDS = 5


class DemoError(Exception):
    """Something that the user can mend; its text is all that is shown."""


@dataclass(frozen=True)
class Settings:
    """What the command line can change, and `penalty`. CONTRIBUTING.md says how the values were chosen."""

    hidden_size: int = 128
    penalty: float = 1e-4
    iterations: int = 50
    seed: int = 0
    # A pass takes milliseconds: on a busy machine, waiting for a second thread costs more than it brings.
    threads: int = 1
    plot: Path | None = None
    save: Path | None = None


def run(settings: Settings) -> None:
    """Run the demo and print what it finds."""
    start = perf_counter()
    check_needs(settings)
    # float64, because SciPy's optimiser works in it: nothing is converted on the way to the layer and back,
    # and rounding, which differs from tier to tier, stays far smaller than what could change the accuracy.
    data, scale = standardised(japanese_vowels(), np.float64)
    n_inputs, n_speakers = data.train.x.shape[2], int(data.train.speakers.max()) + 1
    sizes = n_inputs, settings.hidden_size, n_speakers
    model = SpeakerModel(sizes, dtype=np.float64, seed=settings.seed, num_threads=settings.threads)
    print("Nine speakers say the Japanese vowels /ae/. Who speaks?")
    print(f"  {len(data.train.lengths)} utterances to learn from, {len(data.test.lengths)} to be tested with")
    print(f"  {model.layer!r}, mean of its states, softmax: {model.vector.size} weights\n")
    progress = trained(model, data, settings)
    print_answers(model, data.test)
    print_comparison(model, data.train)
    print_stream(model, data.test)
    if settings.save:
        save(settings.save, {**model.parameters, **scale})
    if settings.plot:
        draw(progress, PAPER, inside(model, data.test), settings.plot)
        print(f"Plot of loss and accuracy, and of gates and states of one utterance: {settings.plot}\n")
    print(f"All of it took {perf_counter() - start:.1f} s.")


def check_needs(settings: Settings) -> None:
    """Find out before the training what would fail after it."""
    for module in ("scipy.optimize", "tqdm", *(["matplotlib"] if settings.plot else [])):
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


def trained(model: SpeakerModel, data: JapaneseVowels, settings: Settings) -> list[Progress]:
    """Train the model, with a progress bar where there is a terminal; say how it went."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    start, progress = perf_counter(), []
    with tqdm(total=settings.iterations, desc="L-BFGS", file=sys.stderr, disable=None, leave=False) as bar:

        def after_each(loss: float) -> None:
            progress.append(Progress(loss, model.accuracy(data.train), model.accuracy(data.test)))
            bar.set_postfix(loss=f"{loss:.4f}", training_accuracy=f"{progress[-1].train:.1%}", refresh=False)
            bar.update()

        train(model, data.train, settings.penalty, settings.iterations, after_each)
    first, last = progress[0], progress[-1]
    print(f"Trained by L-BFGS, full batch: {len(progress)} iterations in {perf_counter() - start:.1f} s")
    print(f"  loss {first.loss:.3f} -> {last.loss:.4f}, training accuracy {last.train:.1%}\n")
    return progress


def print_answers(model: SpeakerModel, part: Utterances) -> None:
    """Print the accuracy and who was taken for whom."""
    answers = model.logits(part).argmax(axis=1)
    right = int((answers == part.speakers).sum())
    share = right / len(answers)
    print(f"Test accuracy: {share:.1%} ({right} of {len(answers)}; the paper of 1999: {PAPER:.1%})\n")
    n_speakers = len(model.readout_bias)
    counts = np.zeros((n_speakers, n_speakers), int)
    np.add.at(counts, (part.speakers, answers), 1)
    print("Who spoke (rows), and who the model says it was (columns)")
    print("           " + "".join(f"{speaker:>4}" for speaker in range(1, n_speakers + 1)) + "    right")
    for speaker, row in enumerate(counts):
        cells = "".join(f"{count or '.':>4}" for count in row)
        print(f"  speaker {speaker + 1}{cells}{row[speaker] / row.sum():>9.1%}")
    print()


def print_comparison(model: SpeakerModel, part: Utterances) -> None:
    """Print how long the layer and its NumPy reference take for this training, and that they agree."""
    layer, (x, lengths, _) = model.layer, part
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


def inside(model: SpeakerModel, part: Utterances) -> dict[str, Array]:
    """Return what the layer sees and does over the longest utterance, each (T, inputs or units)."""
    i = int(part.lengths.argmax())
    x, layer = part.x[: part.lengths[i], i : i + 1], model.layer
    h0 = np.zeros((1, layer.hidden_size), x.dtype)
    kernel, recurrent_kernel, bias = layer.parameters.values()
    y, _, tape = reference.forward(x, h0, kernel, recurrent_kernel, bias)
    r, z, candidate = np.concatenate(tape.gates, axis=1)
    return {
        "x, inputs": x[:, 0],
        "r, reset gate": r,
        "z, update gate": z,
        "c, candidate": candidate,
        "h, state": y[:, 0],
    }


def stream(model: SpeakerModel, frames: Array) -> Iterator[Array]:
    """Yield the logits after each of the frames (T, D), as an application has them while somebody speaks."""
    states = model.layer.stream()
    mean = np.zeros((1, model.layer.hidden_size), frames.dtype)
    for count, frame in enumerate(frames, 1):
        mean += (states.push(frame[None]) - mean) / count
        yield model.readout(mean)[0]


def print_stream(model: SpeakerModel, part: Utterances) -> None:
    """Classify the utterances frame by frame, and print how well that agrees with the batch."""
    start = perf_counter()
    streams = [list(stream(model, part.x[:length, i])) for i, length in enumerate(part.lengths)]
    seconds = perf_counter() - start
    batch, streamed = model.logits(part), np.stack([logits[-1] for logits in streams])
    equal = int((batch.argmax(axis=1) == streamed.argmax(axis=1)).sum())
    print("The test utterances again, frame by frame, as a microphone would bring them")
    print(f"  {equal} of {len(batch)} answers equal the batch's, ", end="")
    print(f"largest difference of logits {np.abs(batch - streamed).max():.0e}")
    for count in (1, 3, 7):
        early = np.array([logits[count - 1].argmax() for logits in streams])
        print(f"  after frame {count}: {(early == part.speakers).mean():.1%} right")
    print(f"  {1e6 * seconds / part.lengths.sum():.0f} microseconds a frame, on one thread\n")


def save(path: Path, arrays: dict[str, Array]) -> None:
    """Write the weights, and the mean and deviation that the frames were standardised with."""
    with path.open("wb") as file:  # given a path, np.savez would append .npz to some names
        np.savez(file, **arrays)  # type: ignore[arg-type]
    print(f"Weights: {path}. To use them:")
    print(f"  saved = np.load({str(path)!r})")
    print("  layer.load_state_dict({name: saved[name] for name in layer.parameters})\n")
