"""Numbers about where a detector sees the defect.

Owns figures that compare a map of scores with a mask, pixel by pixel. Never scores an image as a whole (`metrics` does).

A map is judged at the size of the masks; `resized` brings a coarse one there. *PRO*, the per-region overlap, gives every
defect the same weight, however large: by pixels alone, a detector that finds the one big stain and misses ten scratches would
look excellent.

ref: Bergmann et al. 2021, "The MVTec Anomaly Detection Dataset", doi 10.1007/s11263-020-01400-4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import roc_auc_score

Maps = NDArray[np.float32]
Masks = NDArray[np.bool_]
LIMIT = 0.3
_NEIGHBOURS = np.ones((3, 3), dtype=int)


@dataclass(frozen=True, slots=True)
class Curve:
    """Mean overlap of the defects against the share of good pixels with an alarm, from the highest threshold down."""

    false_alarms: NDArray[np.float64]
    overlap: NDArray[np.float64]

    def area(self, limit: float = LIMIT) -> float:
        """Area under the curve up to a false-alarm rate, as a share of the most there could be.

        Raises:
            ValueError: the limit is not above 0 and at most 1.
        """
        if not 0.0 < limit <= 1.0:
            raise ValueError(f"A limit lies above 0 and is at most 1; this is {limit}.")
        inside = self.false_alarms < limit
        x = np.append(self.false_alarms[inside], limit)
        y = np.append(self.overlap[inside], np.interp(limit, self.false_alarms, self.overlap))
        return float(np.trapezoid(y, x) / limit)


def pro_curve(masks: Masks, maps: Maps) -> Curve:
    """Overlap with the defects at every threshold that makes a difference.

    Exact, and by one sort: going down through the scores, each defect pixel adds its share of its defect, each good pixel its
    share of all good pixels.

    Args:
        masks: pixels of the defects, `(n, h, w)`; pixels that touch, also by a corner, are one defect.
        maps: scores, same shape.

    Raises:
        ValueError: shapes differ, or there is no defect, or no good pixel.
    """
    _check(masks, maps)
    gain = np.zeros(masks.shape)
    regions = 0
    for image, mask in enumerate(masks):
        marked, found = ndimage.label(mask, structure=_NEIGHBOURS)
        sizes = np.bincount(marked.ravel(), minlength=found + 1)
        gain[image][mask] = 1.0 / sizes[marked[mask]]
        regions += found
    order = np.argsort(-maps, axis=None, kind="stable")
    scores, good = maps.ravel()[order], ~masks.ravel()[order]
    last_of_a_tie = np.append(np.diff(scores) != 0, True)
    overlap = np.cumsum(gain.ravel()[order])[last_of_a_tie] / regions
    alarms = np.cumsum(good)[last_of_a_tie] / good.sum()
    return Curve(np.concatenate([[0.0], alarms]), np.concatenate([[0.0], overlap]))


def pro(masks: Masks, maps: Maps, limit: float = LIMIT) -> float:
    """The area under `pro_curve` up to `limit` false alarms, 0 to 1; guessing gives half the limit."""
    return pro_curve(masks, maps).area(limit)


def auroc(masks: Masks, maps: Maps) -> float:
    """Chance that a pixel of a defect scores higher than a good one, both drawn at random."""
    _check(masks, maps)
    return float(roc_auc_score(masks.ravel(), maps.ravel()))


def resized(maps: Maps, size: tuple[int, int]) -> Maps:
    """Maps brought to another height and width; between the places of a coarse map, scores run evenly."""
    height, width = maps.shape[1:]
    if (height, width) == size:
        return maps
    # Place i of a coarse map stands for the middle of its patch, and not for its corner.
    y = (np.arange(size[0]) + 0.5) * height / size[0] - 0.5
    x = (np.arange(size[1]) + 0.5) * width / size[1] - 0.5
    at = np.meshgrid(y, x, indexing="ij")
    return np.stack([ndimage.map_coordinates(one, at, order=1, mode="nearest") for one in maps]).astype(np.float32)


def _check(masks: Masks, maps: Maps) -> None:
    if masks.shape != maps.shape or masks.ndim != 3:
        raise ValueError(f"Masks are {masks.shape} and maps {maps.shape}; both must be (images, height, width). See `resized`.")
    if not masks.any() or masks.all():
        raise ValueError("There must be pixels with a defect and pixels without.")
    if not np.isfinite(maps).all():
        raise ValueError("A map has a score that is not a number.")
