"""Folds by image, and scores from correctors that have not seen the fold."""

import numpy as np

from raylabel.calibration import Detections, image_folds, out_of_fold_scores
from raylabel.calibration.correctors.class_bias import ClassBiasCorrector
from raylabel.calibration.correctors.folds import some_images
from simulated_detections import calibrated, context, simulated


def test_some_images_are_whole_and_no_more_than_asked() -> None:
    detections = simulated(0, 500, calibrated, num_images=40)
    drawn = some_images(detections, 100, seed=0)
    assert 50 < len(drawn) <= 100
    for image in np.unique(drawn.image_indices):
        assert (drawn.image_indices == image).sum() == (detections.image_indices == image).sum()
    assert len(some_images(detections, 500, seed=0)) == 500
    assert len(np.unique(some_images(detections, 1, seed=0).image_indices)) == 1


def test_folds_never_split_an_image() -> None:
    images = np.random.default_rng(0).integers(0, 23, 500)
    folds = image_folds(images, seed=3)
    assert set(folds) == set(range(5))
    assert all(len(set(folds[images == image])) == 1 for image in set(images))
    sizes = [len(set(images[folds == fold])) for fold in range(5)]
    assert max(sizes) - min(sizes) <= 1
    np.testing.assert_array_equal(folds, image_folds(images, seed=3))
    assert (folds != image_folds(images, seed=4)).any()


def test_out_of_fold_scores_never_see_their_fold() -> None:
    detections = simulated(0, 300, calibrated, num_images=20)
    folds = image_folds(detections.image_indices, seed=0)
    seen: list[set[int]] = []

    def fit(part: Detections) -> ClassBiasCorrector:
        seen.append(set(part.image_indices.tolist()))
        return ClassBiasCorrector.fit(part, context())

    scores = out_of_fold_scores(detections, folds, fit)
    for fold in range(5):
        held_out = detections.subset(folds == fold)
        assert not seen[fold] & set(held_out.image_indices.tolist())
        expected = ClassBiasCorrector.fit(detections.subset(folds != fold), context())(held_out)
        np.testing.assert_array_equal(scores[folds == fold], expected)
