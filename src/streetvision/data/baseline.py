"""What colour alone says about the labels: a data set that a histogram can solve is a toy, or leaks."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from streetvision import imaging
from streetvision.data.manifest import Manifest, Picture
from streetvision.errors import DataError

BINS = 8  # for each of three channels
_STRENGTH = 100.0  # of the ridge on standardised features
_STEPS = 8
_MOST = 600  # pictures; more say the same
_THUMBNAIL_PX = (160, 90)


def colour_baseline(
    manifest: Manifest, pictures: Sequence[Picture] | None = None, *, hsv: bool = False, folds: int = 5
) -> float:
    """Accuracy in [0, 1] of a logistic regression on colour histograms, cross-validated over groups.

    Args:
        manifest: where the pictures lie.
        pictures: which of them, with both labels; all by default.
        hsv: bin hue, saturation and value instead of red, green and blue.
        folds: how many parts the groups are dealt into.

    Raises:
        DataError: a picture is missing or altered, or all are of one group.
        ImageError: a picture cannot be decoded.
    """
    rows = manifest.pictures if pictures is None else pictures
    rows = rows[:: -(-len(rows) // _MOST)]  # in order of their sha256, so any part is a fair one
    features = np.stack([_histogram(manifest, picture, hsv=hsv) for picture in rows])
    labels = np.array([picture.label for picture in rows], dtype=np.float64)
    _, group = np.unique([picture.group for picture in rows], return_inverse=True)
    folds = min(folds, int(group.max()) + 1)
    if folds < 2:
        raise DataError("a baseline needs pictures of two groups, found one")
    fold = np.random.default_rng(0).permutation(group.max() + 1)[group] % folds
    right = 0
    for held_out in range(folds):
        train, test = fold != held_out, fold == held_out
        mean, sd = features[train].mean(axis=0), features[train].std(axis=0) + 1e-9
        weights = _fit((features[train] - mean) / sd, labels[train])
        logits = np.column_stack([np.ones(test.sum()), (features[test] - mean) / sd]) @ weights
        right += int(((logits > 0) == (labels[test] == 1)).sum())
    return right / len(rows)


def _histogram(manifest: Manifest, picture: Picture, *, hsv: bool) -> NDArray[np.float64]:
    image = imaging.decode(manifest.read_bytes(picture), limit_px=imaging.DECODE_LIMIT_MAX_PX)
    pixels = cv2.resize(image, _THUMBNAIL_PX, interpolation=cv2.INTER_AREA)
    if hsv:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)
    ranges = [0, 180 if hsv else 256, 0, 256, 0, 256]
    counts = cv2.calcHist([pixels], [0, 1, 2], None, [BINS] * 3, ranges).ravel()
    return np.sqrt(counts / counts.sum()).astype(np.float64)


def _fit(features: NDArray[np.float64], labels: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64[1+F], intercept first: ridge logistic regression by Newton's steps."""
    x = np.column_stack([np.ones(len(features)), features])
    ridge = np.full(x.shape[1], _STRENGTH)
    ridge[0] = 1e-6
    weights = np.zeros(x.shape[1])
    for _ in range(_STEPS):
        probability = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
        curvature = np.maximum(probability * (1 - probability), 1e-6)
        gradient = x.T @ (labels - probability) - ridge * weights
        weights += np.linalg.solve((x.T * curvature) @ x + np.diag(ridge), gradient)
    return weights
