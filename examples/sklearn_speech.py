"""Speaker classification with scikit-learn: cross-validation, a learning curve, and predictions during an utterance.

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


def predict_early(model: IndyGRUClassifier, X: list[Array], y: Array, threshold: float) -> tuple[float, float]:
    """Accuracy and mean number of frames, if the model predicts once a probability exceeds the threshold."""
    n_correct, n_frames = 0, 0
    for frames, speaker in zip(X, y, strict=True):
        partial = model.partial()
        for frame in frames:
            if partial.push(frame).predict_proba().max() > threshold:
                break
        n_correct += partial.predict() == speaker
        n_frames += partial.n_steps
    return n_correct / len(X), n_frames / len(X)


def main() -> None:
    """Run all experiments and print their results."""
    train, test = (utterances(part) for part in japanese_vowels())
    y_train, y_test = (part.speakers for part in japanese_vowels())
    model = IndyGRUClassifier(32, max_iter=EPOCHS, pooling=("mean", "max"), random_state=0)
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    scores = cross_val_score(model, train, y_train, cv=folds, n_jobs=2)
    print(f"Accuracy in cross-validation on the training utterances: {scores.mean():.1%}")
    curve: list[float] = []
    model.fit(train, y_train, after_epoch=lambda each: curve.append(each.score(test, y_test)))
    print("Test accuracy: " + ", ".join(f"{curve[n - 1]:.1%} after epoch {n}" for n in (1, 5, 10, EPOCHS)))
    print(classification_report(y_test, model.predict(test), digits=3))
    for threshold in (0.6, 0.9, 0.99):
        accuracy, n_frames = predict_early(model, test, y_test, threshold)
        print(f"Predicting when {threshold:.0%} sure: {accuracy:.1%} right, after {n_frames:.1f} frames")


if __name__ == "__main__":
    main()
