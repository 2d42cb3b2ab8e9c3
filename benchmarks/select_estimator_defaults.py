"""Choose the defaults of the estimators by cross-validation on several data sets, and compare with other classifiers.

``python benchmarks/select_estimator_defaults.py PASS ...`` prints one table a PASS, for docs/sklearn.md: ``options``,
``baselines`` or ``gru``. The data sets come with this package, scikit-learn and aeon (``pip install
aeon``). Of Japanese Vowels, only the training utterances are used. Three folds with a fixed seed, shuffled and
stratified by class; each is scored by an estimator that is fitted to the others. The criterion is the mean
cross-entropy, because accuracies of small data sets differ by a few sequences only.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from time import perf_counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from indygru_cpu import IndyGRU
from indygru_cpu._cli.demo_model import SpeakerData, interpolated_frames
from indygru_cpu.datasets import japanese_vowels
from indygru_cpu.sklearn import IndyGRUClassifier

Array = np.ndarray[Any, Any]
Data = tuple[list[Array], Array]
Scores = tuple[float, float]
Options = dict[str, Any]

#: Data sets of aeon.
AEON = ("BasicMotions", "ItalyPowerDemand", "GunPoint", "ArrowHead", "PickupGestureWiimoteZ")
#: At most this many sequences of a data set are used, drawn with a fixed seed.
MAX_SEQUENCES = 500

ALL: Options = {"pooling": ("mean", "last", "max")}
FIXED: Options = {"dropout": 0.0, "noise": 0.0, "alpha": 1e-4, "batch_size": 32, "learning_rate": 0.01, "max_iter": 60,
                  "hidden_size": 64, "num_layers": 1, "random_state": 0, "num_threads": 1}  # fmt: skip
#: Changes of FIXED: the pooling, then one other option each.
OPTIONS: list[Options] = [
    *({"pooling": pooling} for pooling in ("mean", "last", "max", ("mean", "max"), ("mean", "last"))),
    ALL,
    {**ALL, "num_layers": 2},
    {**ALL, "batch_size": 16},
    *({**ALL, "noise": value} for value in (0.1, 0.3)),
    {**ALL, "learning_rate": 0.03},
    {**ALL, "dropout": 0.3},
]


def to_sequences(X: Any) -> list[Array]:
    """Convert aeon's arrays (channels, steps) to (steps, channels)."""
    return [np.ascontiguousarray(np.asarray(series, np.float64).T) for series in X]


def digits() -> Data:
    """Images of digits as sequences of 8 rows of 8 pixels."""
    data = load_digits()
    return list(data.images / 16), data.target


def classification_data() -> dict[str, Data]:
    """Read every data set with classes."""
    from aeon.datasets import load_classification

    part = SpeakerData.from_utterances(japanese_vowels().train)
    sets: dict[str, Data] = {"JapaneseVowels": (part.X, part.y), "digits by rows": digits()}
    for name in AEON:
        X, y = load_classification(name)
        sets[name] = to_sequences(X), np.unique(y, return_inverse=True)[1]
    return {name: limited(*data) for name, data in sets.items()}


def limited(X: list[Array], y: Array) -> Data:
    """Draw MAX_SEQUENCES of the sequences."""
    if len(X) <= MAX_SEQUENCES:
        return X, y
    rows = np.sort(np.random.default_rng(0).permutation(len(X))[:MAX_SEQUENCES])
    return [X[i] for i in rows], y[rows]


def summaries(X: list[Array]) -> Array:
    """Return mean, standard deviation, minimum, maximum, first and last value of each input, as one row."""
    return np.array([np.concatenate([x.mean(0), x.std(0), x.min(0), x.max(0), x[0], x[-1]]) for x in X])


def baseline(features: Callable[[list[Array]], Array], model: BaseEstimator) -> BaseEstimator:
    """Make a pipeline: features of fixed size, standardized, and a simple model."""
    return make_pipeline(FunctionTransformer(features), StandardScaler(), model)


