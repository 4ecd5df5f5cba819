"""Outlines of masks, for formats that only have polygons."""

import numpy as np
from contourpy import contour_generator
from numpy.typing import NDArray


def mask_polygon(mask_HW: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Draw one closed polygon around all parts of a mask, without its holes.

    Cuts of zero width join parts and holes at their nearest points. Corners lose half a pixel, so very small masks
    shrink.

    Args:
        mask_HW: (H, W) bool.

    Returns:
        (P, 2) x, y in pixels; (0, 2) for an empty mask. The pixel in row r and column c covers [c, c + 1] x
        [r, r + 1]. The last point connects to the first.
    """
    # Padded, because contours must close at the border. Samples sit at pixel centres, hence 0.5 minus the padding.
    contours = contour_generator(z=np.pad(mask_HW.astype(np.float64), 1)).lines(0.5)
    rings = [_without_collinear(np.asarray(contour)[:-1] - 0.5) for contour in contours]
    if not rings:
        return np.zeros((0, 2))
    rings.sort(key=lambda ring: -abs(_signed_area(ring)))
    polygon = rings[0]
    for ring in rings[1:]:
        polygon = _joined(polygon, ring)
    return polygon


def _without_collinear(ring_P2: NDArray[np.float64]) -> NDArray[np.float64]:
    before, after = ring_P2 - np.roll(ring_P2, 1, axis=0), np.roll(ring_P2, -1, axis=0) - ring_P2
    return ring_P2[np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]) > 1e-9]


def _signed_area(ring_P2: NDArray[np.float64]) -> float:
    x, y = ring_P2.T
    return 0.5 * float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum())


def _joined(polygon_P2: NDArray[np.float64], ring_P2: NDArray[np.float64]) -> NDArray[np.float64]:
    distances = ((polygon_P2[:, None] - ring_P2[None]) ** 2).sum(axis=2)
    at, start = np.unravel_index(int(distances.argmin()), distances.shape)
    detour = np.roll(ring_P2, -int(start), axis=0)
    return np.concatenate([polygon_P2[: at + 1], detour, detour[:1], polygon_P2[at:]])
