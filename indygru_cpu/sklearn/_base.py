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
from sklearn.utils import check_random_state, check_scalar
from sklearn.utils.validation import check_is_fitted, validate_data

from indygru_cpu._typing import Array
from indygru_cpu.layer import IndyGRU
from indygru_cpu.sklearn._network import Loss, Network
from indygru_cpu.sklearn._partial import Partial
from indygru_cpu.sklearn._pooling import Pooling
from indygru_cpu.sklearn._sequences import RaggedBatch, validated_batch
from indygru_cpu.sklearn._training import EarlyStopping, TrainingConfig, train_epochs

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
        pooling: str | Sequence[str] = "mean",
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
        self.random_state = random_state
        self.verbose = verbose
        self.num_threads = num_threads

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        return tags

    def fit(self: Self, X: Any, y: Any, *, after_epoch: Callable[[Self], object] | None = None) -> Self:
        """Train on sequences, from new weights.

        Parameters
        ----------
        X : array (n, T, D), list of arrays (T_i, D), or tuple (values (S, D), offsets (n + 1,))
            The sequences; none may be empty. float32 and float64 are kept, as the dtype of weights and predictions;
            other numbers become float64.
        y : array-like, (n,), or, for a regressor, (n, k)
            The target of each sequence.
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
            A parameter, X or y has a wrong value or shape, or training diverged.
        """
        for name, (kind, minimum, maximum, included) in _LIMITS.items():
            value = getattr(self, name)
            check_scalar(value, name, kind, min_val=minimum, max_val=maximum, include_boundaries=included)
        data = self._validated(X, reset=True)
        targets = self._encode(y, data)
        random_state = check_random_state(self.random_state)
        held_out = None
        if self.early_stopping:
            train_rows, held_out_rows = train_test_split(
                np.arange(len(data)), test_size=self.validation_fraction, random_state=random_state,
                stratify=self._strata(targets),
            )  # fmt: skip
            held_out = data.select(held_out_rows), targets[held_out_rows]
            data, targets = data.select(train_rows), targets[train_rows]
        rng = np.random.default_rng(random_state.randint(2**31, size=4))
        self.network_ = self._initial_network(data, targets.shape[1], rng)
        self._train(data, targets, held_out, rng, after_epoch)
        return self

    def _initial_network(self, data: RaggedBatch, n_outputs: int, rng: np.random.Generator) -> Network:
        """Return a network with random weights, and the mean and scale of the inputs."""
        dtype, mean, scale = data.values.dtype, None, None
        layer = IndyGRU(
            self.n_features_in_, self.hidden_size, self.num_layers, bidirectional=self.bidirectional,
            dropout=self.dropout, dtype=dtype, seed=rng, num_threads=self.num_threads,
        )  # fmt: skip
        if self.standardize:
            mean, scale = mean_and_scale(data.values)
        pooling = Pooling.from_names(self.pooling, self.hidden_size)
        n_features = self.hidden_size * (1 + self.bidirectional) * len(pooling.methods)
        limit = np.sqrt(6 / (n_features + n_outputs))  # Glorot uniform, as for the kernels of the layer
        kernel = rng.uniform(-limit, limit, (n_features, n_outputs)).astype(dtype)
        return Network(layer, pooling, mean, scale, kernel, np.zeros(n_outputs, dtype))

    def _train(
        self: Self,
        data: RaggedBatch,
        targets: Array,
        held_out: tuple[RaggedBatch, Array] | None,
        rng: np.random.Generator,
        after_epoch: Callable[[Self], object] | None,
    ) -> None:
        loss = self._loss
        options = {name: getattr(self, name) for name in TrainingConfig._fields if name != "loss"}
        config = TrainingConfig(loss, **options)
        early_stopping = EarlyStopping(self.network_, *held_out, loss) if held_out else None
        standardized = RaggedBatch(self.network_.standardize(data.values), data.offsets)
        self.loss_curve_: list[float] = []
        self.validation_loss_curve_ = early_stopping.losses if early_stopping else None
        with _progress_bar(self.max_iter) if self.verbose else nullcontext() as progress_bar:
            for epoch_loss in train_epochs(self.network_, standardized, targets, config, rng):
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
        data = validated_batch(X)
        validate_data(self, data.values, reset=reset, skip_check_array=True)
        if not reset and data.values.dtype != self.network_.layer.dtype:
            raise TypeError(
                f"X: expected {self.network_.layer.dtype}, with which {type(self).__name__} was fitted, got "
                f"{data.values.dtype}: dtypes are never mixed; cast X"
            )
        return data

    def _encode(self, y: Any, data: RaggedBatch) -> Array:
        """Validate y and return the targets (n, K) of the network's outputs."""
        raise NotImplementedError

    def _decode(self, outputs: Array) -> Array:
        """Return the predictions of the network's outputs (n, K)."""
        raise NotImplementedError

    def _strata(self, targets: Array) -> Array | None:
        """Return the class of each sequence for a stratified split, or None."""
        raise NotImplementedError


def mean_and_scale(values: Array) -> tuple[Array, Array]:
    """Return mean and standard deviation of each column, in its dtype. The scale of a constant column is 1."""
    scaler = StandardScaler().fit(values)
    return scaler.mean_.astype(values.dtype), scaler.scale_.astype(values.dtype)


def _progress_bar(total: int) -> Any:
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError(f'verbose=True needs tqdm ({error}): pip install "indygru_cpu[sklearn]"') from error
    return tqdm(total=total, desc="epochs")
