"""Predictions of a sequence while it arrives."""

from __future__ import annotations

from copy import copy
from typing import Any

import numpy as np

from indygru_cpu._engine.messages import shortened
from indygru_cpu._typing import Array


class Partial:
    """A sequence as far as it has come, and its prediction; made by the estimators' method `partial`.

    It keeps the fitted weights of the moment when it was made, can be pickled, and is one thread's at a time.

    Attributes
    ----------
    n_steps : int
        Steps that have come.

    Examples
    --------
    >>> import numpy as np
    >>> from indygru_cpu.sklearn import IndyGRUClassifier
    >>> X, y = np.random.default_rng(0).standard_normal((30, 7, 3)), np.arange(30) % 2
    >>> model = IndyGRUClassifier(5, max_iter=2, random_state=0).fit(X, y)
    >>> partial = model.partial()
    >>> early = partial.push(X[0, 0]).predict()  # after one step
    >>> p = partial.push(X[0, 1:]).predict_proba()  # after all seven
    >>> bool(np.allclose(p, model.predict_proba(X[:1])[0]))
    True
    """

    def __init__(self, estimator: Any) -> None:
        self._estimator = copy(estimator)  # so that it may be fitted again: its arrays are then new ones
        self._network = estimator.network_
        self._stream = self._network.layer.stream()
        self.reset()

    def reset(self) -> None:
        """Begin a new sequence."""
        self._stream.reset()
        self.n_steps = 0
        self._features = np.zeros(len(self._network.kernel), self._network.kernel.dtype)

    def push(self, steps: Any) -> Partial:
        """Take the next step, or the next few, and return this object.

        Parameters
        ----------
        steps : array, (D,) or (T, D)
            Of the dtype that the estimator was fitted with.

        Raises
        ------
        TypeError, ValueError
            Another dtype or shape, NaN or infinity; everything is then as it was.
        """
        found = np.asarray(steps)
        layer = self._network.layer
        if found.ndim not in (1, 2) or found.shape[-1] != layer.input_size:
            raise ValueError(
                f"steps: expected shape ({layer.input_size},) or (T, {layer.input_size}), got {found.shape}"
            )
        if found.dtype != layer.dtype:
            raise TypeError(
                f"steps: expected {layer.dtype}, as the estimator was fitted with, got {shortened(found.dtype)}"
            )
        if not np.isfinite(found).all():
            raise ValueError("steps: expected finite numbers, got NaN or infinity")
        if found.size:
            y = self._stream.push_many(np.atleast_2d(self._network.standardised(found)))
            self._features = self._network.pooling.running(self._features, self.n_steps, y)
            self.n_steps += len(y)
        return self

    def predict(self) -> Any:
        """Predict as the estimator would from the steps so far, without the axis of sequences."""
        return self._estimator._predicted(self._outputs())[0]

    def predict_proba(self) -> Array:
        """Probability of each class, (n_classes,); of a classifier only."""
        if not hasattr(self._estimator, "predict_proba"):
            raise AttributeError(f"predict_proba: {type(self._estimator).__name__} has none")
        return self._estimator._probabilities(self._outputs())[0]

    def _outputs(self) -> Array:
        if not self.n_steps:
            raise ValueError("expected at least one step before a prediction: see push")
        return self._network.readout(self._features[None])
