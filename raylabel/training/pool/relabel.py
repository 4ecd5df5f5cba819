"""Relabelling: the student's moving average labels pool images during training."""

import copy
from dataclasses import dataclass, replace

from torch import Tensor, nn

from raylabel.calibration import Corrector, Detections
from raylabel.config import MaskQuality
from raylabel.models.predict import predict_images
from raylabel.models.segmenter import Segmenter, Target
from raylabel.predictions.instances import Instances, instances_context
from raylabel.training.augment.views import Augment, strong_augmentation
from raylabel.training.batches import Batch
from raylabel.training.ema import MovingAverage
from raylabel.training.pool.choice import PoolChoice
from raylabel.training.pool.targets import PoolTargets


@dataclass(frozen=True, kw_only=True)
class Relabelling:
    """Settings under which predictions of the moving average replace the committed labels.

    Attributes:
        from_step: first step with new labels. Earlier steps learn from the committed labels.
        corrector: corrector of the run. It was fitted to the teacher that predicted the committed labels.
        choice, targets: same as for the committed labels.
        score_threshold, max_per_image, mask_quality: prediction settings, same as for the committed labels.
        augment: makes the student's view from the image that the average saw and the average's predictions.
    """

    from_step: int
    corrector: Corrector
    choice: PoolChoice
    targets: PoolTargets
    score_threshold: float
    max_per_image: int
    mask_quality: MaskQuality = "probability"
    augment: Augment = strong_augmentation


class Relabeller:
    """Relabels the pool images of batches with the current moving average.

    Args:
        relabelling: the settings of relabelling.
        segmenter: a model of the same architecture as the average.
        average: the moving average. It is not changed, and predictions follow its updates.
    """

    def __init__(self, relabelling: Relabelling, segmenter: Segmenter, average: MovingAverage) -> None:
        self._relabelling = relabelling
        teacher = copy.deepcopy(segmenter)
        assert isinstance(teacher, nn.Module)
        # assign=True shares the average's tensors, because the average updates them in place.
        teacher.load_state_dict(average.state, assign=True)
        self._teacher: Segmenter = teacher.eval()

    def __call__(self, batch: Batch, step: int) -> Batch:
        """Replace the pool targets and make the student's view. Before `from_step` the batch stays unchanged."""
        if step < self._relabelling.from_step or not batch.pool_images:
            return batch
        found = predict_images(
            self._teacher,
            batch.pool_images,
            score_threshold=self._relabelling.score_threshold,
            max_per_image=self._relabelling.max_per_image,
            mask_quality=self._relabelling.mask_quality,
        )
        device = batch.pool_images[0].device
        images: list[Tensor] = []
        targets: list[Target] = []
        for image, instances, rng in zip(batch.pool_images, found, batch.pool_rngs, strict=True):
            view, target = self._relabelling.augment(image.cpu(), self._target(instances), rng)
            images.append(view.to(device))
            targets.append(target.to(device))
        return replace(batch, pool_images=images, pool_targets=targets)

    def _target(self, instances: Instances) -> Target:
        how = self._relabelling
        detections = Detections.of_scores(
            instances.class_indices,
            instances.raw_scores,
            num_classes=how.choice.num_classes,
            context=instances_context(instances),
        )
        calibrated_scores = how.corrector(detections).astype("float32")
        return how.targets.of(instances, calibrated_scores, how.choice.keep_instances(instances, calibrated_scores))
