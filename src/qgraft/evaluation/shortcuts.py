"""What a model could score without looking at any defect.

Normal images of the published protocol are magnified crops, so blur alone separates them. A
logistic regression on the radial power spectrum shows how far (it reaches F1 about 0.88 there).
"""

from __future__ import annotations

import numpy as np

from qgraft.data.imageset import ImageSet
from qgraft.evaluation.metrics import score
from qgraft.seeds import derive

N_BINS = 24


def as_grey(image: np.ndarray) -> np.ndarray:
    """Return one image as float32 `(h, w)`."""
    pixels = image.astype(np.float32)
    return pixels if pixels.ndim == 2 else pixels.mean(-1)


def radial_spectrum(images: np.ndarray, n_bins: int = N_BINS) -> np.ndarray:
    """Return the log power of images in rings of spatial frequency `(n, n_bins)`.

    Args:
        images: `(n, h, w)`, or `(n, h, w, 3)`, of which the mean over the channels is taken.
        n_bins: number of rings up to the Nyquist frequency.
    """
    height, width = images.shape[1:3]
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    ring = np.minimum((frequency / 0.5 * n_bins).astype(int), n_bins)  # corners beyond 0.5: own
    counts = np.bincount(ring.ravel(), minlength=n_bins + 1)
    spectra = np.empty((len(images), n_bins))
    for row, image in enumerate(images):
        pixels = as_grey(image)
        power = np.abs(np.fft.rfft2(pixels - pixels.mean())) ** 2
        sums = np.bincount(ring.ravel(), power.ravel(), minlength=n_bins + 1)
        spectra[row] = np.log1p(sums[:n_bins] / counts[:n_bins])
    return spectra


def spectrum_control(
    images: ImageSet, *, n_folds: int = 6, seed: int = 0
) -> dict[str, float | str]:
    """Return F1 and AUC of the radial power spectrum alone, and a label that says so."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folds = StratifiedGroupKFold(
        n_folds, shuffle=True, random_state=derive(seed, "spectrum") % 2**32
    )
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    probabilities = cross_val_predict(
        model,
        radial_spectrum(images.images),
        images.labels,
        groups=images.groups,
        cv=folds,
        method="predict_proba",
    )
    scores = score(np.asarray(probabilities), images.labels)
    return {
        "f1": scores["f1"],
        "auc": scores["auc"] if scores["auc"] is not None else 0.5,
        "label": "logistic regression on the radial power spectrum, no shapes, "
        f"{n_folds} folds grouped by photograph",
    }
