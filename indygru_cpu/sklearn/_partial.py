"""Incremental prediction of a sequence."""

from __future__ import annotations

from copy import copy
from typing import Any

import numpy as np

from indygru_cpu._engine.messages import shortened
from indygru_cpu._typing import Array


class Partial:
    """Incremental prediction of one sequence. The method `partial` of an estimator makes it.

    The object uses the weights of the estimator at the time of its creation, and can be pickled. It must not be used
    by several threads at a time.

    Attributes
    ----------
    n_steps : int
        Number of steps pushed so far.

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
        # A shallow copy suffices: fit assigns new arrays and changes none.
        self._estimator = copy(estimator)
        self._network = estimator.network_
        self._stream = self._network.layer.stream()
        self.reset()

    def reset(self) -> None:
        """Start a new sequence."""
        self._stream.reset()
        self.n_steps = 0
        self._features = np.zeros(len(self._network.kernel), self._network.kernel.dtype)

    def push(self, steps: Any) -> Partial:
        """Append one or more steps to the sequence and return this object.

        Parameters
        ----------
        steps : array, (D,) or (T, D)
            Inputs, which are converted to the dtype of the fitted weights.

        Raises
        ------
        TypeError
            The inputs are not real numbers.
        ValueError
            The shape is wrong, or a value is NaN or infinite. The sequence is then unchanged.
        """
        inputs = np.asarray(steps)
        layer = self._network.layer
        if inputs.ndim not in (1, 2) or inputs.shape[-1] != layer.input_size:
            raise ValueError(
                f"steps: expected shape ({layer.input_size},) or (T, {layer.input_size}), got {inputs.shape}"
            )
        if inputs.dtype.kind not in "biuf":
            raise TypeError(f"steps: expected real numbers, got dtype {shortened(inputs.dtype)}: convert them")
        with np.errstate(over="ignore"):  # a number too large for float32 becomes infinity, which raises an error
            inputs = inputs.astype(layer.dtype, copy=False)
        if not np.isfinite(inputs).all():
            raise ValueError(f"steps: expected finite numbers, got NaN or infinity in {layer.dtype}")
        if inputs.size:
            y = self._stream.push_many(np.atleast_2d(self._network.standardize(inputs)))
            self._features = self._network.pooling.update(self._features, self.n_steps, y)
            self.n_steps += len(y)
        return self

    def predict(self) -> Any:
        """Predict from the steps so far, as the estimator does for the same sequence, without the batch axis."""
        return self._estimator._decode(self._outputs())[0]

    def predict_proba(self) -> Array:
        """Return the probability of each class, (n_classes,). Only classifiers support this method."""
        if not hasattr(self._estimator, "predict_proba"):
            raise AttributeError(f"predict_proba: expected a classifier, got {type(self._estimator).__name__}")
        return self._estimator._probabilities(self._outputs())[0]

    def _outputs(self) -> Array:
        if not self.n_steps:
            raise ValueError("expected at least one step before a prediction, got none: call push first")
        return self._network.readout(self._features[None])