class FullGRU:
    """torch.nn.GRU with the attributes and methods of `IndyGRU` that the estimators use: the training is the same."""

    def __init__(self, layer: IndyGRU, rng: np.random.Generator) -> None:
        torch.manual_seed(int(rng.integers(2**31)))
        self.input_size, self.hidden_size, self.num_layers = layer.input_size, layer.hidden_size, layer.num_layers
        self.bidirectional, self.dtype = False, layer.dtype
        kind = {4: torch.float32, 8: torch.float64}[layer.dtype.itemsize]
        self._gru = torch.nn.GRU(
            layer.input_size, layer.hidden_size, layer.num_layers, dropout=layer.dropout, batch_first=True, dtype=kind
        )
        self.parameters = {name: array.data.numpy() for name, array in self._gru.named_parameters()}  # live views

    def ragged(self, values: Array, offsets: Array, *, tape: bool = False) -> tuple[Array, None, torch.Tensor]:
        """Pad the sequences, and return the states of their steps."""
        lengths = np.diff(offsets)
        mask = torch.from_numpy(np.arange(lengths.max()) < lengths[:, None])
        x = torch.zeros((*mask.shape, values.shape[1]), dtype=self._gru.weight_ih_l0.dtype)
        x[mask] = torch.from_numpy(np.ascontiguousarray(values))
        self._gru.train(tape)
        with torch.set_grad_enabled(tape):
            y = self._gru(x)[0][mask]
        return y.detach().numpy(), None, y

    def backward(self, tape: torch.Tensor, dy: Array) -> SimpleNamespace:
        """Return the gradients of the parameters."""
        gradients = torch.autograd.grad(tape, list(self._gru.parameters()), torch.from_numpy(np.ascontiguousarray(dy)))
        named = zip(self.parameters, gradients, strict=True)
        return SimpleNamespace(parameters={name: gradient.numpy().copy() for name, gradient in named})


class FullGRUClassifier(IndyGRUClassifier):
    """The classifier with a full GRU in the place of IndyGRU."""

    def _initial_network(self, *arguments: Any) -> Any:
        network = super()._initial_network(*arguments)
        return replace(network, layer=FullGRU(network.layer, arguments[-1]))


def classification_scores(model: Any, data: Data) -> Scores:
    """Return cross-entropy, and accuracy in percent, of the held-out sequences."""
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    p = cross_val_predict(model, *data, cv=folds, method="predict_proba")
    return log_loss(data[1], p), 100 * accuracy_score(data[1], p.argmax(axis=1))


def print_table(models: dict[str, Any], sets: dict[str, Data], scores: Callable[[Any, Data], Scores]) -> None:
    """Print one line a model: both scores of each data set, their means, and the time."""
    print("| model | " + " | ".join(sets) + " | mean | seconds |\n|---|" + "---|" * (len(sets) + 2))
    for name, model in models.items():
        start = perf_counter()
        rows = np.array([scores(model, data) for data in sets.values()])
        cells = [f"{loss:.3f}, {quality:.3g}" for loss, quality in (*rows, rows.mean(axis=0))]
        print(f"| {name} | " + " | ".join(cells) + f" | {perf_counter() - start:.0f} |", flush=True)


def described(options: Options) -> str:
    """Format options."""
    return ", ".join(f"{name}={value!r}" for name, value in options.items())


def print_options() -> None:
    """Print the scores of all options."""
    models = {described(each): IndyGRUClassifier(**FIXED | each) for each in OPTIONS}
    print_table(models, classification_data(), classification_scores)


def print_baselines() -> None:
    """Print the scores of simple classifiers."""
    models = {
        f"{type(model).__name__} of {features.__name__}": baseline(features, model)
        for features in (interpolated_frames, summaries)
        for model in (LogisticRegression(max_iter=2000), KNeighborsClassifier(1))
    }
    print_table(models, classification_data(), classification_scores)


def print_gru() -> None:
    """Print the scores of full and diagonal GRUs of several sizes on all digits by rows."""
    X, y = digits()
    data = {"digits by rows": ([x.astype(np.float32) for x in X], y)}
    for kind, more in ((FullGRUClassifier, ()), (IndyGRUClassifier, ((2, 256), (3, 128)))):
        models = {
            f"{kind.__name__}, {layers} x {size}": kind(**FIXED | ALL | {"num_layers": layers, "hidden_size": size})
            for layers, size in ((1, 64), (1, 128), (2, 64), (2, 128), *more)
        }
        print_table(models, data, classification_scores)


if __name__ == "__main__":
    torch.set_num_threads(1)
    passes = {"options": print_options, "baselines": print_baselines, "gru": print_gru}
    for name in sys.argv[1:]:
        passes[name]()
