"""Outlines of masks, for formats that only have polygons."""

import numpy as np
from contourpy import contour_generator
from numpy.typing import NDArray


def mask_polygon(mask_HW: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Draw one closed polygon around all parts of a mask, without its holes.

    Cuts of zero width join parts and holes at near points. A pixel belongs to the mask if and only if its centre lies
    inside the polygon by the even-odd rule. Corners lose half a pixel, so very small masks shrink.

    Args:
        mask_HW: (H, W) bool.

    Returns:
        (P, 2) x, y in pixels; (0, 2) for an empty mask. The pixel in row r and column c covers [c, c + 1] x
        [r, r + 1]. The last point connects to the first.
    """
    # Padded, because contours must close at the border. Samples sit at pixel centres, hence 0.5 minus the padding.
    contours = contour_generator(z=np.pad(mask_HW.astype(np.float64), 1)).lines(0.5)
    rings = [np.asarray(contour)[:-1] - 0.5 for contour in contours]
    if not rings:
        return np.zeros((0, 2))
    return _without_collinear(_joined(rings) if len(rings) > 1 else rings[0])


def _without_collinear(ring_P2: NDArray[np.float64]) -> NDArray[np.float64]:
    """Drop points on the straight way between their neighbours."""
    before, after = ring_P2 - np.roll(ring_P2, 1, axis=0), np.roll(ring_P2, -1, axis=0) - ring_P2
    cross = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    return ring_P2[(np.abs(cross) > 1e-9) | ((before * after).sum(axis=1) < 0)]


def _joined(rings: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Join rings to one by cuts that are walked there and back."""
    points_P2 = np.concatenate(rings)
    lengths = np.array([len(ring) for ring in rings])
    starts = np.cumsum(lengths) - lengths
    following = np.arange(1, len(points_P2) + 1)
    following[starts + lengths - 1] = starts
    cuts = _short_cuts(points_P2, np.repeat(np.arange(len(rings)), lengths))
    # Each cut from a to b copies both points: a, copy of b, the ring of b, b, copy of a, the rest of the ring of a.
    after, point_of = following.tolist(), [*range(len(points_P2)), *cuts[:, ::-1].ravel().tolist()]
    for a, b in cuts.tolist():
        copy_of_b, copy_of_a = len(after), len(after) + 1
        after += [after[b], after[a]]
        after[a], after[b] = copy_of_b, copy_of_a
    walk, place = [0], after[0]
    while place:
        walk.append(place)
        place = after[place]
    return points_P2[np.array(point_of)[walk]]


def _short_cuts(points_P2: NDArray[np.float64], ring_of_P: NDArray[np.int64]) -> NDArray[np.int64]:
    """Choose cuts that connect all rings, (num_rings - 1, 2) places of points.

    They are a minimum spanning tree over the cuts between neighbours in rows and in columns. The last point of a row
    and the first of the next count as neighbours too, so there is always such a tree.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import minimum_spanning_tree

    # Halves of pixels as small integers, because NumPy sorts those several times faster than floats.
    x, y = (2 * points_P2).astype(np.min_scalar_type(int(2 * points_P2.max()))).T
    orders = np.lexsort((x, y)), np.lexsort((y, x))
    cuts_C2 = np.concatenate([np.stack([order[:-1], order[1:]], axis=1) for order in orders])
    cuts_C2 = cuts_C2[ring_of_P[cuts_C2[:, 0]] != ring_of_P[cuts_C2[:, 1]]]
    lengths = np.hypot(*(points_P2[cuts_C2[:, 0]] - points_P2[cuts_C2[:, 1]]).T)
    by_length = np.argsort(lengths, kind="stable")
    cuts_C2, lengths = cuts_C2[by_length], lengths[by_length]
    pairs_C2 = np.sort(ring_of_P[cuts_C2], axis=1)
    num_rings = int(ring_of_P[-1]) + 1
    keys, shortest = np.unique(pairs_C2[:, 0] * num_rings + pairs_C2[:, 1], return_index=True)
    graph = coo_array((lengths[shortest], np.divmod(keys, num_rings)), shape=(num_rings, num_rings))
    tree = minimum_spanning_tree(graph.tocsr()).tocoo()
    return cuts_C2[shortest[np.searchsorted(keys, tree.row.astype(np.int64) * num_rings + tree.col)]]
