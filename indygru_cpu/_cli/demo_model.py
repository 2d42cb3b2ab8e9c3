"""The demo's classifier, on top of `IndyGRUClassifier`; utterances as it takes them, and the way it listens."""

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

    from indygru_cpu.sklearn._training import Network


#: Chosen by cross-validation on the training utterances: see CONTRIBUTING.md.
CHOSEN: dict[str, Any] = {"pooling": ("mean", "last", "max"), "dropout": 0.3, "noise": 0.5, "batch_size": 16}


@dataclass(frozen=True)
class Part:
    """Utterances as the classifier takes them, and who speaks."""

    X: list[Array]
    y: Array

    @classmethod
    def of(cls, part: Utterances) -> Part:
        """In float64: rounding, which differs from tier to tier, then stays far below what could change an answer."""
        return cls([part.x[:n, i].astype(np.float64) for i, n in enumerate(part.lengths)], part.speakers)


def classifier(networks: int, seed: int, **settings: Any) -> VotingClassifier:
    """Several networks, each from its own weights; the answer is that of their mean probability."""
    from sklearn.ensemble import VotingClassifier

    from indygru_cpu.sklearn import IndyGRUClassifier

    seeds = range(networks * seed, networks * (seed + 1))
    members = [(f"network_{n}", IndyGRUClassifier(**CHOSEN | settings, random_state=n)) for n in seeds]
    return VotingClassifier(members, voting="soft")


def trained_networks(model: VotingClassifier) -> list[Network]:
    """What is inside the members."""
    return [member.network_ for member in model.estimators_]


def listen(model: VotingClassifier, frames: Array) -> Iterator[Array]:
    """Yield the probability of each speaker after each of the frames (T, D), as they come while somebody speaks."""
    partials = [member.partial() for member in model.estimators_]
    for frame in frames:
        yield np.mean([partial.push(frame).predict_proba() for partial in partials], axis=0)


def inside(network: Network, frames: Array) -> dict[str, Array]:
    """Return what a network's layer sees and does over an utterance, each (T, inputs or units)."""
    x, layer = network.standardised(frames)[:, None], network.layer
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
