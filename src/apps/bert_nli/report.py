"""What a classifier of pairs gets right, class by class, as text."""

import numpy as np
from sklearn.metrics import classification_report, confusion_matrix


def report(labels: np.ndarray, predicted: np.ndarray, names: tuple[str, ...]) -> str:
    """Return precision, recall, F1 and support a class, and the confusion matrix (rows: truth), as text."""
    classes = range(len(names))
    table = classification_report(labels, predicted, labels=classes, target_names=names, digits=4, zero_division=0)
    confusion = confusion_matrix(labels, predicted, labels=classes)
    return f"{table}\nconfusion (rows: truth, columns: predicted)\n{confusion}\n"
