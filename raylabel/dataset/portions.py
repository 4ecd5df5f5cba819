"""Portions of an annotated set: a few of its images, in which rare classes are not lost."""

from decimal import Decimal
from heapq import heapify, heapreplace

import numpy as np
from numpy.typing import NDArray

from raylabel.dataset.annotated_set import AnnotatedSet
from raylabel.dataset.splits import unit_hash


def portion_rows(annotated: AnnotatedSet, fraction: float, seed: int) -> NDArray[np.int64]:
    """Choose the images of a portion of a set.

    Images are taken one by one. The next image shows the class that is furthest behind: the class c with the smallest
    share k_c / n_c, if k_c of its n_c images are taken; of equal classes the rarest. So every class gets an image
    before any class is given a second one, and all classes have nearly equal shares once the portion is large enough.
    Images without a class count as one more class, the last of equal ones. A hash of image id and seed chooses among
    the images of a class.

    A smaller portion with the same seed is part of a larger one. The choice depends on neither the order of images nor
    that of annotations. Crowd regions do not count.

    Args:
        annotated: the whole set.
        fraction: share of the images, in (0, 1).
        seed: another seed gives another portion.

    Returns:
        The sorted rows of the portion's images, `fraction` of all, rounded down. A portion with as many images as the
        set has classes shows every class that the set shows.

    Source: the order in which a class gets its images is Adams's divisor method of apportionment, which gives every
        state a seat, and takes none away when seats are added (Balinski and Young, Fair Representation, 1982). To
        choose images for the rarest class first is iterative stratification: Sechidis, Tsoumakas and Vlahavas, On the
        Stratification of Multi-Label Data, ECML PKDD 2011 (doi 10.1007/978-3-642-23808-6_10).
    """
    num_images, lists = len(annotated), annotated.annotated_class_lists
    num_chosen = int(Decimal(str(fraction)) * num_images)  # because 0.29 * 100 is below 29
    without = np.flatnonzero(np.diff(lists.starts) == 0)
    rows = np.concatenate([lists.rows, without])
    classes = np.concatenate([lists.values, np.full(len(without), annotated.num_classes)])
    hashes = np.array([unit_hash(image_id, seed) for image_id in annotated.images.ids()])
    by_class = rows[np.lexsort((hashes[rows], classes))].data
    by_image = classes[np.argsort(rows, kind="stable")].data
    ends = np.cumsum(np.bincount(rows, minlength=num_images)).data
    nums = np.bincount(classes, minlength=annotated.num_classes + 1)
    places, nums, taken = (np.cumsum(nums) - nums).tolist(), nums.tolist(), [0] * len(nums)
    is_chosen = bytearray(num_images)
    # A share in the heap may be too low, because images were taken for other classes meanwhile.
    shares = [(0.0, num if one < annotated.num_classes else num_images, one) for one, num in enumerate(nums) if num]
    heapify(shares)
    while num_chosen:
        known, rank, one = shares[0]
        if known == taken[one] / nums[one]:
            while is_chosen[row := by_class[places[one]]]:
                places[one] += 1
            is_chosen[row] = True
            num_chosen -= 1
            for of_image in by_image[ends[row - 1] if row else 0 : ends[row]]:
                taken[of_image] += 1
        heapreplace(shares, (taken[one] / nums[one], rank, one))
    return np.flatnonzero(np.frombuffer(is_chosen, dtype=bool))
