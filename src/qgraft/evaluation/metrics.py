"""Scores of class probabilities: F1, accuracy, precision, recall, AUC, confusion matrix.

With two classes F1, precision and recall are those of class 1 (anomalous); with more they are
unweighted means over the classes. All but the confusion matrix are fractions between 0 and 1.
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np


class Scores(TypedDict):
    """The scores of one set of predictions."""

    f1: float
    accuracy: float
    precision: float
    recall: float
    auc: float | None
    confusion: list[list[int]]


def score(probabilities: np.ndarray, labels: np.ndarray) -> Scores:
    """Score probabilities `(n, n_classes)` against labels `(n,)`.

    `auc` is None where it is not defined, that is when a class is missing from `labels`.
    """
    from sklearn.metrics import (
        accuracy_score,
        confusion_matrix,
        precision_recall_fscore_support,
        roc_auc_score,
    )

    n_classes = probabilities.shape[1]
    predicted = probabilities.argmax(1)
    average = "binary" if n_classes == 2 else "macro"
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels,
        predicted,
        labels=range(n_classes),
        average=average,
        zero_division=0.0,  # pyright: ignore[reportArgumentType]
    )
    auc = None
    if len(np.unique(labels)) == n_classes:
        ranks = probabilities[:, 1] if n_classes == 2 else probabilities
        auc = float(roc_auc_score(labels, ranks, multi_class="ovr"))
    return {
        "f1": float(f1),
        "accuracy": float(accuracy_score(labels, predicted)),
        "precision": float(precision),
        "recall": float(recall),
        "auc": auc,
        "confusion": confusion_matrix(labels, predicted, labels=range(n_classes)).tolist(),
    }
