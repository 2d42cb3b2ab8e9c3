"""Who speaks? Cross-validation, a learning curve, and answers while somebody is still speaking.

Japanese Vowels (UCI, doi 10.24432/C5NS47) comes with indygru_cpu. Needs ``pip install "indygru_cpu[sklearn]"``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.metrics import classification_report
from sklearn.model_selection import StratifiedKFold, cross_val_score

from indygru_cpu.datasets import Utterances, japanese_vowels
from indygru_cpu.sklearn import IndyGRUClassifier

Array = np.ndarray[Any, Any]
EPOCHS = 20


def utterances(part: Utterances) -> list[Array]:
    """One array (frames, 12) each."""
    return [part.x[:length, i] for i, length in enumerate(part.lengths)]


def early(model: IndyGRUClassifier, X: list[Array], y: Array, sure: float) -> tuple[float, float]:
    """Share of right answers, and mean frames heard, if it answers as soon as it is sure."""
    right, heard = 0, 0
    for frames, speaker in zip(X, y, strict=True):
        partial = model.partial()
        for frame in frames:
            if partial.push(frame).predict_proba().max() > sure:
                break
        right += partial.predict() == speaker
        heard += partial.n_steps
    return right / len(X), heard / len(X)


def main() -> None:
    """Print what is found."""
    train, test = (utterances(part) for part in japanese_vowels())
    y_train, y_test = (part.speakers for part in japanese_vowels())
    model = IndyGRUClassifier(32, max_iter=EPOCHS, pooling=("mean", "max"), random_state=0)
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    scores = cross_val_score(model, train, y_train, cv=folds, n_jobs=2)
    print(f"Cross-validation on the training utterances: {scores.mean():.1%} right")
    curve: list[float] = []
    model.fit(train, y_train, after_epoch=lambda each: curve.append(each.score(test, y_test)))
    print("Test utterances: " + ", ".join(f"{curve[n - 1]:.1%} after epoch {n}" for n in (1, 5, 10, EPOCHS)))
    print(classification_report(y_test, model.predict(test), digits=3))
    for sure in (0.6, 0.9, 0.99):
        right, heard = early(model, test, y_test, sure)
        print(f"Answering when {sure:.0%} sure: {right:.1%} right, after {heard:.1f} frames")


if __name__ == "__main__":
    main()
