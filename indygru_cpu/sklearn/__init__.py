"""Classification and regression of whole sequences with the API of scikit-learn.

This package requires scikit-learn: ``pip install "indygru_cpu[sklearn]"``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

try:
    from sklearn.base import ClassifierMixin, RegressorMixin
    from sklearn.utils import assert_all_finite, check_array, check_consistent_length, column_or_1d
    from sklearn.utils.class_weight import compute_class_weight
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import validate_data  # noqa: F401  (added in scikit-learn 1.6)
except ImportError as error:
    raise ImportError(
        f'indygru_cpu.sklearn needs scikit-learn >= 1.6 ({error}): pip install "indygru_cpu[sklearn]"'
    ) from error

from scipy.special import softmax

from indygru_cpu._engine.messages import shown
from indygru_cpu._typing import Array
from indygru_cpu.sklearn._base import SequenceEstimator, mean_and_scale
from indygru_cpu.sklearn._network import cross_entropy, squared_error
from indygru_cpu.sklearn._partial import Partial
from indygru_cpu.sklearn._sequences import RaggedBatch

__all__ = ["IndyGRUClassifier", "IndyGRURegressor", "Partial"]


class IndyGRUClassifier(ClassifierMixin, SequenceEstimator):  # type: ignore[misc,unused-ignore]
    """Classifier of sequences: IndyGRU, pooling of its states, softmax; trained by Adam.

    Parameters
    ----------
    hidden_size, num_layers, bidirectional, num_threads
        Options of the `IndyGRU`.
    pooling : str or sequence of str
        Features that the readout gets from the states of a sequence: ``"mean"``, ``"max"`` of each unit, or ``"last"``;
        or several of these, concatenated. docs/sklearn.md has the scores by which the default was chosen.
    standardize : bool
        Scale every input to mean 0 and standard deviation 1 over the training steps. The regressor also scales its
        targets.
    dropout : float
        Probability with which training sets values between layers, and features, to 0.
    noise : float
        Standard deviation of the normal noise that training adds to the (standardized) inputs in each epoch.
    alpha : float
        Strength of the L2 penalty: the loss includes ``alpha / 2`` times the squared norm of all weights except biases.
    batch_size : int
        Maximum number of sequences in a step of Adam.
    learning_rate : float
        Initial learning rate. It follows half a cosine to 0 over `max_iter` epochs.
    max_iter : int
        Maximum number of epochs.
    early_stopping : bool
        Hold out `validation_fraction` of the sequences, stratified by class, stop when their loss has not decreased
        for `n_iter_no_change` epochs, and restore the weights of the lowest loss.
    validation_fraction : float
        Fraction of the sequences that early stopping holds out.
    n_iter_no_change : int
        Number of epochs without a lower loss after which early stopping ends the training.
    class_weight : dict, "balanced" or None
        Weights of the classes in the loss, which multiply `sample_weight`. ``"balanced"`` gives every class the same
        total weight. Only the classifier has this parameter.
    warm_start : bool
        Start `fit` from the weights of the previous call, with its classes, its dtype, and its mean and standard
        deviations of inputs and targets. The schedule of the learning rate starts again.
    random_state : int, RandomState instance or None
        Seed of the initial weights, batches, noise, dropout and held-out sequences. With an int, `fit` gives the same
        bits each time, for any number of threads.
    verbose : bool
        Show a progress bar, which needs tqdm.

    Attributes
    ----------
    classes_ : array, (n_classes,)
        The class labels.
    n_features_in_ : int
        The number of inputs, D.
    feature_names_in_ : array of str, (D,)
        The names of the inputs, if the sequences of `fit` were data frames with names of type str.
    network_ : object
        The trained network: ``layer`` is an `IndyGRU`; ``mean`` and ``scale`` (D,) standardize the inputs; ``kernel``
        (features, n_classes) and ``bias`` (n_classes,) are the readout.
    n_iter_ : int
        Number of epochs that the last call of `fit` ran.
    loss_curve_ : list of float
        Mean loss of each epoch, including the penalty.
    validation_loss_curve_ : list of float or None
        Loss of the held-out sequences after each epoch, without the penalty.

    Notes
    -----
    `predict` and `score` accept X in every form. They compute in the dtype of the weights, to which they convert X:
    float32 after a fit on float32, else float64. They run batches of sequences, so that memory does not grow with the
    number of sequences. scikit-learn functions that split X, such as cross-validation, need an array (n, T, D), a list
    or a column; ``np.split(values, offsets[1:-1])`` converts the tuple to a list.

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

    classes_: Array
    _loss = staticmethod(cross_entropy)

    def __init__(
        self,
        hidden_size: int = 64,
        num_layers: int = 1,
        *,
        bidirectional: bool = False,
        pooling: str | Sequence[str] = ("mean", "last", "max"),
        standardize: bool = True,
        dropout: float = 0.0,
        noise: float = 0.0,
        alpha: float = 1e-4,
        batch_size: int = 32,
        learning_rate: float = 0.01,
        max_iter: int = 60,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        class_weight: Any = None,
        warm_start: bool = False,
        random_state: Any = None,
        verbose: bool = False,
        num_threads: int | None = None,
    ) -> None:
        # scikit-learn reads the parameters from this signature, so it repeats the common ones.
        super().__init__(
            hidden_size, num_layers, bidirectional=bidirectional, pooling=pooling, standardize=standardize,
            dropout=dropout, noise=noise, alpha=alpha, batch_size=batch_size, learning_rate=learning_rate,
            max_iter=max_iter, early_stopping=early_stopping, validation_fraction=validation_fraction,
            n_iter_no_change=n_iter_no_change, warm_start=warm_start, random_state=random_state, verbose=verbose,
            num_threads=num_threads,
        )  # fmt: skip
        self.class_weight = class_weight

    def _encode(self, y: Any, data: RaggedBatch, sample_weight: Array | None, keep: bool) -> Array:
        y = column_or_1d(y, warn=True)
        check_consistent_length(data.lengths, y)
        assert_all_finite(y, input_name="y")
        check_classification_targets(y)
        classes, indices = np.unique(y, return_inverse=True)
        if keep and not np.array_equal(classes, self.classes_):
            raise ValueError(
                f"y: expected the classes of the previous fit, {shown(self.classes_)}, because of warm_start=True, got "
                f"{shown(classes)}: set warm_start=False"
            )
        self.classes_ = classes
        return np.eye(len(classes), dtype=data.values.dtype)[indices]

    def _loss_weights(self, targets: Array, sample_weight: Array | None) -> Array:
        weights = super()._loss_weights(targets, sample_weight)
        if self.class_weight is None:
            return weights
        indices = targets.argmax(axis=1)
        if isinstance(self.class_weight, str) and self.class_weight == "balanced":
            totals = np.bincount(indices, weights, len(self.classes_))
            totals[totals == 0] = 1  # of a class whose sequences have the weight 0
            balanced: Array = weights / totals[indices]
            return balanced
        per_class = compute_class_weight(self.class_weight, classes=self.classes_, y=self.classes_[indices])
        weights = weights * per_class[indices]
        if not (np.isfinite(per_class).all() and per_class.min() >= 0 and weights.any()):
            raise ValueError(
                "class_weight: expected finite weights, none negative and not only zeros, got "
                f"{shown(per_class)} for the classes {shown(self.classes_)}"
            )
        return weights

    def _strata(self, targets: Array) -> Array | None:
        return targets.argmax(axis=1)

    def _probabilities(self, outputs: Array) -> Array:
        return softmax(outputs, axis=1)

    def _decode(self, outputs: Array) -> Array:
        return self.classes_[outputs.argmax(axis=1)]

    def predict(self, X: Any) -> Array:
        """Predict the class of each sequence, (n,)."""
        return self._decode(self._outputs(X))

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class, (n, n_classes), in the order of `classes_`."""
        return self._probabilities(self._outputs(X))


class IndyGRURegressor(RegressorMixin, SequenceEstimator):  # type: ignore[misc,unused-ignore]
    """Regressor of sequences: IndyGRU, pooling of its states, least squares; trained by Adam.

    Parameters and attributes are those of `IndyGRUClassifier`, except `class_weight` and `classes_`. y, (n,) or (n, k),
    is converted to the dtype of X. Predictions have the shape of y.

    Attributes
    ----------
    target_mean_, target_scale_ : arrays, (k,)
        Predictions are the outputs of `network_` times `target_scale_` plus `target_mean_`.

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

    def _encode(self, y: Any, data: RaggedBatch, sample_weight: Array | None, keep: bool) -> Array:
        if y is None:
            raise ValueError(f"{type(self).__name__} requires y to be passed, but the target y is None")
        y = check_array(y, dtype=data.values.dtype, ensure_2d=False, input_name="y")
        check_consistent_length(data.lengths, y)
        self._one_output = y.ndim == 1
        columns: Array = y.reshape(len(y), -1)
        if not keep:
            scaled = self.standardize
            self.target_mean_, self.target_scale_ = (
                mean_and_scale(columns, sample_weight) if scaled else (np.zeros(1, y.dtype), np.ones(1, y.dtype))
            )
        elif columns.shape[1] != self.network_.kernel.shape[1]:
            raise ValueError(
                f"y: expected {self.network_.kernel.shape[1]} numbers a sequence, as in the previous fit, because of "
                f"warm_start=True, got {columns.shape[1]}: set warm_start=False"
            )
        return (columns - self.target_mean_) / self.target_scale_

    def _strata(self, targets: Array) -> Array | None:
        return None

    def _decode(self, outputs: Array) -> Array:
        predictions: Array = outputs * self.target_scale_ + self.target_mean_
        return predictions[:, 0] if self._one_output else predictions

    def predict(self, X: Any) -> Array:
        """Predict the targets of each sequence, in the shape of y in `fit`: (n,) or (n, k)."""
        return self._decode(self._outputs(X))
