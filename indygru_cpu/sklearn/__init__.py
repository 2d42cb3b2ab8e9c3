"""Classifier and regressor of whole sequences, by the conventions of scikit-learn.

Needs scikit-learn: ``pip install "indygru_cpu[sklearn]"``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

try:
    from sklearn.base import ClassifierMixin, RegressorMixin
    from sklearn.utils import assert_all_finite, check_array, check_consistent_length, column_or_1d
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import validate_data  # noqa: F401  (the newest of what is needed)
except ImportError as error:
    raise ImportError(
        f'needs scikit-learn >= 1.6, which comes with the extra "sklearn" ({error}): pip install "indygru_cpu[sklearn]"'
    ) from error

from scipy.special import softmax

from indygru_cpu._typing import Array
from indygru_cpu.sklearn._base import SequenceEstimator, moments
from indygru_cpu.sklearn._partial import Partial
from indygru_cpu.sklearn._pooling import Ragged
from indygru_cpu.sklearn._training import cross_entropy, squared_error

__all__ = ["IndyGRUClassifier", "IndyGRURegressor", "Partial"]


class IndyGRUClassifier(ClassifierMixin, SequenceEstimator):  # type: ignore[misc,unused-ignore]
    """Tell the class of each sequence: IndyGRU, pooling of its states, softmax; trained by Adam.

    Parameters
    ----------
    hidden_size, num_layers, bidirectional, num_threads
        Of the `IndyGRU`.
    pooling : str or sequence of str
        What the readout sees of a sequence's states: their ``"mean"``, each unit's largest (``"max"``), the ``"last"``;
        or several of them, side by side.
    standardize : bool
        Give every input mean 0 and deviation 1 over the training steps; the regressor does so with its targets too.
    dropout : float
        Probability with which training sets a number to 0 that goes from layer to layer or to the readout.
    noise : float
        Deviation of the normal noise that training adds to the (standardized) inputs, anew in each epoch.
    alpha : float
        The loss has ``alpha / 2`` times the squares of all weights but the biases.
    batch_size : int
        Sequences in a step of Adam, at most.
    learning_rate : float
        Of the first step; it falls to 0 along half a cosine over `max_iter` epochs.
    max_iter : int
        Epochs.
    early_stopping : bool
        Hold out `validation_fraction` of the sequences (of each class alike), stop when their loss has not got lower
        for `n_iter_no_change` epochs, and keep the weights with which it was lowest.
    validation_fraction : float
    n_iter_no_change : int
    random_state : int, RandomState instance or None
        Of the initial weights, the batches, the noise, dropout and what is held out. With an int, `fit` gives the same
        bits each time, for any number of threads.
    verbose : bool
        Show a progress bar, which needs tqdm.

    Attributes
    ----------
    classes_ : array, (n_classes,)
    n_features_in_ : int
        D.
    network_ : object
        What was trained: its ``layer`` is an `IndyGRU`; ``mean`` and ``scale`` (D,) standardize the inputs; ``kernel``
        (features, n_classes) and ``bias`` (n_classes,) are the readout.
    n_iter_ : int
        Epochs that were run.
    loss_curve_ : list of float
        Mean loss of each epoch, with the penalty.
    validation_loss_curve_ : list of float or None
        Of the held-out sequences after each epoch, without it.

    Notes
    -----
    X of `predict` and `score` has the forms of `fit` and its dtype. What scikit-learn itself cuts into parts, as in
    cross-validation, is an array (n, T, D) or a list; ``np.split(values, offsets[1:-1])`` makes a list of the tuple.

    Examples
    --------
    >>> import numpy as np
    >>> from indygru_cpu.sklearn import IndyGRUClassifier
    >>> rng = np.random.default_rng(0)
    >>> X = [rng.standard_normal((length, 3)) for length in rng.integers(5, 20, 80)]
    >>> y = np.array(["falls", "rises"])[np.arange(80) % 2]
    >>> for sequence, label in zip(X, y):
    ...     sequence[:, 0] += np.linspace(0, 3, len(sequence)) * (1 if label == "rises" else -1)
    >>> model = IndyGRUClassifier(17, max_iter=30, random_state=0).fit(X[:40], y[:40])
    >>> bool(model.score(X[40:], y[40:]) > 0.9)
    True
    """

    _loss = staticmethod(cross_entropy)

    def _targets(self, y: Any, data: Ragged) -> Array:
        y = column_or_1d(y, warn=True)
        check_consistent_length(data.lengths, y)
        assert_all_finite(y, input_name="y")
        check_classification_targets(y)
        self.classes_, index = np.unique(y, return_inverse=True)
        return np.eye(len(self.classes_), dtype=data.values.dtype)[index]

    def _strata(self, targets: Array) -> Array | None:
        return targets.argmax(axis=1)

    def _probabilities(self, outputs: Array) -> Array:
        return softmax(outputs, axis=1)

    def _predicted(self, outputs: Array) -> Array:
        return self.classes_[outputs.argmax(axis=1)]

    def predict(self, X: Any) -> Array:
        """Class of each sequence, (n,)."""
        return self._predicted(self._outputs(X))

    def predict_proba(self, X: Any) -> Array:
        """Probability of each class, (n, n_classes), in the order of `classes_`."""
        return self._probabilities(self._outputs(X))


class IndyGRURegressor(RegressorMixin, SequenceEstimator):  # type: ignore[misc,unused-ignore]
    """Predict one or several numbers of each sequence: IndyGRU, pooling of its states, least squares; trained by Adam.

    Parameters and attributes are those of `IndyGRUClassifier`, but for the classes. y, (n,) or (n, k), is taken in the
    dtype of X, and predictions have its shape.

    Attributes
    ----------
    target_mean_, target_scale_ : arrays, (k,)
        What the outputs of `network_` are multiplied with, and what is then added, to be predictions.

    Examples
    --------
    >>> import numpy as np
    >>> from indygru_cpu.sklearn import IndyGRURegressor
    >>> X = np.random.default_rng(0).standard_normal((200, 9, 2))
    >>> y = np.maximum(X[:, :, 0], 0).sum(axis=1)
    >>> model = IndyGRURegressor(17, random_state=0).fit(X[:150], y[:150])
    >>> bool(model.score(X[150:], y[150:]) > 0.9)
    True
    """

    _loss = staticmethod(squared_error)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _targets(self, y: Any, data: Ragged) -> Array:
        if y is None:
            raise ValueError(f"{type(self).__name__} requires y to be passed, but the target y is None")
        y = check_array(y, dtype=data.values.dtype, ensure_2d=False, input_name="y")
        check_consistent_length(data.lengths, y)
        self._one_output = y.ndim == 1
        columns: Array = y.reshape(len(y), -1)
        mean, scale = moments(columns) if self.standardize else (np.zeros(1, y.dtype), np.ones(1, y.dtype))
        self.target_mean_, self.target_scale_ = mean, scale
        return (columns - mean) / scale

    def _strata(self, targets: Array) -> Array | None:
        return None

    def _predicted(self, outputs: Array) -> Array:
        found: Array = outputs * self.target_scale_ + self.target_mean_
        return found[:, 0] if self._one_output else found

    def predict(self, X: Any) -> Array:
        """Predict y of each sequence, (n,) or (n, k) as y of `fit` was."""
        return self._predicted(self._outputs(X))
