"""scikit-learn's checks of estimators, whose inputs (n, D) become sequences of one step."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn, of the extra sklearn, is not installed")

from scipy.sparse import issparse
from sklearn.utils import check_array
from sklearn.utils.estimator_checks import check_dataframe_column_names_consistency, parametrize_with_checks

from indygru_cpu.sklearn import IndyGRUClassifier, IndyGRURegressor


class OneStep:
    """Accepts inputs (n, D), the only ones that the checks make, as sequences of one step."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array = True, False
        return tags

    def _validated(self, X, reset):
        if hasattr(X, "columns"):
            X = X, np.arange(len(X) + 1)
        elif not issparse(X):
            X = check_array(X, dtype=None, ensure_all_finite=False)[:, None]
        return super()._validated(X, reset)


class OneStepClassifier(OneStep, IndyGRUClassifier):
    pass


class OneStepRegressor(OneStep, IndyGRURegressor):
    pass


# One batch holds all sequences: weights equal repetitions only if no batch separates the repetitions.
OPTIONS = {"batch_size": 1000, "max_iter": 100, "learning_rate": 0.03}


@parametrize_with_checks([OneStepClassifier(9, **OPTIONS), OneStepRegressor(9, **OPTIONS)])
def test_estimator_passes_the_check(estimator, check):
    check(estimator)


@pytest.mark.parametrize("estimator", [OneStepClassifier, OneStepRegressor])
def test_names_of_inputs_pass_the_check(estimator):
    """scikit-learn's check for its own estimators, which `parametrize_with_checks` leaves out."""
    pytest.importorskip("pandas", reason="pandas, of the extra test, is not installed")
    check_dataframe_column_names_consistency(estimator.__name__, estimator(9, max_iter=1))
