"""A calibration of five classes with generated outcomes, and names that a page must escape."""

import numpy as np

from raylabel.calibration import Corrector, Detections, FitContext, calibration_tables, fit_corrector
from raylabel.calibration.tables import CalibrationTables

NAMES = ["<script>alert('x')</script>", "red disc", "green disc", "blue disc", "grey & brown disc"]
GROUPS = ["r", "r", "c", "f", "f"]
NUM_TRAIN = [2, 7, 40, 150, 300]


def fitted_calibration(*, without: int | None = None) -> tuple[CalibrationTables, Corrector]:
    """Make tables of 600 overconfident detections on 40 images, and fit a temperature. Class `without` has none."""
    rng = np.random.default_rng(0)
    num = 600
    scores = rng.beta(1.2, 1.0, num)
    classes = rng.choice(5, num, p=[0.02, 0.05, 0.18, 0.3, 0.45])
    outcomes = (rng.random(num) < scores**2).astype(np.int8)
    outcomes[rng.random(num) < 0.2] = 2
    detections = Detections(
        num_classes=5,
        class_indices=classes.astype(np.int32),
        raw_scores=scores,
        image_indices=rng.integers(0, 40, num),
        outcomes=outcomes,
        weights=np.ones(num),
    )
    detections = detections.subset(classes != without)
    context = FitContext(num_bins=15, frequency_groups=np.array(GROUPS), similarity=None, seed=0)
    corrector = fit_corrector("temperature", detections, context=context)
    tables = calibration_tables(
        detections,
        corrector=corrector,
        context=context,
        image_ids=[f"{index}.jpg" for index in range(40)],
        class_names=NAMES,
        category_ids=np.arange(10, 15),
        num_train_images=np.array(NUM_TRAIN),
    )
    return tables, corrector
