"""The common base of classifier and regressor: parameters, validation of X, training, outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from math import inf
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_array, check_random_state, check_scalar
from sklearn.utils.validation import check_is_fitted, validate_data

from indygru_cpu._typing import Array
from indygru_cpu.layer import IndyGRU
from indygru_cpu.sklearn._columns import find_data_frame, read_column
from indygru_cpu.sklearn._network import Loss, Network
from indygru_cpu.sklearn._partial import Partial
from indygru_cpu.sklearn._pooling import Pooling
from indygru_cpu.sklearn._sequences import RaggedBatch, validated_batch
from indygru_cpu.sklearn._training import EarlyStopping, Examples, TrainingConfig, train_epochs

Self = TypeVar("Self", bound="SequenceEstimator")

#: Parameter -> type, minimum, maximum, and which bounds are included, for `check_scalar`.
_LIMITS = {
    "hidden_size": (Integral, 1, inf, "left"),
    "num_layers": (Integral, 1, inf, "left"),
    "dropout": (Real, 0, 1, "left"),
    "noise": (Real, 0, inf, "left"),
    "alpha": (Real, 0, inf, "left"),
    "batch_size": (Integral, 1, inf, "left"),
    "learning_rate": (Real, 0, inf, "neither"),
    "max_iter": (Integral, 1, inf, "left"),
    "validation_fraction": (Real, 0, 1, "neither"),
    "n_iter_no_change": (Integral, 1, inf, "left"),
}


class SequenceEstimator(BaseEstimator):  # type: ignore[misc,unused-ignore]
    """Base class. A subclass encodes y as targets and decodes outputs to predictions."""

    _loss: Loss

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
        warm_start: bool = False,
        random_state: Any = None,
        verbose: bool = False,
        num_threads: int | None = None,
    ) -> None:
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bidirectional = bidirectional
        self.pooling = pooling
        self.standardize = standardize
        self.dropout = dropout
        self.noise = noise
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.max_iter = max_iter
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose
        self.num_threads = num_threads

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        return tags

    def fit(
        self: Self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        after_epoch: Callable[[Self], object] | None = None,
    ) -> Self:
        """Train on sequences, from new weights or, with `warm_start`, from those of the previous call.

        Parameters
        ----------
        X : array (n, T, D), list of arrays (T_i, D), column, or tuple (values (S, D), offsets (n + 1,))
            The sequences; none may be empty. Instead of arrays (T_i, D) and (S, D), data frames can be passed, whose
            column names are then checked by `predict`. A column is a Series of pandas or polars, or an Arrow array of
            lists of steps. float32 and float64 are kept, as the dtype of weights and predictions; other numbers become
            float64.
        y : array-like, (n,), or, for a regressor, (n, k)
            The target of each sequence.
        sample_weight : array-like, (n,), or None
            Weights of the sequences in the loss, in the mean and standard deviation that standardize, and in the
            held-out loss. Only their ratios matter. A sequence of weight 0 is left out.
        after_epoch : callable, optional
            Called after each epoch with this estimator, which can predict by then.

        Returns
        -------
        self

        Raises
        ------
        TypeError
            A parameter, X or y has a wrong type.
        ValueError
            A parameter, X, y or `sample_weight` has a wrong value or shape, training diverged, or, with `warm_start`,
            the network or the classes would differ from those of the previous call.
        """
        for name, (kind, minimum, maximum, included) in _LIMITS.items():
            value = getattr(self, name)
            check_scalar(value, name, kind, min_val=minimum, max_val=maximum, include_boundaries=included)
        previous = getattr(self, "network_", None) if self.warm_start else None
        data = self._validated(X, reset=previous is None)
        sample_weight = _checked_weights(sample_weight, data)
        targets = self._encode(y, data, sample_weight, previous is not None)
        examples = Examples(data, targets, self._loss_weights(targets, sample_weight))
        if sample_weight is not None and not sample_weight.all():
            rows = np.flatnonzero(sample_weight)
            examples, sample_weight = examples.select(rows), sample_weight[rows]
        weights = examples.weights / examples.weights.mean()
        examples = examples._replace(weights=weights.astype(targets.dtype))
        random_state, held_out = check_random_state(self.random_state), None
        if self.early_stopping:
            rows, held_out_rows = train_test_split(
                np.arange(len(examples.data)), test_size=self.validation_fraction, random_state=random_state,
                stratify=self._strata(examples.targets),
            )  # fmt: skip
            held_out, examples = examples.select(held_out_rows), examples.select(rows)
            sample_weight = None if sample_weight is None else sample_weight[rows]
        rng = np.random.default_rng(random_state.randint(2**31, size=4))
        network = self._initial_network(examples, sample_weight, rng)
        self.network_ = network if previous is None else network.with_weights_of(previous)
        self._train(examples, held_out, rng, after_epoch)
        return self

    def _initial_network(self, examples: Examples, sample_weight: Array | None, rng: np.random.Generator) -> Network:
        """Return a network with random weights, and the mean and scale of the inputs."""
        values, n_outputs = examples.data.values, examples.targets.shape[1]
        dtype, mean, scale = values.dtype, None, None
        layer = IndyGRU(
            self.n_features_in_, self.hidden_size, self.num_layers, bidirectional=self.bidirectional,
            dropout=self.dropout, dtype=dtype, seed=rng, num_threads=self.num_threads,
        )  # fmt: skip
        if self.standardize:
            step_weights = None if sample_weight is None else np.repeat(sample_weight, examples.data.lengths)
            mean, scale = mean_and_scale(values, step_weights)
        pooling = Pooling.from_names(self.pooling, self.hidden_size)
        n_features = self.hidden_size * (1 + self.bidirectional) * len(pooling.methods)
        limit = np.sqrt(6 / (n_features + n_outputs))  # Glorot uniform, as for the kernels of the layer
        kernel = rng.uniform(-limit, limit, (n_features, n_outputs)).astype(dtype)
        return Network(layer, pooling, mean, scale, kernel, np.zeros(n_outputs, dtype))

    def _train(
        self: Self,
        examples: Examples,
        held_out: Examples | None,
        rng: np.random.Generator,
        after_epoch: Callable[[Self], object] | None,
    ) -> None:
        loss = self._loss
        options = {name: getattr(self, name) for name in TrainingConfig._fields if name != "loss"}
        config = TrainingConfig(loss, **options)
        early_stopping = EarlyStopping(self.network_, held_out, loss) if held_out else None
        data = examples.data
        standardized = examples._replace(data=RaggedBatch(self.network_.standardize(data.values), data.offsets))
        self.loss_curve_: list[float] = []
        self.validation_loss_curve_ = early_stopping.losses if early_stopping else None
        with _progress_bar(self.max_iter) if self.verbose else nullcontext() as progress_bar:
            for epoch_loss in train_epochs(self.network_, standardized, config, rng):
                self.loss_curve_.append(epoch_loss)
                self.n_iter_ = len(self.loss_curve_)
                if progress_bar is not None:
                    progress_bar.set_postfix(loss=f"{epoch_loss:.4g}", refresh=False)
                    progress_bar.update()
                if after_epoch is not None:
                    after_epoch(self)
                if early_stopping and early_stopping.update() >= self.n_iter_no_change:
                    break
        if early_stopping:
            early_stopping.restore_best()

    def partial(self) -> Partial:
        """Start the incremental prediction of a sequence.

        Returns
        -------
        Partial

        Raises
        ------
        ValueError
            The estimator is bidirectional: the reverse direction needs whole sequences.
        NotFittedError
            The estimator is not fitted.
        """
        check_is_fitted(self)
        return Partial(self)

    def _outputs(self, X: Any) -> Array:
        check_is_fitted(self)
        return self.network_.outputs(self._validated(X, reset=False))

    def _validated(self, X: Any, reset: bool) -> RaggedBatch:
        X = read_column(X)
        frame = find_data_frame(X)
        if frame is not None:  # wrong names are reported before the NaN with which pandas fills missing columns
            validate_data(self, frame, reset=reset, skip_check_array=True)
        data = validated_batch(X, None if reset else self.network_.layer.dtype)
        if frame is None:
            validate_data(self, data.values, reset=reset, skip_check_array=True)
        return data

    def _encode(self, y: Any, data: RaggedBatch, sample_weight: Array | None, keep: bool) -> Array:
        """Validate y and return the targets (n, K) of the network's outputs.

        `keep` uses the classes or the scale of the previous fit.
        """
        raise NotImplementedError

    def _loss_weights(self, targets: Array, sample_weight: Array | None) -> Array:
        """Return the weights (n,) of the sequences in the loss."""
        return np.ones(len(targets)) if sample_weight is None else sample_weight

    def _decode(self, outputs: Array) -> Array:
        """Return the predictions of the network's outputs (n, K)."""
        raise NotImplementedError

    def _strata(self, targets: Array) -> Array | None:
        """Return the class of each sequence for a stratified split, or None."""
        raise NotImplementedError


def mean_and_scale(values: Array, sample_weight: Array | None = None) -> tuple[Array, Array]:
    """Return mean and standard deviation of each column, in its dtype. The scale of a constant column is 1."""
    scaler = StandardScaler().fit(values, sample_weight=sample_weight)
    return scaler.mean_.astype(values.dtype), scaler.scale_.astype(values.dtype)


def _checked_weights(sample_weight: Any, data: RaggedBatch) -> Array | None:
    """Return `sample_weight` as float64, (n,)."""
    if sample_weight is None:
        return None
    weights: Array = check_array(sample_weight, dtype=np.float64, ensure_2d=False, input_name="sample_weight")
    if weights.shape != (len(data),):
        raise ValueError(f"sample_weight: expected shape ({len(data)},), one weight a sequence, got {weights.shape}")
    if weights.min() < 0 or not weights.any():
        raise ValueError(
            f"sample_weight: expected no negative weight and not only zeros, got weights from {weights.min()} to "
            f"{weights.max()}"
        )
    return weights


def _progress_bar(total: int) -> Any:
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError(f'verbose=True needs tqdm ({error}): pip install "indygru_cpu[sklearn]"') from error
    return tqdm(total=total, desc="epochs")
