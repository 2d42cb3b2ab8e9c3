"""The demo's model: IndyGRU, mean of the valid states, softmax readout; loss, gradient and training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from indygru_cpu.datasets import JapaneseVowels, Utterances
from indygru_cpu.layer import IndyGRU

Array = np.ndarray[Any, Any]


def standardised(data: JapaneseVowels, dtype: Any) -> tuple[JapaneseVowels, dict[str, Array]]:
    """Give every input mean 0 and deviation 1 over the training frames; return data and those vectors."""
    frames = data.train.x[data.train.valid].astype(dtype)
    mean, std = frames.mean(axis=0), frames.std(axis=0)

    def scale(part: Utterances) -> Utterances:
        return part._replace(x=np.where(part.valid[..., None], (part.x.astype(dtype) - mean) / std, 0))

    return JapaneseVowels(scale(data.train), scale(data.test)), {"mean": mean, "std": std}


class SpeakerModel:
    """Who speaks: an IndyGRU, the mean of its states, and a linear readout with a logit for each speaker.

    `sizes` are those of inputs, units and speakers.
    """

    def __init__(self, sizes: tuple[int, int, int], *, dtype: Any, seed: int, num_threads: int | None = None) -> None:
        n_inputs, n_units, n_speakers = sizes
        rng = np.random.default_rng(seed)
        self.layer = IndyGRU(n_inputs, n_units, dtype=dtype, seed=rng, num_threads=num_threads)
        limit = np.sqrt(6 / (n_units + n_speakers))
        self.readout_kernel = rng.uniform(-limit, limit, (n_units, n_speakers)).astype(dtype)
        self.readout_bias = np.zeros(n_speakers, dtype)

    @property
    def parameters(self) -> dict[str, Array]:
        """The live arrays of layer and readout."""
        readout = {"readout_kernel": self.readout_kernel, "readout_bias": self.readout_bias}
        return {**self.layer.parameters, **readout}

    @property
    def vector(self) -> Array:
        """A copy of all parameters, one after another, as an optimiser wants them."""
        return np.concatenate([array.ravel() for array in self.parameters.values()])

    @vector.setter
    def vector(self, values: Array) -> None:
        arrays = self.parameters.values()
        ends = np.cumsum([array.size for array in arrays])
        for array, piece in zip(arrays, np.split(values, ends[:-1]), strict=True):
            array[...] = piece.reshape(array.shape)

    def readout(self, mean_state: Array) -> Array:
        """(B, N) -> logits (B, speakers)."""
        logits: Array = mean_state @ self.readout_kernel + self.readout_bias
        return logits

    def logits(self, part: Utterances) -> Array:
        """Logits of whole utterances, (B, speakers)."""
        y, _ = self.layer(part.x, lengths=part.lengths)
        return self.readout(y.sum(axis=0) / part.lengths[:, None])

    def accuracy(self, part: Utterances) -> float:
        """Share of the utterances whose largest logit is their speaker's."""
        return float((self.logits(part).argmax(axis=1) == part.speakers).mean())

    def loss_and_gradient(self, part: Utterances, penalty: float) -> tuple[float, Array]:
        """Mean cross-entropy + penalty / 2 * squares of all weights but biases; its gradient, as `vector`."""
        y, _, tape = self.layer.forward(part.x, lengths=part.lengths)
        frames = part.lengths[:, None].astype(y.dtype)
        mean_state = y.sum(axis=0) / frames
        loss, dlogits = cross_entropy(self.readout(mean_state), part.speakers)
        dmean = dlogits @ self.readout_kernel.T / frames
        grads = self.layer.backward(tape, dy=np.broadcast_to(dmean, y.shape)).parameters
        grads |= {"readout_kernel": mean_state.T @ dlogits, "readout_bias": dlogits.sum(axis=0)}
        for name, array in self.parameters.items():
            if "bias" not in name:
                loss += penalty / 2 * float(np.vdot(array, array))
                grads[name] += penalty * array
        return loss, np.concatenate([grads[name].ravel() for name in self.parameters])


def cross_entropy(logits: Array, speakers: Array) -> tuple[float, Array]:
    """Mean of -log softmax at the right speaker, and its gradient with respect to the logits."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    exp = np.exp(shifted)
    total = exp.sum(axis=1, keepdims=True)
    rows = np.arange(len(speakers))
    loss = float((np.log(total[:, 0]) - shifted[rows, speakers]).mean())
    dlogits = exp / total
    dlogits[rows, speakers] -= 1
    return loss, dlogits / len(speakers)


def train(
    model: SpeakerModel,
    part: Utterances,
    penalty: float,
    iterations: int,
    after_each: Callable[[float], None],
) -> None:
    """Full-batch L-BFGS. `after_each` gets the loss after an iteration, with the model as it is then."""
    from scipy.optimize import OptimizeResult, minimize  # type: ignore[import-untyped]

    def value_and_gradient(vector: Array) -> tuple[float, Array]:
        model.vector = vector
        return model.loss_and_gradient(part, penalty)

    def callback(intermediate_result: OptimizeResult) -> None:  # SciPy goes by this argument's name
        model.vector = intermediate_result.x
        after_each(float(intermediate_result.fun))

    result = minimize(
        value_and_gradient, model.vector, jac=True, method="L-BFGS-B", callback=callback,
        options={"maxiter": iterations},
    )  # fmt: skip
    model.vector = result.x
