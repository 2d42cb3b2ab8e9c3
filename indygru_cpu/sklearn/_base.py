"""What scikit-learn's classifier and regressor of sequences share: parameters, training, the way of X to outputs."""

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
from indygru_cpu.sklearn._input import read
from indygru_cpu.sklearn._partial import Partial
from indygru_cpu.sklearn._pooling import Pooling, Ragged
from indygru_cpu.sklearn._training import Loss, Network, Recipe, Watch, epochs

Self = TypeVar("Self", bound="SequenceEstimator")

#: Kind of number, least and largest value, and which of those bounds are allowed.
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
    """What classifier and regressor share. Theirs is how y becomes targets, and outputs become predictions."""

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
            The sequences; none is empty. float32 or float64, which is then the dtype of weights and predictions; what
            else is a number becomes float64.
        y : array-like, (n,), or, of a regressor, (n, k)
            What to predict of each.
        after_epoch : callable, optional
            Called after each epoch with this estimator, which can already predict.

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            A parameter, X or y that does not fit, named with what was expected; or a loss that grew without bound.
        """
        for name, (kind, least, most, included) in _LIMITS.items():
            check_scalar(getattr(self, name), name, kind, min_val=least, max_val=most, include_boundaries=included)
        data = self._read(X, reset=True)
        targets = self._targets(y, data)
        random_state = check_random_state(self.random_state)
        held_out = None
        if self.early_stopping:
            rows, rest = train_test_split(
                np.arange(len(data)), test_size=self.validation_fraction, random_state=random_state,
                stratify=self._strata(targets),
            )  # fmt: skip
            held_out = data.select(rest), targets[rest]
            data, targets = data.select(rows), targets[rows]
        rng = np.random.default_rng(random_state.randint(2**31, size=4))
        self.network_ = self._initial(data, targets.shape[1], rng)
        self._train(data, targets, held_out, rng, after_epoch)
        return self

    def _initial(self, data: Ragged, n_outputs: int, rng: np.random.Generator) -> Network:
        """A network that knows nothing but the mean and the scale of its inputs."""
        dtype, mean, scale = data.values.dtype, None, None
        layer = IndyGRU(
            self.n_features_in_, self.hidden_size, self.num_layers, bidirectional=self.bidirectional,
            dropout=self.dropout, dtype=dtype, seed=rng, num_threads=self.num_threads,
        )  # fmt: skip
        if self.standardize:
            mean, scale = moments(data.values)
        pooling = Pooling.named(self.pooling, self.hidden_size)
        n_features = self.hidden_size * (1 + self.bidirectional) * len(pooling.pools)
        limit = np.sqrt(6 / (n_features + n_outputs))  # Glorot uniform, as the layer's kernels
        kernel = rng.uniform(-limit, limit, (n_features, n_outputs)).astype(dtype)
        return Network(layer, pooling, mean, scale, kernel, np.zeros(n_outputs, dtype))

    def _train(
        self: Self,
        data: Ragged,
        targets: Array,
        held_out: tuple[Ragged, Array] | None,
        rng: np.random.Generator,
        after_epoch: Callable[[Self], object] | None,
    ) -> None:
        loss = self._loss
        recipe = Recipe(loss, **{name: getattr(self, name) for name in Recipe._fields if name != "loss"})
        watch = Watch(self.network_, *held_out, loss) if held_out else None
        standardised = Ragged(self.network_.standardised(data.values), data.offsets)
        self.loss_curve_: list[float] = []
        self.validation_loss_curve_ = watch.losses if watch else None
        with _bar(self.max_iter) if self.verbose else nullcontext() as bar:
            for value in epochs(self.network_, standardised, targets, recipe, rng):
                self.loss_curve_.append(value)
                self.n_iter_ = len(self.loss_curve_)
                if bar is not None:
                    bar.set_postfix(loss=f"{value:.4g}", refresh=False)
                    bar.update()
                if after_epoch is not None:
                    after_epoch(self)
                if watch and watch.look() >= self.n_iter_no_change:
                    break
        if watch:
            watch.restore()

    def partial(self) -> Partial:
        """Begin a sequence whose steps are yet to come, to be predicted while they arrive.

        Raises
        ------
        ValueError
            The estimator is bidirectional: the reverse direction needs whole sequences.
        """
        check_is_fitted(self)
        return Partial(self)

    def _outputs(self, X: Any) -> Array:
        check_is_fitted(self)
        return self.network_.outputs(self._read(X, reset=False))

    def _read(self, X: Any, reset: bool) -> Ragged:
        data = read(X)
        validate_data(self, data.values, reset=reset, skip_check_array=True)
        if not reset and data.values.dtype != self.network_.layer.dtype:
            raise TypeError(
                f"X has dtype {data.values.dtype}, but {type(self).__name__} was fitted with "
                f"{self.network_.layer.dtype}: dtypes are never mixed; cast X"
            )
        return data

    def _targets(self, y: Any, data: Ragged) -> Array:
        raise NotImplementedError

    def _strata(self, targets: Array) -> Array | None:
        raise NotImplementedError


def moments(values: Array) -> tuple[Array, Array]:
    """Mean and deviation of each column, in its dtype; where all rows are equal, 1 instead of 0."""
    scaler = StandardScaler().fit(values)
    return scaler.mean_.astype(values.dtype), scaler.scale_.astype(values.dtype)


def _bar(total: int) -> Any:
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError(f'verbose=True needs tqdm ({error}): pip install "indygru_cpu[sklearn]"') from error
    return tqdm(total=total, desc="epochs")
