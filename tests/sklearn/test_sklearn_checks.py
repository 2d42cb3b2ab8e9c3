"""scikit-learn's own checks of an estimator, with the inputs that they make as sequences of one step."""

from __future__ import annotations

import pytest

pytest.importorskip("sklearn", reason="scikit-learn, of the extra sklearn, is not installed")

from scipy.sparse import issparse
from sklearn.utils import check_array
from sklearn.utils.estimator_checks import parametrize_with_checks

from indygru_cpu.sklearn import IndyGRUClassifier, IndyGRURegressor


class OneStep:
    """The checks make inputs (n, D) only, and run for nothing else. Here each row is a sequence of one step."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array = True, False
        return tags

    def _read(self, X, reset):
        X = X if issparse(X) else check_array(X, dtype=None, ensure_all_finite=False)
        return super()._read(X if issparse(X) else X[:, None], reset)


class OneStepClassifier(OneStep, IndyGRUClassifier):
    pass


class OneStepRegressor(OneStep, IndyGRURegressor):
    pass


@parametrize_with_checks([OneStepClassifier(9, max_iter=40), OneStepRegressor(9, max_iter=40)])
def test_estimator(estimator, check):
    if getattr(check, "keywords", {}).get("X_dtype") == "float32":
        # It is fitted with a list of Python numbers too, which are float64, and asked about float32: refused.
        with pytest.raises(TypeError, match=r"X has dtype float32, .* fitted with float64: dtypes are never mixed"):
            check(estimator)
    else:
        check(estimator)
