"""scikit-learn's checks of estimators, whose inputs (n, D) become sequences of one step."""

from __future__ import annotations

import pytest

pytest.importorskip("sklearn", reason="scikit-learn, of the extra sklearn, is not installed")

from scipy.sparse import issparse
from sklearn.utils import check_array
from sklearn.utils.estimator_checks import parametrize_with_checks

from indygru_cpu.sklearn import IndyGRUClassifier, IndyGRURegressor


class OneStep:
    """Accepts inputs (n, D), the only ones that the checks make, as sequences of one step."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array = True, False
        return tags

    def _validated(self, X, reset):
        X = X if issparse(X) else check_array(X, dtype=None, ensure_all_finite=False)
        return super()._validated(X if issparse(X) else X[:, None], reset)


class OneStepClassifier(OneStep, IndyGRUClassifier):
    pass


class OneStepRegressor(OneStep, IndyGRURegressor):
    pass


@parametrize_with_checks([OneStepClassifier(9, max_iter=40), OneStepRegressor(9, max_iter=40)])
def test_estimator_passes_the_check(estimator, check):
    if getattr(check, "keywords", {}).get("X_dtype") == "float32":
        # This check also fits a list of Python numbers, which are float64, and predicts from float32: an error here.
        with pytest.raises(TypeError, match=r"^X: expected float64, .* got float32"):
            check(estimator)
    else:
        check(estimator)
