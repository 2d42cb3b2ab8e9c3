"""The demo's classifier: an ensemble of `IndyGRUClassifier`, its data, its predictions by step, and its baselines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from indygru_cpu import reference
from indygru_cpu._typing import Array
from indygru_cpu.datasets import Utterances

if TYPE_CHECKING:
    from sklearn.ensemble import VotingClassifier
    from sklearn.pipeline import Pipeline

    from indygru_cpu.sklearn._network import Network


#: Options chosen by cross-validation on the training utterances, with benchmarks/select_demo_settings.py.
SELECTED_OPTIONS: dict[str, Any] = {"pooling": ("mean", "last", "max"), "dropout": 0.3, "noise": 0.5, "batch_size": 16}


@dataclass(frozen=True)
class SpeakerData:
    """Utterances as a list of arrays (T, 12), and the speaker of each."""

    X: list[Array]
    y: Array

    @classmethod
    def from_utterances(cls, utterances: Utterances) -> SpeakerData:
        """Convert to float64, where rounding errors, which differ between tiers, are too small to change a class."""
        x = [utterances.x[:n, i].astype(np.float64) for i, n in enumerate(utterances.lengths)]
        return cls(x, utterances.speakers)


def new_classifier(networks: int, seed: int, **options: Any) -> VotingClassifier:
    """Make an ensemble of networks with different seeds, which predicts by their mean probability."""
    from sklearn.ensemble import VotingClassifier

    from indygru_cpu.sklearn import IndyGRUClassifier

    seeds = range(networks * seed, networks * (seed + 1))
    members = [(f"network_{n}", IndyGRUClassifier(**SELECTED_OPTIONS | options, random_state=n)) for n in seeds]
    return VotingClassifier(members, voting="soft")


def mean_frames(X: list[Array]) -> Array:
    """Return the mean of the frames of each sequence, (n, D)."""
    return np.array([frames.mean(axis=0) for frames in X])


def interpolated_frames(X: list[Array], count: int = 12) -> Array:
    """Return `count` evenly spaced frames of each sequence, linearly interpolated, as one row each, (n, D * count)."""
    rows = []
    for frames in X:
        times, steps = np.linspace(0, len(frames) - 1, count), np.arange(len(frames))
        rows.append(np.concatenate([np.interp(times, steps, inputs) for inputs in frames.T]))
    return np.array(rows)


def new_baselines() -> dict[str, Pipeline]:
    """Make simple classifiers of whole sequences, whose features have a fixed size and are standardized."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    classifiers = {
        "logistic regression of the mean frame": (mean_frames, LogisticRegression(max_iter=1000)),
        "nearest neighbour of 12 interpolated frames": (interpolated_frames, KNeighborsClassifier(1)),
        "logistic regression of 12 interpolated frames": (interpolated_frames, LogisticRegression(max_iter=1000)),
    }
    return {
        name: make_pipeline(FunctionTransformer(features), StandardScaler(), classifier)
        for name, (features, classifier) in classifiers.items()
    }


def fitted_networks(model: VotingClassifier) -> list[Network]:
    """Return the trained network of each member."""
    return [member.network_ for member in model.estimators_]


def stream_probabilities(model: VotingClassifier, frames: Array) -> Iterator[Array]:
    """Yield the probability of each speaker after each frame of (T, D)."""
    partials = [member.partial() for member in model.estimators_]
    for frame in frames:
        yield np.mean([partial.push(frame).predict_proba() for partial in partials], axis=0)


def layer_signals(network: Network, frames: Array) -> dict[str, Array]:
    """Return inputs, gates, candidate and state of a network's layer over an utterance, each (T, inputs or units)."""
    x, layer = network.standardize(frames)[:, None], network.layer
    kernel, recurrent_kernel, bias = layer.parameters.values()
    y, _, tape = reference.forward(x, np.zeros((1, layer.hidden_size)), kernel, recurrent_kernel, bias)
    r, z, candidate = np.concatenate(tape.gates, axis=1)
    return {
        "x, inputs": x[:, 0],
        "r, reset gate": r,
        "z, update gate": z,
        "c, candidate": candidate,
        "h, state": y[:, 0],
    }
